"""Values that callers and providers exchange."""

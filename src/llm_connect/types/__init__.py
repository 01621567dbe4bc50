"""Values that callers and adapters exchange: amounts, usage, responses and chunks."""

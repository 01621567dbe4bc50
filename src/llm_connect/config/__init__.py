"""Configuration: from names to adapters. The layer that changes most easily and that nothing depends on."""

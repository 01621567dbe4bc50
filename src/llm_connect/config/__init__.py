"""Configuration: from names to adapters. This layer may change most easily, and nothing depends on it."""

"""Budgets in a Redis or Valkey server."""

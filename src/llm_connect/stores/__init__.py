"""Stores that keep one budget for several processes."""

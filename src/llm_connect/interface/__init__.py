"""What callers use, and what the authors of adapters write against."""

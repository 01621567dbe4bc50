"""The one call path: written once, without I/O, and run by two thin runners."""

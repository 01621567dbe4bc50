"""The one way a call is made: written once, without I/O, and driven by two thin drivers."""

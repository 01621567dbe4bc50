"""What each provider's wire format means: pure functions over plain JSON, without I/O.

A protocol renders a request body, bounds what it may cost and parses a reply. It never knows who carries it.
"""

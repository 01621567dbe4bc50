"""The providers' wire formats: pure functions over plain JSON, without I/O.

A protocol renders a request body, bounds its cost and parses a reply. It never knows who sends it.
"""

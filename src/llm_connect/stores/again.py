"""The exception by which a step asks to be decided again."""


class Again(Exception):
    """Conflict: the decision was based on stale state, or on too few trackers."""

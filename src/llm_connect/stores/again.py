"""The signal that a step has to be decided once more."""


class Again(Exception):
    """A step was decided on a state that is out of date, or on too few trackers."""

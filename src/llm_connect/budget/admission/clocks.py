"""The clock by which windows move that are not kept elsewhere."""

from __future__ import annotations

import time

from llm_connect.budget.accounting.windows import Clock

#: The wall clock.
now: Clock = time.time


def wall_clock() -> float:
    """The clock of windows that are not kept elsewhere, whose clock they go by there."""
    return now()

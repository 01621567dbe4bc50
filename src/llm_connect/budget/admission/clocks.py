"""The default clock of windows."""

from __future__ import annotations

import time

from llm_connect.budget.accounting.windows import Clock

#: The wall clock, which tests replace.
now: Clock = time.time


def wall_clock() -> float:
    """The clock of windows in memory and in a file; a server has a clock of its own."""
    return now()

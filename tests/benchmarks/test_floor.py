"""The floor of a tracker, with which the performance of ours is compared."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.performance.inlined_tracker import InlinedTracker
from llm_connect import BudgetTracker


@pytest.mark.parametrize("depth", [1, 3])
def test_the_floor_books_what_a_tracker_books(depth: int) -> None:
    """A floor that did less than a tracker would be too low."""
    ours = BudgetTracker(1_000)
    for number in range(1, depth):
        ours = ours.child(f"level {number}", 1_000)
    assert booked(InlinedTracker(1_000, depth)) == booked(ours)


def booked(tracker: Any) -> list[tuple[int, int]]:
    """The held and spent figures of all accounts with one hold open and one settled."""
    settled, kept = tracker.reserve(10), tracker.reserve(20)
    settled.dispatch()
    settled.settle(5)
    figures = [(account.held, account.spent) for unit in tracker.accounts.units for account in unit]
    kept.dispatch()
    kept.settle(20)
    return figures

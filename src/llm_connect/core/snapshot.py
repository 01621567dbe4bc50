"""The figures of a budget at one moment."""

from __future__ import annotations

from dataclasses import dataclass

from llm_connect.core.units import Amount


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetSnapshot:
    """One consistent view of a tracker; it does not change.

    snapshot = tracker.snapshot()
    print(snapshot.spent.tokens, snapshot.held.tokens, snapshot.waiting)

    total: the limits in tokens, calls and nano-USD, None where there is none.
    spent, held: what is spent, and what open holds keep; presumed: the part of `spent` that was booked without
        knowing the outcome.
    waiting: callers that wait on this tracker or below it.
    """

    path: str
    total: tuple[int | None, int | None, int | None]
    spent: Amount
    held: Amount
    presumed: Amount
    waiting: int
    breached: bool
    closed: bool

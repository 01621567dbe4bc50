"""The figures of a budget at one moment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

from llm_connect.budget.accounting.calibration import LearnedFactor
from llm_connect.budget.accounting.periods import Period
from llm_connect.types.amounts import Amount


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetSnapshot:
    """One consistent view of a tracker; it does not change.

    snapshot = tracker.snapshot()
    print(snapshot.spent.tokens, snapshot.held.tokens, snapshot.waiting)

    total, total_calls, total_usd: the limits in tokens, calls and USD, as of the tracker; None where there is none.
    spent, held: what is spent, and what open holds keep, each in tokens, calls and USD (`spent_calls`, `held_usd` and
        so on, as the tracker has them); presumed: the part of `spent` that was booked without knowing the outcome.
        sliced: what open slices below have set aside and neither spent nor held.
    waiting: callers that wait on this tracker or below it.
    period: how often the limits begin anew, and opens_at: when the next of what is spent leaves the window, in seconds
        since the epoch; both None for limits that are for good.
    learned: by how much bounds are raised after overruns in this tree, by adapter and requested model.
    """

    path: str
    total: int | None
    total_calls: int | None
    total_usd: Decimal | None
    spent: Amount
    held: Amount
    presumed: Amount
    sliced: Amount
    waiting: int
    breached: bool
    closed: bool
    learned: Mapping[tuple[str | None, str | None], LearnedFactor]
    period: Period | None = None
    opens_at: float | None = None

    @property
    def spent_calls(self) -> int:
        return self.spent.calls

    @property
    def spent_usd(self) -> Decimal:
        return self.spent.usd

    @property
    def held_calls(self) -> int:
        return self.held.calls

    @property
    def held_usd(self) -> Decimal:
        return self.held.usd

"""The figures of a budget at one moment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from llm_connect.budget.accounting.windows import Period
from llm_connect.types.amounts import Amount


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetSnapshot:
    """A consistent view of a tracker at one moment, immutable.

    snapshot = tracker.snapshot()
    print(snapshot.spent.tokens, snapshot.held.tokens, snapshot.waiting)

    total, total_calls, total_usd: the limits in tokens, calls and USD; None for no limit.
    spent, held: the booked amounts and the open holds, each in tokens, calls and USD (`spent_calls`, `held_usd` and so
        on, as on the tracker).
    presumed: the part of `spent` that was booked without knowing the outcome.
    allotted: the amount that open allotments below have set aside and neither spent nor held.
    waiting: the number of callers that wait on this tracker or below it.
    breached: True if the spend exceeds a limit. closed: True if this tracker or one above it is closed.
    period: the interval after which the limits start over; None if they never do.
    opens_at: the time at which spend next leaves the window, in seconds since the epoch; None without a period.
    learned: deprecated, and without a promise: how bounds are raised after overruns, by adapter and requested model.
    """

    path: str
    total: int | None
    total_calls: int | None
    total_usd: Decimal | None
    spent: Amount
    held: Amount
    presumed: Amount
    allotted: Amount
    waiting: int
    breached: bool
    closed: bool
    period: Period | None = None
    opens_at: float | None = None
    learned: Mapping[tuple[str | None, str | None], object] = field(default_factory=dict, repr=False)

    @property
    def sliced(self) -> Amount:
        """Deprecated: `allotted`."""
        return self.allotted

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

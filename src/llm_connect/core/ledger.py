"""What became of every attempt: one entry each, which add up to what is spent."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Literal, TypeAlias

from llm_connect.core.demand import Grade
from llm_connect.core.units import NOTHING, Amount
from llm_connect.core.usage import Usage

#: How an attempt ended. `recorded` was booked without a hold; `corrected` amends an earlier entry.
Outcome: TypeAlias = Literal["settled", "released", "presumed", "recorded", "corrected"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerEntry:
    """One line of the ledger.

    amount: what it added to `spent`; nothing for a released hold, below 0 for a correction downwards.
    bound: what was held, with the `grade` of that bound.
    cost: USD by `cost_source`; None when it is not known, and then `amount` holds the USD that was held.
    reserved_at, ended_at: seconds since the epoch.
    corrects: the id of the entry that this one amends.
    """

    id: int
    tracker: str
    outcome: Outcome
    amount: Amount
    bound: Amount
    grade: Grade = "proven"
    adapter: str | None = None
    model: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    usage: Usage | None = None
    cost: Decimal | None = None
    cost_source: str | None = None
    reserved_at: float
    ended_at: float
    corrects: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data that `json.dumps` takes; money as text, so that no digit is lost."""
        return {
            "id": self.id,
            "tracker": self.tracker,
            "outcome": self.outcome,
            "tokens": self.amount.tokens,
            "calls": self.amount.calls,
            "usd": f"{self.amount.usd:f}",
            "bound": {"tokens": self.bound.tokens, "calls": self.bound.calls, "usd": f"{self.bound.usd:f}"},
            "grade": self.grade,
            "adapter": self.adapter,
            "model": self.model,
            "labels": dict(self.labels),
            "usage": None if self.usage is None else self.usage.to_dict(),
            "cost": None if self.cost is None else f"{self.cost:f}",
            "cost_source": self.cost_source,
            "reserved_at": datetime.fromtimestamp(self.reserved_at, UTC).isoformat(),
            "ended_at": datetime.fromtimestamp(self.ended_at, UTC).isoformat(),
            "corrects": self.corrects,
        }


class Ledger:
    """The last entries of a tree of trackers, oldest first, and the sum of all that were before them.

        for entry in tracker.ledger:
            print(entry.adapter, entry.outcome, entry.amount.tokens)

    `earlier` plus the amounts of the entries is what the root tracker has spent, always. Iterating gives the entries
    of one moment; it may go on while calls are made.
    """

    def __init__(self, keep: int) -> None:
        self._entries: deque[LedgerEntry] = deque()
        self._keep = keep
        self.earlier: Amount = NOTHING

    def append(self, entry: LedgerEntry) -> None:
        """Add an entry; its caller holds the lock of the tree."""
        self._entries.append(entry)
        if len(self._entries) > self._keep:
            self.earlier = self.earlier.plus(self._entries.popleft().amount)

    def __iter__(self) -> Iterator[LedgerEntry]:
        return iter(self._entries.copy())

    def __len__(self) -> int:
        return len(self._entries)

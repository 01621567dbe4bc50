"""What a reservation asks for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from llm_connect.core.accounts import Path, fits
from llm_connect.core.price import Price
from llm_connect.core.units import Amount

#: How sure an upper bound is: proven, estimated, or none at all.
Grade: TypeAlias = Literal["proven", "estimated", "unbounded"]


@dataclass(frozen=True, slots=True)
class Demand:
    """An amount that a call may need at most.

    With an output limit that may be smaller (`least` below `most`), the amount is a function of the limit.
    """

    amount: Amount
    most: int | None = None
    least: int | None = None
    at: Callable[[int], Amount] | None = None

    @property
    def smallest(self) -> Amount:
        """The amount at the smallest output limit."""
        return self.amount if self.at is None or self.least is None else self.at(self.least)

    def fitting(self, path: Path) -> tuple[Amount, int | None] | None:
        """The largest amount that fits now, with its output limit; None when not even the smallest does."""
        if fits(path, self.amount):
            return self.amount, self.most
        if self.at is None or self.least is None or self.most is None or not fits(path, self.at(self.least)):
            return None
        limit = _largest(self.least, self.most, lambda limit: fits(path, self.at(limit)))  # type: ignore[misc]
        return self.at(limit), limit


@dataclass(frozen=True, slots=True, kw_only=True)
class CallFacts:
    """What the ledger remembers of a call beside its figures."""

    adapter: str | None = None
    model: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    grade: Grade = "proven"
    price: Price | None = None


def _largest(low: int, high: int, good: Callable[[int], bool]) -> int:
    """The largest number from `low` to `high` that is good, when all below a good one are."""
    while low < high:
        middle = (low + high + 1) // 2
        if good(middle):
            low = middle
        else:
            high = middle - 1
    return low

"""What became of all attempts together: sums that are kept for good, in flat memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

from llm_connect.core.units import NOTHING, Amount

if TYPE_CHECKING:
    from llm_connect.core.holds import Hold
    from llm_connect.core.ledger import LedgerEntry

#: By what totals are asked.
By: TypeAlias = Literal["tracker", "adapter", "model", "label"]
#: The name under which those come that are beyond the most that are kept apart.
OTHERS = "(others)"
_MOST_KINDS = 4_000
_MOST_LABELS = 1_000
#: The path of a tracker, an adapter's name and a model's.
Kind: TypeAlias = tuple[str, str | None, str | None]


class Total(NamedTuple):
    """How many entries of the ledger there were, and what they added to `spent`."""

    entries: int = 0
    amount: Amount = NOTHING

    def plus(self, entries: int, amount: Amount) -> Total:
        return Total(self.entries + entries, self.amount.plus(amount))


class Totals:
    """Sums over entries, by tracker, adapter and model together, and by label."""

    def __init__(self) -> None:
        self._kinds: dict[Kind, list[int]] = {}
        self._labels: dict[str, list[int]] = {}

    def copy(self) -> Totals:
        other = Totals()
        other._kinds = {key: sums.copy() for key, sums in self._kinds.items()}
        other._labels = {key: sums.copy() for key, sums in self._labels.items()}
        return other

    def add(self, lines: Iterable[LedgerEntry | Hold]) -> Totals:
        """Count these lines in, and return the totals."""
        for line in lines:
            amount = line.amount
            _add(self._of_kind(line.kind), amount)
            for name, value in line.labels.items():
                _add(self._of_label(f"{name}={value}"), amount)
        return self

    def _of_kind(self, kind: Kind) -> list[int]:
        sums = self._kinds.get(kind)
        if sums is None:
            key = kind if len(self._kinds) < _MOST_KINDS else (OTHERS, OTHERS, OTHERS)
            sums = self._kinds.setdefault(key, [0, 0, 0, 0])
        return sums

    def _of_label(self, label: str) -> list[int]:
        sums = self._labels.get(label)
        if sums is None:
            key = label if len(self._labels) < _MOST_LABELS else OTHERS
            sums = self._labels.setdefault(key, [0, 0, 0, 0])
        return sums

    @property
    def sum(self) -> Amount:
        """All of it."""
        return Amount(*(sum(sums[place] for sums in self._kinds.values()) for place in (1, 2, 3)))

    def by(self, what: By) -> dict[str, Total]:
        """The sums by one thing; what was not said is ""."""
        totals: dict[str, Total] = {}
        for name, (entries, *amount) in self._by(what):
            totals[name] = totals.get(name, Total()).plus(entries, Amount(*amount))
        return totals

    def _by(self, what: By) -> Iterator[tuple[str, list[int]]]:
        if what == "label":
            return iter(self._labels.items())
        place = ("tracker", "adapter", "model").index(what)
        return ((kind[place] or "", sums) for kind, sums in self._kinds.items())


def _add(sums: list[int], amount: Amount) -> None:
    sums[0] += 1
    sums[1] += amount[0]
    sums[2] += amount[1]
    sums[3] += amount[2]

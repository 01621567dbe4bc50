"""What became of all attempts together: sums that are kept for good, in flat memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from operator import add
from typing import Literal, NamedTuple, TypeAlias

from llm_connect.core.units import NOTHING, Amount

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

    def add(self, kind: Kind, labels: Mapping[str, str], amount: Amount) -> None:
        """Count an entry in."""
        tokens, calls, nano_usd = amount
        sums = self._kinds.get(kind) or self._new_kind(kind)
        sums[0] += 1
        sums[1] += tokens
        sums[2] += calls
        sums[3] += nano_usd
        if labels:
            self._add_labels(labels, amount)

    def _add_labels(self, labels: Mapping[str, str], amount: Amount) -> None:
        for name, value in labels.items():
            sums = self._of_label(f"{name}={value}")
            sums[:] = map(add, sums, (1, *amount))

    def _new_kind(self, kind: Kind) -> list[int]:
        key = kind if len(self._kinds) < _MOST_KINDS else (OTHERS, OTHERS, OTHERS)
        return self._kinds.setdefault(key, [0, 0, 0, 0])

    def _of_label(self, label: str) -> list[int]:
        key = label if label in self._labels or len(self._labels) < _MOST_LABELS else OTHERS
        return self._labels.setdefault(key, [0, 0, 0, 0])

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

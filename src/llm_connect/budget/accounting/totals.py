"""Totals of all entries ever made, kept in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple, TypeAlias

from llm_connect.types.amounts import NOTHING, Amount

#: The keys by which totals can be read.
By: TypeAlias = Literal["tracker", "adapter", "model", "label"]
#: The name that collects all entries beyond the number that is kept apart.
OTHERS = "(others)"
_MOST_KINDS = 4_000
_MOST_LABELS = 1_000
#: The path of a tracker, the name of an adapter, and of a model.
Kind: TypeAlias = tuple[str, str | None, str | None]


class Total(NamedTuple):
    """A number of ledger entries, and the sum of their amounts.

    total = tracker.ledger.totals("model")["gpt-4.1-mini"]
    print(total.entries, total.amount.usd)
    """

    entries: int = 0
    amount: Amount = NOTHING

    def plus(self, entries: int, amount: Amount) -> Total:
        return Total(self.entries + entries, self.amount.plus(amount))


#: The number of entries, and the sum of each unit.
Sums: TypeAlias = tuple[int, int, int, int]
#: The new sums of an entry's kind and of its labels.
Posting: TypeAlias = "tuple[Kind, Sums, dict[str, Sums] | None]"
_NONE: Sums = (0, 0, 0, 0)


class Totals:
    """Sums over entries: by the combination of tracker, adapter and model, and by label."""

    def __init__(self) -> None:
        #: The sums by kind; every new value comes from `posting`.
        self.kinds: dict[Kind, Sums] = {}
        self._labels: dict[str, Sums] = {}

    def posting(self, kind: Kind, labels: Mapping[str, str], amount: Amount) -> Posting:
        """Compute the sums after a further entry, and change nothing."""
        sums = self.kinds.get(kind)
        if sums is None:
            kind = kind if len(self.kinds) < _MOST_KINDS else (OTHERS, OTHERS, OTHERS)
            sums = self.kinds.get(kind, _NONE)
        entries, tokens, calls, nano_usd = sums
        of_labels = self._of_labels(labels, amount) if labels else None
        return kind, (entries + 1, tokens + amount[0], calls + amount[1], nano_usd + amount[2]), of_labels

    def post_labels(self, after: dict[str, Sums]) -> None:
        """Set the sums of these labels."""
        self._labels.update(after)

    def _of_labels(self, labels: Mapping[str, str], amount: Amount) -> dict[str, Sums]:
        after: dict[str, Sums] = {}
        for name, value in labels.items():
            label = f"{name}={value}"
            if label not in self._labels and len(self._labels.keys() | after.keys()) >= _MOST_LABELS:
                label = OTHERS
            entries, tokens, calls, nano_usd = after.get(label) or self._labels.get(label, _NONE)
            after[label] = (entries + 1, tokens + amount[0], calls + amount[1], nano_usd + amount[2])
        return after

    @property
    def sum(self) -> Amount:
        """The sum of all entries."""
        return Amount(*(sum(sums[index] for sums in self.kinds.values()) for index in (1, 2, 3)))

    def by(self, what: By) -> dict[str, Total]:
        """The sums by one key; a missing adapter, model or label is ""."""
        totals: dict[str, Total] = {}
        for name, (entries, *amount) in self._by(what):
            totals[name] = totals.get(name, Total()).plus(entries, Amount(*amount))
        return totals

    def _by(self, what: By) -> Iterator[tuple[str, Sums]]:
        if what == "label":
            return iter(self._labels.items())
        index = ("tracker", "adapter", "model").index(what)
        return ((kind[index] or "", sums) for kind, sums in self.kinds.items())

"""What became of all attempts together: sums that are kept for good, in flat memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple, TypeAlias

from llm_connect.types.amounts import NOTHING, Amount

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


#: How many entries, and how much of each unit.
Sums: TypeAlias = tuple[int, int, int, int]
#: What a further entry makes of the sums of its kind, and of those of its labels.
Posting: TypeAlias = "tuple[Kind, Sums, dict[str, Sums] | None]"
_NONE: Sums = (0, 0, 0, 0)


class Totals:
    """Sums over entries, by tracker, adapter and model together, and by label."""

    def __init__(self) -> None:
        #: By kind; whoever sets one has it from `posting`.
        self.kinds: dict[Kind, Sums] = {}
        self._labels: dict[str, Sums] = {}

    def posting(self, kind: Kind, labels: Mapping[str, str], amount: Amount) -> Posting:
        """What counting an entry in comes to; it changes nothing yet."""
        sums = self.kinds.get(kind)
        if sums is None:
            kind = kind if len(self.kinds) < _MOST_KINDS else (OTHERS, OTHERS, OTHERS)
            sums = self.kinds.get(kind, _NONE)
        entries, tokens, calls, nano_usd = sums
        of_labels = self._of_labels(labels, amount) if labels else None
        return kind, (entries + 1, tokens + amount[0], calls + amount[1], nano_usd + amount[2]), of_labels

    def post_labels(self, after: dict[str, Sums]) -> None:
        """Let the sums of labels be so."""
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
        """All of it."""
        return Amount(*(sum(sums[place] for sums in self.kinds.values()) for place in (1, 2, 3)))

    def by(self, what: By) -> dict[str, Total]:
        """The sums by one thing; what was not said is ""."""
        totals: dict[str, Total] = {}
        for name, (entries, *amount) in self._by(what):
            totals[name] = totals.get(name, Total()).plus(entries, Amount(*amount))
        return totals

    def _by(self, what: By) -> Iterator[tuple[str, Sums]]:
        if what == "label":
            return iter(self._labels.items())
        place = ("tracker", "adapter", "model").index(what)
        return ((kind[place] or "", sums) for kind, sums in self.kinds.items())

"""The ledger: one entry for each booking; together they add up to `spent`."""

from __future__ import annotations

import itertools
import json
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from functools import reduce
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, Self, TypeAlias, TypeVar, get_args

from llm_connect.budget.accounting.bounds import Grade
from llm_connect.errors import LLMConfigurationError
from llm_connect.types.amounts import NOTHING, Amount
from llm_connect.types.usage import Usage

if TYPE_CHECKING:
    from llm_connect.budget.accounting.accounts import Scope
    from llm_connect.budget.accounting.journal import Plan

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
_NONE: Sums = (0, 0, 0, 0)


T = TypeVar("T")

#: How an attempt ended. Three more kinds: `recorded` was booked without a hold, `corrected` amends an earlier entry,
#: and `expired` moves spend out of the window of its tracker.
Outcome: TypeAlias = Literal["settled", "released", "presumed", "recorded", "corrected", "expired"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerEntry:
    """One booking, immutable: an attempt, a `record`, a correction or an expiry.

        entry = tracker.record(1_200, model="gpt-4.1-mini")
        print(entry.id, entry.outcome, entry.amount.tokens)

    tracker: the path of the tracker on which it was booked.
    amount: the tokens, calls and nano-USD that it added to `spent`; 0 for a released hold, negative for a correction
        downwards. Spend that expires makes two entries, because the trackers above keep it: a negative one for its
        tracker, and a positive one for that tracker's parent.
    bound, grade: the amount that was held, and the reliability of that bound.
    cost: USD, according to `cost_source`; None if unknown, and then `amount` has the USD that were held.
    request_id: the provider's id of the request; None if unknown.
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
    request_id: str | None = None
    reserved_at: float
    ended_at: float
    corrects: int | None = None

    def to_json(self) -> str:
        """The entry as one line of JSON, without a line break at its end."""
        return json.dumps(self.to_dict(), ensure_ascii=False)

    def to_dict(self) -> dict[str, Any]:
        """The entry as data for `json.dumps`. Money is text, so no digit is lost; times are ISO 8601 in UTC."""
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
            "request_id": self.request_id,
            "reserved_at": datetime.fromtimestamp(self.reserved_at, UTC).isoformat(),
            "ended_at": datetime.fromtimestamp(self.ended_at, UTC).isoformat(),
            "corrects": self.corrects,
        }


class Ended(Protocol):
    """A hold that has ended; it makes its entry when somebody reads the ledger."""

    @property
    def entry_id(self) -> int: ...
    @property
    def amount(self) -> Amount: ...
    @property
    def entry(self) -> LedgerEntry | None: ...


class Run(Protocol):
    """Calls a function under the lock of the tree, after repairing an interrupted operation."""

    def __call__(self, step: Callable[..., T], *args: Any) -> T: ...


class Entries(Protocol):
    """Keeps the entries of a budget, in memory or in a store. The books write them; the ledger shows them."""

    #: The ids of new entries.
    ids: Iterator[int]
    #: The latest entries in memory; an ended hold stands for the entry that it will make.
    lines: deque[LedgerEntry | Ended]
    #: The sums by kind in memory; every new value comes from `posting`.
    kinds: dict[Kind, Sums]

    # Writing; the caller holds the lock of the tree. A method that has a body here does this in memory.

    def number(self) -> int:
        """An id above all past entries, and below all future ones."""
        ...

    def posting(self, tracker: Scope, kind: Kind, labels: Mapping[str, str], amount: Amount, presumed: Amount) -> Any:
        """Prepare the argument of `post` for a further entry of `tracker`."""

    def post(self, line: LedgerEntry | Ended, posting: Any) -> None:
        """Add an entry or an ended hold, unless it is the last one already."""

    def touch(self, tracker: Scope) -> None:
        """Note that a booking without a hold is about to change `tracker` and those above it."""
        return

    def leave(self, tracker: Scope, spent: Amount, presumed: Amount) -> None:
        """Note that these figures are about to leave the window of `tracker`."""
        return

    def post_expiry(self, plan: Plan, entry: LedgerEntry) -> None:
        """Plan to add an entry about spend that has left a window; the totals keep that spend."""

    def presume(self, entry_id: int, hold: Ended) -> None:
        """Keep the hold of a presumption, until it is corrected."""

    def find(self, entry_id: int) -> Any:
        """The ended hold of an entry that can be corrected: it is presumed or settled, and not corrected yet."""

    def correct(self, entry_id: int) -> None:
        """Note that an entry that `find` has found is corrected."""

    # Reading.

    def totals(self, by: By) -> dict[str, Total]: ...
    @property
    def earlier(self) -> Amount: ...
    def __iter__(self) -> Iterator[LedgerEntry]: ...
    def __len__(self) -> int: ...


class Ledger:
    """The latest entries of a tree of trackers, oldest first, and totals of all entries ever made.

        for entry in tracker.ledger:
            print(entry.adapter, entry.outcome, entry.amount.tokens)
        print(tracker.ledger.totals("model")["gpt-4.1-mini"].amount.tokens)

    Guaranteed: `earlier` plus the amounts of all kept entries is the `spent` of the root tracker. Iterating yields the
    entries of one moment, and calls may end meanwhile.
    """

    def __init__(self, entries: Entries) -> None:
        self._entries = entries

    def totals(self, by: By) -> dict[str, Total]:
        """The number of entries ever made and the sum of their amounts, by "tracker", "adapter", "model" or "label".

            tracker.ledger.totals("label")["agent=planner"].amount.usd

        A tracker is named by its path, a label as `name=value`; entries without an adapter, a model or a label count
        under "". Spend that has left a window is included. The ledger keeps at most 4,000 combinations of tracker,
        adapter and model apart, and 1,000 labels; the rest counts under "(others)".

        Raises LLMConfigurationError for any other `by`.
        """
        if by not in get_args(By):
            raise LLMConfigurationError(f"totals() accepts tracker, adapter, model or label, not {by!r}.")
        return self._entries.totals(by)

    def json_lines(self) -> Iterator[str]:
        """The kept entries as lines of JSON, as `JsonLinesSink` writes them."""
        return (entry.to_json() for entry in self)

    @property
    def earlier(self) -> Amount:
        """The sum of all entries that are no longer kept."""
        return self._entries.earlier

    def __iter__(self) -> Iterator[LedgerEntry]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


class KeptEntries(Entries):
    """Keeps the last `keep` entries in memory, and the sums of all."""

    def __init__(self, keep: int, run: Run) -> None:
        self.ids: Iterator[int] = itertools.count(1)
        self.lines: deque[LedgerEntry | Ended] = deque(maxlen=keep)
        self.kinds: dict[Kind, Sums] = {}
        self._run = run
        self._labels: dict[str, Sums] = {}
        #: The spend that has left the root's window, as a negative amount; a child's spend stays on its parent.
        self.expired: Amount = NOTHING
        self._presumed: dict[int, Ended] = {}
        #: The ids of settled entries that were corrected, as long as they are kept.
        self._amended: set[int] = set()

    def number(self) -> int:
        return next(self.ids)

    def posting(self, tracker: Scope, kind: Kind, labels: Mapping[str, str], amount: Amount, presumed: Amount) -> Any:
        """Compute the sums after a further entry, and change nothing."""
        if kind not in self.kinds and len(self.kinds) >= _MOST_KINDS:
            kind = (OTHERS, OTHERS, OTHERS)
        after: dict[str, Sums] = {}
        for name, value in labels.items():
            label = f"{name}={value}"
            if label not in self._labels and len(self._labels.keys() | after.keys()) >= _MOST_LABELS:
                label = OTHERS
            after[label] = _plus(after.get(label) or self._labels.get(label, _NONE), amount)
        return kind, _plus(self.kinds.get(kind, _NONE), amount), after

    def post(self, line: LedgerEntry | Ended, posting: Any) -> None:
        lines = self.lines
        if not lines or lines[-1] is not line:
            lines.append(line)
        kind, sums, labels = posting
        self.kinds[kind] = sums
        self._labels.update(labels)

    def post_expiry(self, plan: Plan, entry: LedgerEntry) -> None:
        plan.set(self, "expired", plan.get(self, "expired").plus(entry.amount))
        plan.then(self._append_expiry, entry)

    def _append_expiry(self, entry: LedgerEntry) -> None:
        """Append an entry unless it is there already."""
        lines = self.lines
        if not lines or _number(lines[-1]) < entry.id:
            lines.append(entry)

    def presume(self, entry_id: int, hold: Ended) -> None:
        self._presumed[entry_id] = hold

    def find(self, entry_id: int) -> Any:
        return self._presumed.get(entry_id) or self._settled(entry_id)

    def correct(self, entry_id: int) -> None:
        if self._presumed.pop(entry_id, None) is None:
            kept = {number for number in self._amended if self._hold_of(number) is not None}
            self._amended = kept | {entry_id}

    def _settled(self, entry_id: int) -> Any:
        hold = self._hold_of(entry_id)
        return None if hold is None or hold.ending.outcome != "settled" or entry_id in self._amended else hold

    def _hold_of(self, entry_id: int) -> Any:
        """The hold whose end made this entry; None if it is no longer kept."""
        holds = (line for line in self.lines if not isinstance(line, LedgerEntry))
        return next((hold for hold in holds if hold.entry_id == entry_id), None)

    def totals(self, by: By) -> dict[str, Total]:
        return self._run(self._totals, by)

    @property
    def earlier(self) -> Amount:
        return self._run(self._earlier)

    def __iter__(self) -> Iterator[LedgerEntry]:
        return map(_entry, self._run(self.lines.copy))

    def __len__(self) -> int:
        return len(self.lines)

    def _earlier(self) -> Amount:
        total = Amount(*(sum(sums[index] for sums in self.kinds.values()) for index in (1, 2, 3)))
        return reduce(Amount.minus, (line.amount for line in self.lines), total.plus(self.expired))

    def _totals(self, by: By) -> dict[str, Total]:
        totals: dict[str, Total] = {}
        index = get_args(By).index(by)
        named = (
            self._labels.items() if by == "label" else ((kind[index] or "", sums) for kind, sums in self.kinds.items())
        )
        for name, (entries, *amount) in named:
            totals[name] = totals.get(name, Total()).plus(entries, Amount(*amount))
        return totals


def _plus(sums: Sums, amount: Amount) -> Sums:
    entries, tokens, calls, nano_usd = sums
    return entries + 1, tokens + amount[0], calls + amount[1], nano_usd + amount[2]


def _number(line: LedgerEntry | Ended) -> int:
    return line.id if isinstance(line, LedgerEntry) else line.entry_id


def _entry(line: LedgerEntry | Ended) -> LedgerEntry:
    if isinstance(line, LedgerEntry):
        return line
    assert line.entry is not None
    return line.entry


class JsonLinesSink:
    """Appends every ledger entry to a file, one line of JSON each.

        with JsonLinesSink("ledger.jsonl") as sink:
            tracker = BudgetTracker(total=50_000, sink=sink)

    path: the file; it is created if it does not exist.

    Guaranteed: the operating system has the line before the call that made the entry returns. Not guaranteed: that the
    line is on the disk by then. Money is text, so no digit is lost.

    Raises OSError if the file cannot be opened. If a line cannot be written, the budget logs the failure and goes on.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 - it is open for as long as the sink is

    def __call__(self, entry: LedgerEntry) -> None:
        self._file.write(entry.to_json() + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file. The budget logs later entries as failed, and they are missing from the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

"""What became of every attempt: one entry each, which add up to what is spent."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from functools import reduce
from typing import Any, Literal, Protocol, TypeAlias, TypeVar, get_args

from llm_connect.budget.accounting.bounds import Grade
from llm_connect.budget.accounting.totals import By, Kind, Sums, Total, Totals
from llm_connect.errors import LLMConfigurationError
from llm_connect.types.amounts import NOTHING, Amount
from llm_connect.types.usage import Usage

T = TypeVar("T")

#: How an attempt ended. `recorded` was booked without a hold; `corrected` amends an earlier entry; `expired` has left
#: the window of its tracker.
Outcome: TypeAlias = Literal["settled", "released", "presumed", "recorded", "corrected", "expired"]
#: What adding an entry of a kind, with labels and an amount, to the totals comes to.
PostingOf: TypeAlias = Callable[[Kind, Mapping[str, str], Amount], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerEntry:
    """One line of the ledger.

    amount: what it added to `spent`; nothing for a released hold, below 0 for a correction downwards. What has expired
        is two entries, since trackers above keep it: one below 0 on its tracker, one above 0 on that tracker's parent.
    bound: what was held, with the `grade` of that bound.
    cost: USD by `cost_source`; None when it is not known, and then `amount` holds the USD that was held.
    request_id: under which the provider knows the request, where that is known.
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
        """One line of JSON, without a line break."""
        return json.dumps(self.to_dict(), ensure_ascii=False)

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
            "request_id": self.request_id,
            "reserved_at": datetime.fromtimestamp(self.reserved_at, UTC).isoformat(),
            "ended_at": datetime.fromtimestamp(self.ended_at, UTC).isoformat(),
            "corrects": self.corrects,
        }


class Ended(Protocol):
    """A hold that has ended: it makes its entry when somebody asks for it."""

    @property
    def entry_id(self) -> int: ...
    @property
    def amount(self) -> Amount: ...
    @property
    def entry(self) -> LedgerEntry | None: ...


class Run(Protocol):
    """Does a thing as an operation: under the lock, after what an interrupted one has left is in order."""

    def __call__(self, operation: Callable[..., T], *args: Any) -> T: ...


class Ledger:
    """The last entries of a tree of trackers, oldest first, and the totals of all that ever were.

        for entry in tracker.ledger:
            print(entry.adapter, entry.outcome, entry.amount.tokens)
        print(tracker.ledger.totals("model")["gpt-4.1-mini"].amount.tokens)

    `earlier` plus the amounts of the entries is what the root tracker has spent, always. Iterating gives the entries
    of one moment; it may go on while calls are made.
    """

    def __init__(self, keep: int, run: Run) -> None:
        #: The last entries, and the holds that they are made of.
        self.lines: deque[LedgerEntry | Ended] = deque(maxlen=keep)
        #: Does a thing as an operation of the budget.
        self._run = run
        self._totals = Totals()
        #: The totals by kind.
        self.kinds: dict[Kind, Sums] = self._totals.kinds
        #: What adding an entry of a kind to the totals comes to; its caller holds the lock of the tree.
        self.posting: PostingOf = self._totals.posting
        #: What has left windows for good, below 0: only of the root, since all others' stays on their parents.
        self.expired: Amount = NOTHING

    def post(self, line: LedgerEntry | Ended, posting: Any) -> None:
        """Add an entry, or the ended hold that it is made of, unless it is there already; and let the totals be so."""
        lines = self.lines
        if not lines or lines[-1] is not line:
            lines.append(line)
        kind, sums, labels = posting
        self.kinds[kind] = sums
        if labels is not None:
            self._totals.post_labels(labels)

    def post_expiry(self, entry: LedgerEntry) -> None:
        """Add what has left a window, unless it is there already; the totals of all that ever was keep it."""
        lines = self.lines
        if not lines or _number(lines[-1]) < entry.id:
            lines.append(entry)

    def totals(self, by: By) -> dict[str, Total]:
        """How many entries there ever were, and what they added, by "tracker" (path), "adapter", "model" or "label".

        What has left the window of a tracker with a period is still in them.

        A label is `name=value`; an entry without what is asked for counts under "". At most 4,000 combinations of
        the first three and 1,000 labels are kept apart; what is beyond counts under "(others)".

        Raises LLMConfigurationError for another word.
        """
        if by not in get_args(By):
            raise LLMConfigurationError(f"totals are kept by one of {', '.join(get_args(By))}, not by {by!r}.")
        return self._run(self._totals.by, by)

    def json_lines(self) -> Iterator[str]:
        """The entries as lines of JSON, as `JsonLinesSink` writes them."""
        return (entry.to_json() for entry in self)

    @property
    def earlier(self) -> Amount:
        """The sum of the entries that are no longer kept."""
        return self._run(self._earlier)

    def __iter__(self) -> Iterator[LedgerEntry]:
        return map(_entry, self._run(self.lines.copy))

    def __len__(self) -> int:
        return len(self.lines)

    def _earlier(self) -> Amount:
        kept = [line.amount for line in self.lines]
        return reduce(Amount.minus, kept, self._totals.sum.plus(self.expired))


def _number(line: LedgerEntry | Ended) -> int:
    return line.id if isinstance(line, LedgerEntry) else line.entry_id


def _entry(line: LedgerEntry | Ended) -> LedgerEntry:
    if isinstance(line, LedgerEntry):
        return line
    assert line.entry is not None
    return line.entry

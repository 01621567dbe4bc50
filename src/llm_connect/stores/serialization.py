"""Conversion of trackers, holds and ledger entries to the plain rows of a store, and back.

The columns of each kind of row stand here once. A file names them in its SQL; a server keeps the values in this order.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal
from operator import attrgetter
from typing import TYPE_CHECKING, Any, TypeAlias

from llm_connect._validation import encodable
from llm_connect.budget.accounting.bounds import CallFacts
from llm_connect.budget.accounting.ledger import LedgerEntry
from llm_connect.budget.accounting.windows import Clock, Window, period_of, period_text
from llm_connect.types.amounts import NOTHING, Amount, usd_of
from llm_connect.types.usage import Usage

if TYPE_CHECKING:
    from llm_connect.budget.accounting.accounts import Scope
    from llm_connect.budget.admission.holds import Hold

Row: TypeAlias = tuple[Any, ...]

_UNITS = ("tokens", "calls", "nano_usd")
_FIGURES = ("limit", "spent", "held", "presumed", "allotted")
#: The columns of a tracker that may change. `lease` is that of the process that keeps an allotment open.
STATE = ("closed", "lease", *(f"{unit}_{figure}" for unit in _UNITS for figure in _FIGURES))
HOLD = ("lease", "tracker", "state", *_UNITS, "max_tokens", "grade", "adapter", "model", "labels", "reserved_at")
WAITER = ("tracker", "arrived_at", *_UNITS)
WINDOW = ("period", "ends_at", "first", "parts")
ENTRY = (
    *("id", "path", "outcome", *_UNITS, *(f"bound_{unit}" for unit in _UNITS), "grade", "adapter", "model", "labels"),
    *("usage", "cost", "cost_source", "request_id", "reserved_at", "ended_at", "corrects"),
)

_figures = attrgetter(*_FIGURES)
_parts_of_entry = attrgetter(
    *("id", "tracker", "outcome", "amount", "bound", "grade", "adapter", "model", "labels", "usage", "cost_source"),
    *("request_id", "reserved_at", "ended_at"),
)
_parts_of_hold = attrgetter(
    *("entry_id", "tracker.path", "ending.outcome", "ending.amount", "bound", "grade", "facts.adapter", "model"),
    *("facts.labels", "ending.usage", "ending.cost_source", "request_id", "reserved_at", "ended_at"),
)


def tracker_state(tracker: Scope, lease: int | str | None) -> Row:
    """The columns of `tracker` that may change. Closing the root affects only its own process."""
    closed = tracker.parent is not None and tracker.closed_itself
    tokens, calls, usd = tracker.own_accounts
    return (int(closed), lease, *_figures(tokens), *_figures(calls), *_figures(usd))


def bring_up_to_date(tracker: Scope, state: Row) -> None:
    """Load `tracker` from its row."""
    closed, lease, *figures = state
    if tracker.parent is not None:
        tracker.closed_itself = bool(closed)
    limits, spent, held, presumed, allotted = (tuple(figures[place:15:5]) for place in range(5))
    tracker.own_accounts[0].level.load(limits, spent, held, allotted)
    for account, limit, unknown in zip(tracker.own_accounts, limits, presumed, strict=True):
        account.presumed = unknown
        account.allotment = lease is not None and limit is not None


def start_anew(tracker: Scope) -> None:
    """Reset a tracker that has no row to its first state."""
    for account in tracker.own_accounts:
        account.spent = account.held = account.presumed = account.allotted = 0
        account.allotment = False
    if tracker.window is not None:
        tracker.window.forget(0)


def window_row(window: Window) -> Row:
    """The row of a window."""
    return (period_text(window.period), *window.state)


def window_of(row: Row, clock: Clock) -> Window:
    """The window in a row."""
    period, *state = row
    window = Window(period_of(period), clock)
    window.become(*state)
    return window


def hold_values(hold: Hold, lease: int | str, tracker: int) -> Row:
    """The row of an open hold under the lease and on the tracker with these numbers."""
    facts, state = hold.facts, "dispatched" if hold.dispatched else "reserved"
    place = (lease, tracker, state, *hold.bound, hold.max_tokens)
    labels = labels_text(facts.labels) if facts.labels else None
    return (*place, hold.grade, facts.adapter, facts.model, labels, hold.reserved_at)


def entry_values(line: LedgerEntry | Hold) -> Row:
    """The row of an entry. An ended hold makes no entry for it, which takes half the time: every call ends a hold."""
    if isinstance(line, LedgerEntry):
        parts, cost, corrects = _parts_of_entry(line), line.cost, line.corrects
    else:
        nano_usd = line.ending.nano_usd
        parts, cost, corrects = _parts_of_hold(line), None if nano_usd is None else usd_of(nano_usd), None
    number, path, outcome, amount, bound, grade, adapter, model, labels, usage, cost_source, request_id, *times = parts
    return (
        number,
        path,
        outcome,
        *amount,
        *bound,
        grade,
        adapter,
        model,
        labels_text(labels) if labels else None,
        None if usage is None else json.dumps(usage.to_dict()),
        None if cost is None else f"{cost:f}",
        cost_source,
        # A provider or a user may give any value; a store accepts only text that can be encoded.
        None if request_id is None else encodable(str(request_id)),
        *times,
        corrects,
    )


def entry_of(row: Row) -> LedgerEntry:
    """The entry in a row that `entry_values` made."""
    number, path, _, *amounts = row[:9]
    fields = dict(zip(ENTRY[9:], row[9:], strict=True))
    usage, cost = fields["usage"], fields["cost"]
    fields["labels"] = labels_of(fields["labels"])
    fields["usage"] = None if usage is None else _usage_of(json.loads(usage))
    fields["cost"] = None if cost is None else Decimal(cost)
    amount, bound = Amount(*amounts[:3]), Amount(*amounts[3:])
    return LedgerEntry(id=number, tracker=path, outcome=row[2], amount=amount, bound=bound, **fields)


def facts_of(grade: Any, adapter: str | None, model: str | None, labels: str | None) -> CallFacts:
    """The facts of a call in a row."""
    return CallFacts(adapter=adapter, model=model, labels=labels_of(labels), grade=grade)


def labels_text(labels: Mapping[str, str]) -> str:
    """Labels as JSON."""
    return json.dumps(dict(labels), ensure_ascii=False)


def labels_of(text: str | None) -> dict[str, str]:
    return {} if text is None else json.loads(text)


def sum_of(row: Row) -> Amount:
    """The sum in a row; SQL returns None for the sum of no rows."""
    return NOTHING if row[0] is None else Amount(*row)


def _usage_of(data: dict[str, Any]) -> Usage:
    data.pop("total_tokens", None)
    return Usage(**data)

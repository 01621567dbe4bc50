"""Conversion of trackers, holds and ledger entries to the plain rows of a store, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal
from operator import attrgetter
from typing import TYPE_CHECKING, Any, TypeAlias

from llm_connect._validation import encodable
from llm_connect.budget.accounting.demands import CallFacts
from llm_connect.budget.accounting.ledger import LedgerEntry
from llm_connect.types.amounts import NOTHING, Amount, usd_of
from llm_connect.types.usage import Usage

if TYPE_CHECKING:
    from llm_connect.budget.accounting.scope import Scope
    from llm_connect.budget.admission.holds import Hold
    from llm_connect.stores.lease import Lease

Row: TypeAlias = tuple[Any, ...]

_figures = attrgetter("limit", "spent", "held", "presumed", "allotted")


def tracker_state(tracker: Scope, lease: int | str | None) -> Row:
    """The columns of `tracker` that may change. Closing the root affects only its own process."""
    closed = tracker.closed_itself and tracker.parent is not None
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


def hold_values(hold: Hold, lease: Lease, tracker: int) -> Row:
    """The row of an open hold under a lease, on the tracker with this number."""
    facts = hold.facts
    place = (lease.number, tracker, hold.state, *hold.bound, hold.max_tokens)
    return (*place, hold.grade, facts.adapter, facts.model, labels_text(facts.labels), hold.reserved_at)


def ended_values(hold: Hold) -> Row:
    """Like `entry_values(hold.entry)`, in half the time: every call ends a hold."""
    facts, ending = hold.facts, hold.ending
    return (
        hold.entry_id,
        hold.tracker.path,
        ending.outcome,
        *ending.amount,
        *hold.bound,
        hold.grade,
        facts.adapter,
        hold.model,
        labels_text(facts.labels),
        _usage_text(ending.usage),
        None if ending.nano_usd is None else f"{usd_of(ending.nano_usd):f}",
        ending.cost_source,
        _request_id_text(hold.request_id),
        hold.reserved_at,
        hold.ended_at,
        None,
    )


def entry_values(entry: LedgerEntry) -> Row:
    """The row of an entry."""
    return (
        entry.id,
        entry.tracker,
        entry.outcome,
        *entry.amount,
        *entry.bound,
        entry.grade,
        entry.adapter,
        entry.model,
        labels_text(entry.labels),
        _usage_text(entry.usage),
        None if entry.cost is None else f"{entry.cost:f}",
        entry.cost_source,
        _request_id_text(entry.request_id),
        entry.reserved_at,
        entry.ended_at,
        entry.corrects,
    )


def entry_of(row: Row) -> LedgerEntry:
    """The entry in a row that `entry_values` made."""
    number, path, outcome, *amounts = row[:9]
    grade, adapter, model, labels, usage, cost, cost_source, request_id, reserved_at, ended_at, corrects = row[9:]
    return LedgerEntry(
        id=number,
        tracker=path,
        outcome=outcome,
        amount=Amount(*amounts[:3]),
        bound=Amount(*amounts[3:]),
        grade=grade,
        adapter=adapter,
        model=model,
        labels=labels_of(labels),
        usage=None if usage is None else _usage_of(json.loads(usage)),
        cost=None if cost is None else Decimal(cost),
        cost_source=cost_source,
        request_id=request_id,
        reserved_at=reserved_at,
        ended_at=ended_at,
        corrects=corrects,
    )


def facts_of(grade: Any, adapter: str | None, model: str | None, labels: str | None) -> CallFacts:
    """The facts of a call in a row."""
    return CallFacts(adapter=adapter, model=model, labels=labels_of(labels), grade=grade)


def labels_text(labels: Mapping[str, str]) -> str | None:
    """Labels as JSON, or None without labels."""
    return json.dumps(dict(labels), ensure_ascii=False) if labels else None


def labels_of(text: str | None) -> dict[str, str]:
    return {} if text is None else json.loads(text)


def sum_of(row: Row) -> Amount:
    """The sum in a row; SQL returns None for the sum of no rows."""
    return NOTHING if row[0] is None else Amount(*row)


def _request_id_text(request_id: str | None) -> str | None:
    """A request id as text that a store accepts, for any value from a provider or a user."""
    return None if request_id is None else encodable(str(request_id))


def _usage_text(usage: Usage | None) -> str | None:
    return None if usage is None else json.dumps(usage.to_dict())


def _usage_of(data: dict[str, Any]) -> Usage:
    data.pop("total_tokens", None)
    return Usage(**data)

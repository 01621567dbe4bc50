"""What stands in the rows of a budget file: trackers, holds, and entries of the ledger."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any, TypeAlias

from llm_connect.core.demand import CallFacts
from llm_connect.core.learning import Key, LearnedFactor
from llm_connect.core.ledger import LedgerEntry
from llm_connect.core.units import NOTHING, Amount
from llm_connect.core.usage import Usage

if TYPE_CHECKING:
    from llm_connect.core.budget import BudgetTracker

Row: TypeAlias = tuple[Any, ...]

_UNITS = ("tokens", "calls", "nano_usd")
_FIGURES = ("limit", "spent", "held", "presumed", "sliced")
_STATE = ("closed", "lease", *(f"{unit}_{figure}" for unit in _UNITS for figure in _FIGURES))

FIND_BUDGET = (
    "SELECT budgets.id, on_unknown, trackers.id FROM budgets JOIN trackers ON trackers.budget = budgets.id "
    "WHERE budgets.name = ? AND parent IS NULL"
)
NEW_BUDGET = "INSERT INTO budgets (name, on_unknown, created_at) VALUES (?, ?, ?)"
NEW_ROOT = (
    "INSERT INTO trackers (budget, name, path, joined, is_slice, closed, changed, tokens_limit, calls_limit, "
    "nano_usd_limit) VALUES (?, ?, ?, 0, 0, 0, 1, ?, ?, ?)"
)

_FACTOR = ", ".join(LearnedFactor._fields)

#: What may change of a tracker.
TRACKER_STATE = ", ".join(_STATE)
CHANGED_TRACKERS = f"SELECT changed, id, {TRACKER_STATE} FROM trackers WHERE budget = ? AND changed > ?"
UPDATE_TRACKER = f"UPDATE trackers SET changed = ?, {', '.join(f'{name} = ?' for name in _STATE)} WHERE id = ?"
_TRACKER = ("budget", "parent", "name", "path", "joined", "is_slice", "changed", *_STATE)
JOINED_TRACKER = "SELECT id FROM trackers WHERE parent = ? AND name = ? AND joined AND NOT closed ORDER BY id DESC"
LAST_CHANGE = "SELECT max(changed) FROM trackers WHERE budget = ?"
OPEN_SLICES = "SELECT id, lease FROM trackers WHERE budget = ? AND lease IS NOT NULL"
SPENT_TRACKERS = (
    "SELECT id FROM trackers WHERE budget = ? AND (tokens_spent OR calls_spent OR nano_usd_spent) "
    "ORDER BY length(path) DESC, id"
)
INSERT_TRACKER = f"INSERT INTO trackers ({', '.join(_TRACKER)}) VALUES ({', '.join('?' * len(_TRACKER))})"
FIND_TRACKER = f"SELECT parent, name, is_slice, {TRACKER_STATE} FROM trackers WHERE id = ?"

_HOLD = ("lease", "tracker", "state", *_UNITS, "max_tokens", "grade", "adapter", "model", "labels", "reserved_at")
INSERT_HOLD = f"INSERT INTO holds ({', '.join(_HOLD)}) VALUES ({', '.join('?' * len(_HOLD))})"
HOLDS_OF_LEASE = f"SELECT id, {', '.join(_HOLD)} FROM holds WHERE lease = ? ORDER BY id"

_WAITER = ("tracker", "arrived_at", *_UNITS, "until")
READ_WAITERS = f"SELECT id, {', '.join(_WAITER)} FROM waiters WHERE budget = ?"
INSERT_WAITER = f"INSERT INTO waiters (budget, {', '.join(_WAITER)}) VALUES (?, {', '.join('?' * len(_WAITER))})"
RENEW_WAITER = "UPDATE waiters SET until = ? WHERE id = ?"

OPEN_PRESUMPTIONS = "SELECT id FROM ledger WHERE budget = ? AND open ORDER BY id"
_ENTRY = (
    *("id", "path", "outcome", *_UNITS, *(f"bound_{unit}" for unit in _UNITS), "grade", "adapter", "model", "labels"),
    *("usage", "cost", "cost_source", "request_id", "reserved_at", "ended_at", "corrects"),
)
_ENTRY_AND_PLACE = (*_ENTRY, "budget", "tracker", "open", "lease", "hold")
INSERT_ENTRY = f"INSERT INTO ledger ({', '.join(_ENTRY_AND_PLACE)}) VALUES ({', '.join('?' * len(_ENTRY_AND_PLACE))})"
ENTRY_COLUMNS = ", ".join(_ENTRY)


def tracker_state(tracker: BudgetTracker, lease: int | None) -> Row:
    """What may change of `tracker`, as it stands in its row. The root is closed for its own process only."""
    closed = tracker.closed_itself and tracker.parent is not None
    figures = (
        figure
        for account in tracker.own_accounts
        for figure in (account.limit, account.spent, account.held, account.presumed, account.sliced)
    )
    return (int(closed), lease, *figures)


def bring_up_to_date(tracker: BudgetTracker, state: Row) -> None:
    """Let `tracker` be as its row says."""
    closed, lease, *figures = state
    if tracker.parent is not None:
        tracker.closed_itself = bool(closed)
    for place, account in enumerate(tracker.own_accounts):
        limit, account.spent, account.held, account.presumed, account.sliced = figures[5 * place : 5 * place + 5]
        account.limit = limit
        account.slice = lease is not None and limit is not None


def read_learned(connection: sqlite3.Connection, budget: int) -> dict[Key, LearnedFactor]:
    """What was learned of each adapter and model."""
    rows = connection.execute(f"SELECT adapter, model, {_FACTOR} FROM learned WHERE budget = ?", (budget,)).fetchall()
    return {(adapter, model): LearnedFactor(*factor) for adapter, model, *factor in rows}


def write_learned(connection: sqlite3.Connection, budget: int, learned: Mapping[Key, LearnedFactor]) -> None:
    """Write down what was learned in place of what was known."""
    connection.execute("DELETE FROM learned WHERE budget = ?", (budget,))
    insert = f"INSERT INTO learned (budget, adapter, model, {_FACTOR}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
    connection.executemany(insert, [(budget, *key, *factor) for key, factor in learned.items()])


def start_anew(tracker: BudgetTracker) -> None:
    """Let a tracker that has no row be as it was made."""
    tracker.closed_itself = tracker.closed_itself or tracker.is_slice
    for account in tracker.own_accounts:
        account.spent = account.held = account.presumed = account.sliced = 0
        account.slice = False
    if tracker.window is not None:
        tracker.window.forget(0)


def entry_values(entry: LedgerEntry) -> Row:
    """An entry, as it stands in its row."""
    usage = None if entry.usage is None else json.dumps(entry.usage.to_dict())
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
        usage,
        None if entry.cost is None else f"{entry.cost:f}",
        entry.cost_source,
        entry.request_id,
        entry.reserved_at,
        entry.ended_at,
        entry.corrects,
    )


def entry_of(row: Row) -> LedgerEntry:
    """The entry that stands in a row of `ENTRY_COLUMNS`."""
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
    """What a row remembers of a call."""
    return CallFacts(adapter=adapter, model=model, labels=labels_of(labels), grade=grade)


def labels_text(labels: Mapping[str, str]) -> str | None:
    """Labels as JSON; None when there are none."""
    return json.dumps(dict(labels), ensure_ascii=False) if labels else None


def labels_of(text: str | None) -> dict[str, str]:
    return {} if text is None else json.loads(text)


def sum_of(row: Row) -> Amount:
    """Sums of the three units; of no rows they are None."""
    return NOTHING if row[0] is None else Amount(*row)


def _usage_of(data: dict[str, Any]) -> Usage:
    data.pop("total_tokens", None)
    return Usage(**data)

"""The SQL queries for trackers, holds, waiters and ledger entries in a budget file."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping

from llm_connect.budget.accounting.calibration import Key, LearnedFactor

_UNITS = ("tokens", "calls", "nano_usd")
_FIGURES = ("limit", "spent", "held", "presumed", "allotted")
_STATE = ("closed", "lease", *(f"{unit}_{figure}" for unit in _UNITS for figure in _FIGURES))

FIND_BUDGET = (
    "SELECT budgets.id, on_unknown, trackers.id FROM budgets JOIN trackers ON trackers.budget = budgets.id "
    "WHERE budgets.name = ? AND parent IS NULL"
)
NEW_BUDGET = "INSERT INTO budgets (name, on_unknown, created_at) VALUES (?, ?, ?)"
NEW_ROOT = (
    "INSERT INTO trackers (budget, name, path, joined, closed, tokens_limit, calls_limit, nano_usd_limit) "
    "VALUES (?, ?, ?, 0, 0, ?, ?, ?)"
)

_FACTOR = ", ".join(LearnedFactor._fields)

#: The columns of a tracker that may change.
TRACKER_STATE = ", ".join(_STATE)
READ_TRACKERS = f"SELECT id, {TRACKER_STATE} FROM trackers WHERE id IN "
UPDATE_TRACKER = f"UPDATE trackers SET {', '.join(f'{name} = ?' for name in _STATE)} WHERE id = ?"
_TRACKER = ("budget", "parent", "name", "path", "joined", *_STATE)
JOINED_TRACKER = "SELECT id FROM trackers WHERE parent = ? AND name = ? AND joined AND NOT closed ORDER BY id DESC"
#: In ASCII, "0" follows "/", so the range covers all paths that begin with this path and a slash.
ALLOTMENTS_AT = (
    "SELECT id FROM trackers WHERE budget = ? AND lease IS NOT NULL "
    "AND (path = ? OR path BETWEEN ? || '/' AND ? || '0')"
)
ALLOTMENTS_OF = "SELECT id FROM trackers WHERE budget = ? AND lease = ?"
SPENT_TRACKERS = (
    "SELECT id FROM trackers WHERE budget = ? AND (tokens_spent OR calls_spent OR nano_usd_spent) "
    "ORDER BY length(path) DESC, id"
)
INSERT_TRACKER = f"INSERT INTO trackers ({', '.join(_TRACKER)}) VALUES ({', '.join('?' * len(_TRACKER))})"
FIND_TRACKER = f"SELECT parent, name, {TRACKER_STATE} FROM trackers WHERE id = ?"

_HOLD = ("lease", "tracker", "state", *_UNITS, "max_tokens", "grade", "adapter", "model", "labels", "reserved_at")
INSERT_HOLD = f"INSERT INTO holds ({', '.join(_HOLD)}) VALUES ({', '.join('?' * len(_HOLD))})"
HOLDS_OF_LEASE = f"SELECT id, {', '.join(_HOLD)} FROM holds WHERE lease = ? ORDER BY id"

_WAITER = ("tracker", "arrived_at", *_UNITS, "until")
READ_WAITERS = f"SELECT id, {', '.join(_WAITER)} FROM waiters WHERE budget = ?"
INSERT_WAITER = f"INSERT INTO waiters (budget, {', '.join(_WAITER)}) VALUES (?, {', '.join('?' * len(_WAITER))})"
RENEW_WAITER = "UPDATE waiters SET until = ? WHERE id = ?"

#: The changes of other processes that concern more than trackers.
OTHERS = (
    "SELECT (SELECT ifnull(max(id), 0) FROM ledger), EXISTS (SELECT 1 FROM leases WHERE id = ?), "
    "EXISTS (SELECT 1 FROM learned WHERE budget = ?), EXISTS (SELECT 1 FROM waiters WHERE budget = ?)"
)

OPEN_PRESUMPTIONS = "SELECT id FROM ledger WHERE budget = ? AND open ORDER BY id"
_ENTRY = (
    *("id", "path", "outcome", *_UNITS, *(f"bound_{unit}" for unit in _UNITS), "grade", "adapter", "model", "labels"),
    *("usage", "cost", "cost_source", "request_id", "reserved_at", "ended_at", "corrects"),
)
_ENTRY_AND_PLACE = (*_ENTRY, "budget", "tracker", "open", "lease", "hold")
INSERT_ENTRY = f"INSERT INTO ledger ({', '.join(_ENTRY_AND_PLACE)}) VALUES ({', '.join('?' * len(_ENTRY_AND_PLACE))})"
ENTRY_COLUMNS = ", ".join(_ENTRY)
FIND_SETTLED = (
    f"SELECT tracker, {ENTRY_COLUMNS} FROM ledger WHERE id = ? AND budget = ? AND outcome = 'settled' "
    "AND NOT EXISTS (SELECT 1 FROM ledger AS later WHERE later.corrects = ledger.id)"
)
CORRECT_PRESUMED = f"UPDATE ledger SET open = 0 WHERE id = ? AND budget = ? AND open RETURNING tracker, {ENTRY_COLUMNS}"


def read_learned(connection: sqlite3.Connection, budget: int) -> dict[Key, LearnedFactor]:
    """Read the learned factors of each adapter and model."""
    rows = connection.execute(f"SELECT adapter, model, {_FACTOR} FROM learned WHERE budget = ?", (budget,)).fetchall()
    return {(adapter, model): LearnedFactor(*factor) for adapter, model, *factor in rows}


def write_learned(connection: sqlite3.Connection, budget: int, learned: Mapping[Key, LearnedFactor]) -> None:
    """Replace the learned factors of a budget."""
    connection.execute("DELETE FROM learned WHERE budget = ?", (budget,))
    insert = f"INSERT INTO learned (budget, adapter, model, {_FACTOR}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
    connection.executemany(insert, [(budget, *key, *factor) for key, factor in learned.items()])

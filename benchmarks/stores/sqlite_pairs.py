"""A budget in a file, compared with bare transactions that write the same rows, with the same `synchronous`."""

from __future__ import annotations

import sqlite3
import tempfile
import time
from functools import partial
from pathlib import Path

from pairs import LIMIT, Pair, Subject, compare, rate

from llm_connect import open_budget


def ours(path: str, name: str) -> Pair:
    """The library."""
    budget = open_budget(f"sqlite:///{path}")
    return lambda: budget.reserve(10).settle(7)


def bare(path: str, name: str) -> Pair:
    """Transactions that read the figures, and write the same rows."""
    connection = sqlite3.connect(path, timeout=60, isolation_level=None)
    connection.execute("PRAGMA synchronous = FULL")
    return lambda: _settle(connection, _reserve(connection))


def _reserve(connection: sqlite3.Connection) -> int:
    connection.execute("BEGIN IMMEDIATE")
    limit, spent, held = connection.execute(
        "SELECT tokens_limit, tokens_spent, tokens_held FROM trackers WHERE id = 1"
    ).fetchone()
    assert spent + held + 10 <= limit
    connection.execute(
        "UPDATE trackers SET tokens_held = tokens_held + 10, calls_held = calls_held + 1, changed = changed + 1 "
        "WHERE id = 1"
    )
    hold = connection.execute(
        "INSERT INTO holds (lease, tracker, state, tokens, calls, nano_usd, grade, reserved_at) "
        "VALUES (1, 1, 'reserved', 10, 1, 0, 'proven', ?)",
        (time.time(),),
    ).lastrowid
    connection.execute("COMMIT")
    assert hold is not None
    return hold


def _settle(connection: sqlite3.Connection, hold: int) -> None:
    now = time.time()
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("DELETE FROM holds WHERE id = ?", (hold,))
    connection.execute(
        "UPDATE trackers SET tokens_held = tokens_held - 10, calls_held = calls_held - 1, "
        "tokens_spent = tokens_spent + 7, calls_spent = calls_spent + 1, changed = changed + 1 WHERE id = 1"
    )
    connection.execute(
        "INSERT INTO ledger (budget, tracker, path, outcome, tokens, calls, nano_usd, bound_tokens, bound_calls, "
        "bound_nano_usd, grade, reserved_at, ended_at, open) "
        "VALUES (1, 1, 'budget', 'settled', 7, 1, 0, 10, 1, 0, 'proven', ?, ?, 0)",
        (now, now),
    )
    connection.execute("COMMIT")


def rate_of(subject: Subject, processes: int, seconds: float, folder: str | None) -> float:
    """Return the pairs per second of so many processes together, on their own file."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        path = str(Path(place) / "budget.db")
        open_budget(f"sqlite:///{path}", total=LIMIT).close()
        return rate(subject, path, processes, seconds)


def measure(processes: int, seconds: float, rounds: int, folder: str | None) -> None:
    """Print the rate of so many processes."""
    details = (processes, seconds, folder)
    subjects = {"llm-connect": partial(rate_of, ours, *details), "bare": partial(rate_of, bare, *details)}
    compare("sqlite", processes, rounds, subjects)

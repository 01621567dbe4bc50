"""Reports on the budgets of a file. Reading changes nothing."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from llm_connect.budget.accounting.ledger import By, Total
from llm_connect.budget.admission.booking import wall_clock
from llm_connect.errors import LLMConfigurationError
from llm_connect.stores.reports import Report, figures_data, hold_data
from llm_connect.stores.serialization import STATE, WINDOW, Row, entry_of, window_of
from llm_connect.stores.sqlite.file import read_only, store_error, url_of
from llm_connect.stores.sqlite.rows import ENTRY_COLUMNS, totals_in, totals_query

_TREE = (
    f"SELECT path, {', '.join((*WINDOW, *STATE))} FROM trackers LEFT JOIN windows ON tracker = trackers.id "
    "WHERE budget = ? ORDER BY path, trackers.id"
)
_HOLDS = (
    "SELECT path, state, tokens, calls, nano_usd, adapter, model, labels, reserved_at, host, pid, expires_at "
    "FROM holds JOIN trackers ON trackers.id = tracker LEFT JOIN leases ON leases.id = holds.lease "
    "WHERE trackers.budget = ? ORDER BY holds.id"
)


class FileReport(Report):
    """A budget file, read in one transaction."""

    def __init__(self, connection: sqlite3.Connection, path: str) -> None:
        self._connection = connection
        self._path = path
        self._now = time.time()

    def entries(self, name: str, last: int) -> list[dict[str, Any]]:
        query = f"SELECT {ENTRY_COLUMNS} FROM ledger WHERE budget = ? ORDER BY id DESC LIMIT ?"
        return [entry_of(row).to_dict() for row in reversed(self._rows(query, self.number(name), last))]

    def number(self, name: str) -> int:
        rows = self._rows("SELECT id FROM budgets WHERE name = ?", name)
        if not rows:
            raise LLMConfigurationError(f"{url_of(self._path)} has no budget {name!r}: `ls` lists its budgets.")
        return int(rows[0][0])

    def _names(self) -> list[str]:
        return [name for (name,) in self._rows("SELECT name FROM budgets ORDER BY name")]

    def _trackers(self, name: str) -> list[tuple[Row, dict[str, Any]]]:
        found: list[tuple[Row, dict[str, Any]]] = []
        for path, period, ends_at, first, parts, closed, lease, *figures in self._rows(_TREE, self.number(name)):
            window = None if period is None else window_of((period, ends_at, first, parts), wall_clock)
            found.append(((path, closed, lease), figures_data(figures, window)))
        return found

    def _holds(self, name: str) -> list[dict[str, Any]]:
        return [hold_data(self._now, *row) for row in self._rows(_HOLDS, self.number(name))]

    def _totals(self, name: str, by: By) -> dict[str, Total]:
        return totals_in(self._rows(totals_query(by), self.number(name)))

    def _rows(self, query: str, *values: Any) -> list[Any]:
        return self._connection.execute(query, values).fetchall()


@contextmanager
def reading(path: str) -> Iterator[FileReport]:
    """Open the budget file at `path` for a report. Raises LLMStoreError if it cannot be read."""
    connection = read_only(path)
    try:
        connection.execute("BEGIN")
        yield FileReport(connection, path)
    except sqlite3.Error as error:
        raise store_error(path, error) from None
    finally:
        connection.close()

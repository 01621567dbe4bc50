"""Reports on the budgets of a file. Reading changes nothing."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from llm_connect.errors import LLMConfigurationError
from llm_connect.stores.reports import figures_data, hold_data, sum_data, windowed_data
from llm_connect.stores.serialization import entry_of
from llm_connect.stores.sqlite.rows import ENTRY_COLUMNS
from llm_connect.stores.sqlite.schema import read_only, store_error, url_of
from llm_connect.stores.sqlite.windows import window_of
from llm_connect.types.amounts import Amount

_FIGURES = ("limit", "spent", "held", "presumed", "allotted")
_COLUMNS = ", ".join(f"trackers.{unit}_{figure}" for unit in ("tokens", "calls", "nano_usd") for figure in _FIGURES)
_WINDOW = "period, ends_at, first, parts"
_ROOTS = (
    f"SELECT budgets.id, budgets.name, {_WINDOW}, {_COLUMNS} FROM budgets JOIN trackers ON budget = budgets.id "
    + ("LEFT JOIN windows ON tracker = trackers.id WHERE parent IS NULL ORDER BY budgets.name")
)
_TREE = f"SELECT path, closed, lease, {_WINDOW}, {_COLUMNS} FROM trackers " + (
    "LEFT JOIN windows ON tracker = trackers.id WHERE budget = ? ORDER BY path, trackers.id"
)
_HOLDS = (
    "SELECT path, state, tokens, calls, nano_usd, adapter, model, labels, reserved_at, host, pid, expires_at "
    "FROM holds JOIN trackers ON trackers.id = tracker LEFT JOIN leases ON leases.id = holds.lease "
    "WHERE trackers.budget = ? ORDER BY holds.id"
)
_BY = "SELECT ifnull({what}, ''), count(*), sum(tokens), sum(calls), sum(nano_usd) FROM {source} " + (
    "WHERE budget = ? AND outcome <> 'expired' GROUP BY 1 ORDER BY 1"
)
_SPENT_BY = {
    "adapter": ("adapter", "ledger"),
    "model": ("model", "ledger"),
    "label": ("label.key || '=' || label.value", "ledger, json_each(ledger.labels) AS label"),
}


class Report:
    """A budget file, read in one transaction."""

    def __init__(self, connection: sqlite3.Connection, path: str) -> None:
        self._connection = connection
        self._path = path
        self._now = time.time()

    def budgets(self) -> list[dict[str, Any]]:
        """All budgets of the file, each with the number of its open holds and of the stale ones among them."""
        found = []
        for number, name, *figures in self._rows(_ROOTS):
            holds = self._holds(number)
            stale = sum(hold["stale"] for hold in holds)
            found.append({"name": name, **_figures(figures), "holds": len(holds), "stale_holds": stale})
        return found

    def budget(self, name: str) -> dict[str, Any]:
        """One budget: its trackers, its open holds, and its spend by adapter, model and label."""
        number = self.number(name)
        trackers = [
            {"path": path, "closed": bool(closed), "allotment": lease is not None, **_figures(figures)}
            for path, closed, lease, *figures in self._rows(_TREE, number)
        ]
        spent_by = {by: self._spent_by(number, *where) for by, where in _SPENT_BY.items()}
        return {"name": name, "trackers": trackers, "holds": self._holds(number), "spent_by": spent_by}

    def entries(self, name: str, last: int) -> list[dict[str, Any]]:
        """The last entries of the ledger, oldest first."""
        query = f"SELECT {ENTRY_COLUMNS} FROM ledger WHERE budget = ? ORDER BY id DESC LIMIT ?"
        return [entry_of(row).to_dict() for row in reversed(self._rows(query, self.number(name), last))]

    def number(self, name: str) -> int:
        """Return the number of a budget. Raises LLMConfigurationError if the store has none of that name."""
        rows = self._rows("SELECT id FROM budgets WHERE name = ?", name)
        if not rows:
            raise LLMConfigurationError(f"{url_of(self._path)} has no budget {name!r}: `ls` lists its budgets.")
        return int(rows[0][0])

    def _holds(self, budget: int) -> list[dict[str, Any]]:
        return [hold_data(self._now, *row) for row in self._rows(_HOLDS, budget)]

    def _spent_by(self, budget: int, what: str, source: str) -> dict[str, dict[str, Any]]:
        rows = self._rows(_BY.format(what=what, source=source), budget)
        return {name: sum_data(entries, Amount(*sums)) for name, entries, *sums in rows}

    def _rows(self, query: str, *values: Any) -> list[Any]:
        return self._connection.execute(query, values).fetchall()


def _figures(row: list[Any]) -> dict[str, Any]:
    (period, *state), figures = row[:4], row[4:]
    if period is None:
        return figures_data(figures)
    return windowed_data(window_of(period, *state), figures)


@contextmanager
def reading(path: str) -> Iterator[Report]:
    """Open the budget file at `path` for a report. Raises LLMStoreError if it cannot be read."""
    connection = read_only(path)
    try:
        connection.execute("BEGIN")
        yield Report(connection, path)
    except sqlite3.Error as error:
        raise store_error(path, error) from None
    finally:
        connection.close()

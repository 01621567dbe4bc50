"""Callers that wait, as they stand in a budget file."""

from __future__ import annotations

import sqlite3
import time
from typing import TYPE_CHECKING, Any

from llm_connect.budget.admission.waiters import Waiter
from llm_connect.stores.sqlite.rows import INSERT_WAITER, READ_WAITERS, RENEW_WAITER
from llm_connect.stores.waiters import Heard, Waiters
from llm_connect.types.amounts import Amount

if TYPE_CHECKING:
    from llm_connect.budget.admission.wait_queue import Line
    from llm_connect.stores.sqlite.ports import FileSession


class FileWaiters(Waiters):
    """The callers of this process that the others know of, and those of the others."""

    _gate: FileSession

    def read(self, line: Line) -> None:
        """Let the callers of the others keep their places in `line`, as they stand in the file now."""
        rows = self._gate.connection.execute(READ_WAITERS, (self._gate.budget,)).fetchall()
        self.see({row: _heard(*caller) for row, *caller in rows}, line)

    def end_over(self, connection: sqlite3.Connection, now: float) -> None:
        """Forget the callers whose time is over."""
        connection.execute("DELETE FROM waiters WHERE budget = ? AND until <= ?", (self._gate.budget, now))

    def _write(self, row: Any, waiter: Waiter, seconds: float) -> Any:
        connection, until = self._gate.connection, time.time() + seconds
        if row is not None and connection.execute(RENEW_WAITER, (until, row)).rowcount:
            return row
        number = self._gate.trackers.number_of(waiter.tracker)
        place = (self._gate.budget, number, waiter.arrival, *waiter.demand.smallest, until)
        return connection.execute(INSERT_WAITER, place).lastrowid

    def _delete(self, row: Any) -> None:
        self._gate.connection.execute("DELETE FROM waiters WHERE id = ?", (row,))


def _heard(tracker: int, arrival: int, tokens: int, calls: int, nano_usd: int, until: float) -> Heard:
    return Heard(tracker, arrival, Amount(tokens, calls, nano_usd), until - time.time())

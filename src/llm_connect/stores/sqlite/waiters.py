"""The rows of waiting callers in a budget file."""

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
    from llm_connect.stores.sqlite.ports import FileParts


class FileWaiters(Waiters):
    """The waiting callers of this process that the file lists, and the callers of other processes."""

    _session: FileParts

    def read(self, line: Line) -> None:
        """Give the waiting callers of other processes their places in `line`, as the file lists them."""
        rows = self._session.connection.execute(READ_WAITERS, (self._session.budget,)).fetchall()
        self.see({row: _heard(*caller) for row, *caller in rows}, line)

    def end_over(self, connection: sqlite3.Connection, now: float) -> None:
        """Delete the expired rows of callers."""
        connection.execute("DELETE FROM waiters WHERE budget = ? AND until <= ?", (self._session.budget, now))

    def _write(self, row: Any, waiter: Waiter, seconds: float) -> Any:
        connection, until = self._session.connection, time.time() + seconds
        if row is not None and connection.execute(RENEW_WAITER, (until, row)).rowcount:
            return row
        number = self._session.trackers.number_of(waiter.tracker)
        place = (self._session.budget, number, waiter.arrival, *waiter.demand.smallest, until)
        return connection.execute(INSERT_WAITER, place).lastrowid

    def _delete(self, row: Any) -> None:
        self._session.connection.execute("DELETE FROM waiters WHERE id = ?", (row,))


def _heard(tracker: int, arrival: int, tokens: int, calls: int, nano_usd: int, until: float) -> Heard:
    return Heard(tracker, arrival, Amount(tokens, calls, nano_usd), until - time.time())

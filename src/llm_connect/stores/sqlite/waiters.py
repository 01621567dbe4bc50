"""Callers that wait, as the processes of a budget file tell each other of them.

Each process writes down who stands first in its line, for the time of a lease, and renews that while they wait. The
others let those that came later wait behind them.
"""

from __future__ import annotations

import math
import sqlite3
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from llm_connect.core.units import Amount
from llm_connect.core.waiters import RemoteWaiter, Waiter
from llm_connect.stores.sqlite.rows import INSERT_WAITER, READ_WAITERS, RENEW_WAITER

if TYPE_CHECKING:
    from llm_connect.core.line import Line
    from llm_connect.stores.sqlite.state import TransactionalGate

#: Of so many callers, on different trackers or of different needs, a process tells the others.
_TOLD = 16

#: A caller's time is renewed three times before it would be over.
_RENEWALS = 3


class Told(NamedTuple):
    """What the others know of a caller."""

    row: int
    amount: Amount
    #: Moment on the monotonic clock in which its time is to be renewed.
    renewed_at: float


class Waiters:
    """The callers of this process that the others know of, and those of the others."""

    def __init__(self, gate: TransactionalGate, seconds: float) -> None:
        self._gate = gate
        self._seconds = seconds
        self._told: dict[Waiter, Told] = {}
        self._told_before: dict[Waiter, Told] = {}
        self._remote: dict[int, RemoteWaiter] = {}
        self._withdrawn = False

    @property
    def due(self) -> bool:
        """Whether the time of a caller is over, or one of this process is to be renewed."""
        now = time.monotonic()
        over = any(waiter.waiting and waiter.deadline <= now for waiter in list(self._remote.values()))
        return over or any(told.renewed_at <= now for told in list(self._told.values()))

    def read(self, connection: sqlite3.Connection, line: Line) -> None:
        """Let the callers of the others keep their places in `line`, as they stand in the file now."""
        rows = {number: caller for number, *caller in connection.execute(READ_WAITERS, (self._gate.budget,))}
        if not rows and not self._remote:
            return
        for number in self._remote.keys() - rows.keys():
            self._remote.pop(number).leave()
        for told in self._told.values():
            rows.pop(told.row, None)
        line.see([new for number, caller in rows.items() if (new := self._new(number, *caller)) is not None])

    def write(self, connection: sqlite3.Connection, line: Line) -> None:
        """Tell the others who stands first in `line`, as far as they do not know."""
        first = [] if self._withdrawn else line.first(_TOLD)
        for waiter in self._told.keys() - set(first):
            self._forget(connection, waiter)
        for waiter in first:
            told = self._told.get(waiter)
            if told is not None and told.amount != waiter.demand.smallest:
                self._forget(connection, waiter)
                told = None
            if told is None or told.renewed_at <= time.monotonic():
                self._tell(connection, waiter, told)

    def withdraw(self, connection: sqlite3.Connection) -> None:
        """Let nobody wait behind this process any more, until it does something else."""
        for waiter in list(self._told):
            self._forget(connection, waiter)
        self._withdrawn = True

    def end_over(self, connection: sqlite3.Connection, now: float) -> None:
        """Forget the callers whose time is over."""
        connection.execute("DELETE FROM waiters WHERE budget = ? AND until <= ?", (self._gate.budget, now))

    def commit(self) -> None:
        """The transaction was committed."""
        self._withdrawn = False
        if self._told or self._told_before:
            self._told_before = dict(self._told)

    def undo(self) -> None:
        """The transaction was rolled back."""
        self._told, self._withdrawn = dict(self._told_before), False

    def leave_to_parent(self) -> None:
        """In a forked process: the callers are the parent's."""
        self._told, self._told_before, self._remote = {}, {}, {}

    def _new(self, number: int, tracker: int, arrival: int, *rest: Any) -> RemoteWaiter | None:
        """The caller of a row that is not known yet; of one that is, its time is noted."""
        *amount, until = rest
        deadline = time.monotonic() + until - time.time()
        known = self._remote.get(number)
        if known is not None and known.waiting:
            known.deadline = deadline
            return None
        found = self._gate.trackers.find(tracker)
        new = self._remote[number] = RemoteWaiter(found, Amount(*amount), arrival=arrival, deadline=deadline)
        return new

    def _tell(self, connection: sqlite3.Connection, waiter: Waiter, told: Told | None) -> None:
        now, seconds = time.monotonic(), min(self._seconds, waiter.deadline - time.monotonic())
        until, amount = time.time() + seconds, waiter.demand.smallest
        renewed_at = now + seconds / _RENEWALS if seconds == self._seconds else math.inf
        row = None if told is None else told.row
        if row is None or not connection.execute(RENEW_WAITER, (until, row)).rowcount:
            number = self._gate.trackers.number_of(waiter.tracker)
            place = (self._gate.budget, number, waiter.arrival, *amount, until)
            row = connection.execute(INSERT_WAITER, place).lastrowid
            assert row is not None
        self._told[waiter] = Told(row, amount, renewed_at)

    def _forget(self, connection: sqlite3.Connection, waiter: Waiter) -> None:
        connection.execute("DELETE FROM waiters WHERE id = ?", (self._told.pop(waiter).row,))

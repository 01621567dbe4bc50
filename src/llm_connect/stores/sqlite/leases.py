"""Leases in a budget file. They use the machine's clock, which all processes of a file share."""

from __future__ import annotations

import os
import socket
import sqlite3
import time
from typing import TYPE_CHECKING

from llm_connect.stores.holds import StoredHold
from llm_connect.stores.lease import Lease
from llm_connect.stores.leases import RENEWALS, Leases
from llm_connect.stores.sqlite.rows import HOLDS_OF_LEASE

if TYPE_CHECKING:
    from llm_connect.stores.sqlite.ports import FileParts

#: The shortest interval between two looks for ended leases of other processes.
_LOOK_SECONDS = 1.0


class FileLeases(Leases):
    """The lease of this process, and the end of holds whose lease has ended."""

    _session: FileParts

    def __init__(self, session: FileParts, seconds: float) -> None:
        super().__init__(session, seconds)
        self._next_look = 0.0
        #: True if another process has ended this process's lease.
        self.taken: bool = False

    @property
    def due(self) -> bool:
        return self.own is not None and time.time() >= self.own.expires_at - self._renewed_before

    @property
    def look_due(self) -> bool:
        """True if it is time to look for ended leases of other processes."""
        return time.time() >= self._next_look

    @property
    def _renewed_before(self) -> float:
        """The number of seconds before its end at which a lease is renewed."""
        return self.seconds * (RENEWALS - 1) / RENEWALS

    def have(self) -> Lease:
        if self.own is None:
            expires_at = time.time() + self.seconds
            row = (self._session.budget, socket.gethostname(), os.getpid(), expires_at)
            number = self._session.connection.execute(
                "INSERT INTO leases (budget, host, pid, expires_at) VALUES (?, ?, ?, ?)", row
            ).lastrowid
            assert number is not None
            self.own = Lease(number, expires_at)
            self.open_holds: int = 0
            self._session.worker.start()
        return self.own

    def begin(self, connection: sqlite3.Connection) -> None:
        """Begin a transaction: renew the own lease, and end all expired leases, even the own one."""
        now = time.time()
        if self.own is not None:
            if self.taken or now >= self.own.expires_at:
                self.own, self.taken, self._next_look = None, False, 0.0
            elif now >= self.own.expires_at - self._renewed_before:
                self._renew(connection, self.own, now)
        if now >= self._next_look:
            self._next_look = now + min(_LOOK_SECONDS, self.seconds / RENEWALS)
            self._end_over(connection, now)
            self._session.waiters.end_over(connection, now)

    def undo(self) -> None:
        super().undo()
        self._next_look = 0.0

    def give_up(self) -> None:
        if self.own is not None:
            number, self.own = self.own.number, None
            self._end(self._session.connection, number)

    def _left(self, hold: StoredHold) -> tuple[int, str, bool] | None:
        assert hold.lease is not None
        row: tuple[int, str, bool] | None = self._session.connection.execute(
            "SELECT id, outcome, open FROM ledger WHERE lease = ? AND hold = ?", (hold.lease.number, hold.row)
        ).fetchone()
        return row

    def _renew(self, connection: sqlite3.Connection, lease: Lease, now: float) -> None:
        if not self.needed:
            connection.execute("DELETE FROM leases WHERE id = ?", (lease.number,))
            self.own = None
            return
        lease.expires_at = now + self.seconds
        connection.execute("UPDATE leases SET expires_at = ? WHERE id = ?", (lease.expires_at, lease.number))

    def _end_over(self, connection: sqlite3.Connection, now: float) -> None:
        over = "SELECT id FROM leases WHERE budget = ? AND expires_at <= ?"
        for (number,) in connection.execute(over, (self._session.budget, now)).fetchall():
            if self.own is not None and self.own.number == number:
                self.own = None
            self._end(connection, number)

    def _end(self, connection: sqlite3.Connection, number: int) -> None:
        """End a lease: release its reserved holds, presume its dispatched ones, and return its allotments."""
        self._session.unseen = True
        lease = Lease(number, 0.0)
        for row in connection.execute(HOLDS_OF_LEASE, (number,)).fetchall():
            self._end_hold(lease, row)
        self._session.allotments.close_of(number)
        connection.execute("DELETE FROM leases WHERE id = ?", (number,))

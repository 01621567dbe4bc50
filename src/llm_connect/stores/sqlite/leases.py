"""Leases: whoever holds budget says again and again that it is still there, and loses it when it does not.

The clock is that of the machine, which all processes of a file share.
"""

from __future__ import annotations

import os
import socket
import sqlite3
import time
from typing import TYPE_CHECKING

from llm_connect.core import forks
from llm_connect.core.demand import PlainDemand
from llm_connect.core.holds import RELEASED, Ending
from llm_connect.core.units import NOTHING, Amount
from llm_connect.stores.sqlite.holds import StoredHold
from llm_connect.stores.sqlite.rows import HOLDS_OF_LEASE, facts_of

if TYPE_CHECKING:
    from llm_connect.stores.sqlite.state import TransactionalGate

#: A lease is renewed three times before it would end.
_RENEWALS = 3
#: How often one looks for the leases of others that have ended, at most.
_LOOK_SECONDS = 1.0


class Lease:
    """The lease of one process; it is a new one after it was lost, and in a forked process."""

    def __init__(self, number: int, expires_at: float) -> None:
        self.number = number
        self.expires_at = expires_at
        self.generation = forks.generation


class Leases:
    """The own lease of this process, and what becomes of the holds of those that have lost theirs."""

    def __init__(self, gate: TransactionalGate, seconds: float) -> None:
        self._gate = gate
        self.seconds = seconds
        self.own: Lease | None = None
        #: Holds that stand under the own lease.
        self.open_holds: int = 0
        self._next_look = 0.0
        self._before: tuple[Lease | None, int] = (None, 0)

    @property
    def due(self) -> bool:
        """Whether the own lease is to be renewed."""
        return self.own is not None and time.time() >= self.own.expires_at - self._renewed_before

    @property
    def look_due(self) -> bool:
        """Whether it is time to look for the leases of others that have ended."""
        return time.time() >= self._next_look

    @property
    def _renewed_before(self) -> float:
        """How long before its end a lease is renewed."""
        return self.seconds * (_RENEWALS - 1) / _RENEWALS

    @property
    def pause(self) -> float:
        """Seconds after which somebody should look again."""
        return self.seconds / _RENEWALS / 2

    def have(self, connection: sqlite3.Connection) -> Lease:
        """The own lease; a new one when there is none."""
        if self.own is None:
            expires_at = time.time() + self.seconds
            row = (self._gate.budget, socket.gethostname(), os.getpid(), expires_at)
            number = connection.execute(
                "INSERT INTO leases (budget, host, pid, expires_at) VALUES (?, ?, ?, ?)", row
            ).lastrowid
            assert number is not None
            self.own, self.open_holds = Lease(number, expires_at), 0
            self._gate.worker.start()
        return self.own

    def begin(self, connection: sqlite3.Connection, *, moved: bool) -> None:
        """At the begin of a transaction: renew the own lease, and end those that are over, be it the own one.

        moved: whether others have changed the file.
        """
        now = time.time()
        if self.own is not None:
            if now >= self.own.expires_at or (moved and not self._stands(connection, self.own)):
                self.own, self._next_look = None, 0.0
            elif now >= self.own.expires_at - self._renewed_before:
                self._renew(connection, self.own, now)
        if now >= self._next_look:
            self._next_look = now + min(_LOOK_SECONDS, self.seconds / _RENEWALS)
            self._end_over(connection, now)
            self._gate.waiters.end_over(connection, now)

    def commit(self) -> None:
        """The transaction was committed."""
        self._before = (self.own, self.open_holds)

    def undo(self) -> None:
        """The transaction was rolled back."""
        self.own, self.open_holds = self._before
        self._next_look = 0.0

    def forget(self) -> None:
        """In a forked process: the lease is the parent's."""
        self.own, self.open_holds, self._before = None, 0, (None, 0)

    def give_up(self, connection: sqlite3.Connection) -> None:
        """End the own lease, and all holds under it."""
        if self.own is not None:
            number, self.own = self.own.number, None
            self._end(connection, number)

    def end_late(self, connection: sqlite3.Connection, hold: StoredHold, ending: Ending) -> None:
        """End a hold that was lost: what was booked for it is corrected."""
        assert hold.lease is not None
        left = connection.execute(
            "SELECT id, outcome, open FROM ledger WHERE lease = ? AND hold = ?", (hold.lease.number, hold.row)
        ).fetchone()
        hold.leave_row()
        if left is None:
            return
        hold.entry_id, outcome, is_open = left
        hold.ending = ending
        if is_open and ending.outcome != "presumed":
            self._gate.books.correct(hold.entry_id, ending.amount)
        elif outcome == "released" and ending.amount != NOTHING:
            self._gate.books.record(hold.tracker, ending.amount, hold.facts)

    @staticmethod
    def _stands(connection: sqlite3.Connection, lease: Lease) -> bool:
        return connection.execute("SELECT 1 FROM leases WHERE id = ?", (lease.number,)).fetchone() is not None

    def _renew(self, connection: sqlite3.Connection, lease: Lease, now: float) -> None:
        if not self.open_holds and lease.number not in self._gate.trackers.slices.values():
            connection.execute("DELETE FROM leases WHERE id = ?", (lease.number,))
            self.own = None
            return
        lease.expires_at = now + self.seconds
        connection.execute("UPDATE leases SET expires_at = ? WHERE id = ?", (lease.expires_at, lease.number))

    def _end_over(self, connection: sqlite3.Connection, now: float) -> None:
        over = "SELECT id FROM leases WHERE budget = ? AND expires_at <= ?"
        for (number,) in connection.execute(over, (self._gate.budget, now)).fetchall():
            self._end(connection, number)

    def _end(self, connection: sqlite3.Connection, number: int) -> None:
        """Release what was reserved under a lease, presume what was dispatched, and return its slices."""
        self._gate.unseen = True
        lease = Lease(number, 0.0)
        for row in connection.execute(HOLDS_OF_LEASE, (number,)).fetchall():
            self._end_hold(lease, row)
        self._gate.close_slices_of(number)
        connection.execute("DELETE FROM leases WHERE id = ?", (number,))

    def _end_hold(self, lease: Lease, row: tuple[object, ...]) -> None:
        number, _, tracker, state, tokens, calls, nano_usd, max_tokens, grade, adapter, model, labels, reserved_at = row
        bound = Amount(tokens, calls, nano_usd)  # type: ignore[arg-type]
        facts = facts_of(grade, adapter, model, labels)  # type: ignore[arg-type]
        hold = StoredHold(self._gate.trackers.find(tracker), bound, max_tokens, PlainDemand(*bound), facts)  # type: ignore[arg-type]
        hold.row, hold.lease, hold.reserved_at = number, lease, reserved_at  # type: ignore[assignment]
        presumed = state == "dispatched" and self._gate.on_unknown == "presume"
        self._gate.books.end(hold, Ending("presumed", bound) if presumed else RELEASED)

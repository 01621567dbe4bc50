"""Leases in a server. They use the server's clock."""

from __future__ import annotations

import itertools
import os
import secrets
import socket
import time
from typing import TYPE_CHECKING, Any

from llm_connect.budget.admission.holds import Ending
from llm_connect.stores.holds import StoredHold
from llm_connect.stores.lease import Lease
from llm_connect.stores.leases import RENEWALS, Leases
from llm_connect.stores.redis.server import text_of
from llm_connect.types.amounts import NOTHING

if TYPE_CHECKING:
    from llm_connect.stores.redis.ports import ServerParts


class ServerLeases(Leases):
    """The lease of this process, and the end of holds whose lease has ended.

    The server writes no step of a process whose lease has ended. Steps renew the lease long before it is due.
    """

    _session: ServerParts

    def __init__(self, session: ServerParts, seconds: float) -> None:
        super().__init__(session, seconds)
        self._is_new = False
        self._renewed_at = 0.0
        self._names = itertools.count(1)

    @property
    def due(self) -> bool:
        return self.own is not None and time.monotonic() >= self._renewed_at + self.seconds / RENEWALS

    def have(self) -> Lease:
        if self.own is None:
            self.own, self.open_holds, self._is_new = Lease(secrets.token_hex(8), 0.0), 0, True
            self._renewed_at = time.monotonic()
            self._session.worker.start()
        return self.own

    def enter(self, hold: StoredHold) -> None:
        """Put a new hold under this process's lease."""
        hold.lease = self.have()
        hold.row = f"{hold.lease.number}.{next(self._names)}"
        self.open_holds += 1

    def said(self) -> list[Any] | None:
        """The own lease in the form that a step contains."""
        if self.own is None:
            return None
        owner = text_of([socket.gethostname(), os.getpid(), self._session.client]) if self._is_new else False
        renews = self._is_new or time.monotonic() >= self._renewed_at + self.seconds / (2 * RENEWALS)
        return [self.own.number, int(self.seconds * 1000) if renews else 0, owner]

    def renewed(self, since: float) -> None:
        """Note that a step, sent at `since`, has renewed the own lease."""
        self._renewed_at = since

    def lost(self) -> None:
        """Forget the own lease and its holds: the lease has ended."""
        self.own = None
        self.open_holds: int = 0
        super().commit()

    def commit(self) -> None:
        super().commit()
        self._is_new = False

    def undo(self) -> None:
        super().undo()
        self._is_new = False

    def give_up(self) -> None:
        if self.own is not None:
            number, self.own = self.own.number, None
            self.end([number])

    def end(self, numbers: list[str]) -> None:
        """End leases: release their reserved holds, presume their dispatched ones, and return their allotments."""
        leases = {number: Lease(number, 0.0) for number in numbers}
        for name, row in self._session.stored_holds():
            if row[0] in leases:
                self._end_hold(leases[row[0]], (name, *row))
        for number in numbers:
            self._session.allotments.close_of(number)
        for number in numbers:
            self._session.changes.say("over", number)

    def end_late(self, hold: StoredHold, ending: Ending) -> None:
        row = hold.row
        if self._left(hold) is None:
            # The server has lost the hold. Book its outcome all the same.
            hold.leave_row()
            if ending.amount != NOTHING:
                hold.ending = ending
                hold.entry_id = -1
                self._session.books.record(hold.tracker, ending.amount, hold.facts)
            return
        super().end_late(hold, ending)
        self._session.changes.say("late", str(row))

    def _left(self, hold: StoredHold) -> tuple[int, str, bool] | None:
        left = self._session.fetch("HGET", "lost", hold.row)
        if left is None:
            return None
        number, outcome = left.decode().split()
        return int(number), outcome, bool(self._session.fetch("HEXISTS", "open", number))

"""The changes that one transaction writes to a budget file."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Any

from llm_connect.stores.again import Again
from llm_connect.stores.changes import Changes
from llm_connect.stores.holds import StoredHold
from llm_connect.stores.serialization import hold_values, tracker_state
from llm_connect.stores.sqlite.rows import INSERT_HOLD, UPDATE_TRACKER
from llm_connect.stores.sqlite.windows import write_window

if TYPE_CHECKING:
    from llm_connect.budget.accounting.scope import Scope
    from llm_connect.stores.sqlite.ports import FileParts


class FileChanges(Changes):
    """The holds and trackers that the current transaction has changed."""

    def __init__(self, session: FileParts) -> None:
        super().__init__()
        self._session = session

    def write(self, connection: sqlite3.Connection) -> None:
        """Write the changes. Raises Again if the figures of a tracker are stale; the next try reads them."""
        for hold in self._holds:
            self._write_hold(connection, hold)
            self.note_trackers(hold.tracker.lineage)
        trackers = self._session.trackers
        for tracker in self._trackers:
            number = trackers.number_of(tracker)
            if not trackers.is_current(tracker):
                raise Again
            state = tracker_state(tracker, trackers.allotments.get(number))
            connection.execute(UPDATE_TRACKER, (*state, number))
            write_window(connection, number, tracker.window)

    def note_allotment(self, share: Scope, lease: Any) -> None:
        self._session.trackers.note_allotment(share.number, lease)

    def _write_hold(self, connection: sqlite3.Connection, hold: StoredHold) -> None:
        if hold.ended:
            if hold.row is not None:
                connection.execute("DELETE FROM holds WHERE id = ?", (hold.row,))
                # Only own holds count, not the holds of another process whose lease has ended.
                self._session.leases.open_holds -= hold.lease is self._session.leases.own
        elif hold.row is None:
            self._insert(connection, hold)
        else:
            connection.execute(
                "UPDATE holds SET state = ?, tokens = ?, calls = ?, nano_usd = ? WHERE id = ?",
                (hold.state, *hold.bound, hold.row),
            )

    def _insert(self, connection: sqlite3.Connection, hold: StoredHold) -> None:
        lease = self._session.leases.have()
        row = hold_values(hold, lease, self._session.trackers.number_of(hold.tracker))
        hold.row = connection.execute(INSERT_HOLD, row).lastrowid
        hold.lease = lease
        self._session.leases.open_holds += 1

"""What one transaction writes into a budget file."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

from llm_connect.stores.changes import Changes
from llm_connect.stores.holds import StoredHold
from llm_connect.stores.serialization import hold_values, tracker_state
from llm_connect.stores.sqlite.rows import INSERT_HOLD, UPDATE_TRACKER
from llm_connect.stores.sqlite.windows import write_window

if TYPE_CHECKING:
    from llm_connect.stores.sqlite.ports import FileSession


class FileChanges(Changes):
    """The holds and trackers that the transaction at hand has changed."""

    def __init__(self, gate: FileSession) -> None:
        super().__init__()
        self._gate = gate

    def write(self, connection: sqlite3.Connection, stamp: int) -> None:
        """Write them, trackers under this number of the change."""
        for hold in self._holds:
            self._write_hold(connection, hold)
            self.note_trackers(hold.tracker.lineage)
        trackers = self._gate.trackers
        for tracker in self._trackers:
            number = trackers.number_of(tracker)
            state = tracker_state(tracker, trackers.slices.get(number))
            connection.execute(UPDATE_TRACKER, (stamp, *state, number))
            write_window(connection, number, tracker.window)

    def _write_hold(self, connection: sqlite3.Connection, hold: StoredHold) -> None:
        if hold.ended:
            if hold.row is not None:
                connection.execute("DELETE FROM holds WHERE id = ?", (hold.row,))
                # That of another process, whose lease was over, is none of its own.
                self._gate.leases.open_holds -= hold.lease is self._gate.leases.own
        elif hold.row is None:
            self._insert(connection, hold)
        else:
            connection.execute(
                "UPDATE holds SET state = ?, tokens = ?, calls = ?, nano_usd = ? WHERE id = ?",
                (hold.state, *hold.bound, hold.row),
            )

    def _insert(self, connection: sqlite3.Connection, hold: StoredHold) -> None:
        lease = self._gate.leases.have()
        row = hold_values(hold, lease, self._gate.trackers.number_of(hold.tracker))
        hold.row = connection.execute(INSERT_HOLD, row).lastrowid
        hold.lease = lease
        self._gate.leases.open_holds += 1

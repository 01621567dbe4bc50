"""What one transaction changes in memory: written when it commits, undone when it does not."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from typing import TYPE_CHECKING

from llm_connect.stores.sqlite.holds import Before, StoredHold
from llm_connect.stores.sqlite.rows import INSERT_HOLD, UPDATE_TRACKER, labels_text, start_anew, tracker_state
from llm_connect.stores.sqlite.windows import write_window

if TYPE_CHECKING:
    from llm_connect.core.budget import BudgetTracker
    from llm_connect.stores.sqlite.state import TransactionalGate


class Changes:
    """The holds and trackers that the transaction at hand has changed."""

    def __init__(self, gate: TransactionalGate) -> None:
        self._gate = gate
        self._holds: dict[StoredHold, Before] = {}
        self._trackers: dict[BudgetTracker, None] = {}

    def note(self, hold: StoredHold) -> None:
        """`hold` is about to change."""
        if hold not in self._holds:
            self._holds[hold] = hold.before

    def note_trackers(self, trackers: Iterable[BudgetTracker]) -> None:
        """These have changed, or may have."""
        self._trackers.update(dict.fromkeys(trackers))

    def __bool__(self) -> bool:
        return bool(self._holds or self._trackers)

    def write(self, connection: sqlite3.Connection, stamp: int) -> None:
        """Write them, trackers under this number of the change."""
        for hold in self._holds:
            self._write_hold(connection, hold)
            self.note_trackers(hold.tracker.lineage)  # type: ignore[arg-type]
        trackers = self._gate.trackers
        for tracker in self._trackers:
            number = trackers.number_of(tracker)
            state = tracker_state(tracker, trackers.slices.get(number))
            connection.execute(UPDATE_TRACKER, (stamp, *state, number))
            write_window(connection, number, tracker.window)

    def clear(self) -> None:
        """They are written."""
        self._holds.clear()
        self._trackers.clear()

    def undo(self) -> None:
        """Let all holds be as before, and trackers that have no row be new; others are read anew."""
        for hold, before in self._holds.items():
            self.note_trackers(hold.tracker.lineage)  # type: ignore[arg-type]
            hold.undo(before)
        for tracker in self._trackers:
            if not tracker.number:
                start_anew(tracker)
        self.clear()

    def made(self, hold: object) -> bool:
        """Whether `hold` was granted by this transaction."""
        before = self._holds.get(hold) if isinstance(hold, StoredHold) else None
        return before is not None and before.row is None

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
        lease, facts = self._gate.leases.have(connection), hold.facts
        row = (
            *(lease.number, self._gate.trackers.number_of(hold.tracker), hold.state, *hold.bound, hold.max_tokens),
            *(facts.grade, facts.adapter, facts.model, labels_text(facts.labels), hold.reserved_at),
        )
        hold.row = connection.execute(INSERT_HOLD, row).lastrowid
        hold.lease = lease
        self._gate.leases.open_holds += 1

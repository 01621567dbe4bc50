"""The trackers of a budget file that this process knows."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Any

from llm_connect.budget.tracker import BudgetTracker
from llm_connect.stores.serialization import Row, tracker_state
from llm_connect.stores.sqlite.rows import (
    CHANGED_TRACKERS,
    FIND_TRACKER,
    INSERT_TRACKER,
    JOINED_TRACKER,
    LAST_CHANGE,
    OPEN_SLICES,
    SPENT_TRACKERS,
)
from llm_connect.stores.sqlite.windows import read_window, write_window
from llm_connect.stores.trackers import Trackers

if TYPE_CHECKING:
    from llm_connect.budget.accounting.scope import Scope
    from llm_connect.budget.accounting.windows import Window
    from llm_connect.stores.sqlite.ports import FileSession


class FileTrackers(Trackers):
    """Trackers by the number of their row."""

    _gate: FileSession

    def _read(self, number: int) -> Row:
        row: Row = self._connection.execute(FIND_TRACKER, (number,)).fetchone()
        return row

    def _window(self, number: int, state: Row) -> Window | None:
        return read_window(self._connection, number)

    def number_of(self, tracker: Scope, *, joined: bool = False) -> int:
        if not tracker.number:
            parent = None if tracker.parent is None else self.number_of(tracker.parent)
            place = (self._gate.budget, parent, tracker.name, tracker.path, joined, tracker.is_slice, self.next_stamp)
            row = (*place, *tracker_state(tracker, None))
            # First, so that whatever comes between, undoing knows of it.
            self._inserted.append(tracker)
            number = self._connection.execute(INSERT_TRACKER, row).lastrowid
            assert number is not None
            self._enter(tracker, number, lease=None)
            write_window(self._connection, number, tracker.window)
        return tracker.number

    def joined(self, child: Scope) -> BudgetTracker | None:
        assert child.parent is not None
        parent = self.number_of(child.parent)
        row = self._connection.execute(JOINED_TRACKER, (parent, child.name)).fetchone()
        return None if row is None else self.find(row[0])

    def deepest_first(self) -> list[BudgetTracker]:
        rows = self._connection.execute(SPENT_TRACKERS, (self._gate.budget,)).fetchall()
        # And those above, whose windows may have less than those of their children.
        found = {each: None for (number,) in rows for each in self.find(number).lineage}
        return sorted(found, key=lambda tracker: len(tracker.lineage), reverse=True)

    def refresh(self) -> None:
        if self.stamp is None:
            self._read_all()
            return
        changed = self._connection.execute(CHANGED_TRACKERS, (self._gate.budget, self.stamp)).fetchall()
        self.stamp = max((row[0] for row in changed), default=self.stamp)
        for _, number, *state in changed:
            self._note_slice(number, state[1])
            tracker = self._known.get(number)
            if tracker is not None:
                self._bring_up_to_date(tracker, number, tuple(state))

    def _read_all(self) -> None:
        budget = (self._gate.budget,)
        (self.stamp,) = self._connection.execute(LAST_CHANGE, budget).fetchone()
        self.slices: dict[int, Any] = dict(self._connection.execute(OPEN_SLICES, budget).fetchall())
        for number, tracker in list(self._known.items()):
            row = self._connection.execute(FIND_TRACKER, (number,)).fetchone()
            self._bring_up_to_date(tracker, number, row[3:])

    @property
    def next_stamp(self) -> int:
        """Under which number the changes of this transaction are written."""
        assert self.stamp is not None
        return self.stamp + 1

    def commit(self) -> None:
        """What was written, was written as the next change."""
        self.stamp = self.next_stamp
        self._inserted.clear()

    @property
    def _connection(self) -> sqlite3.Connection:
        return self._gate.connection

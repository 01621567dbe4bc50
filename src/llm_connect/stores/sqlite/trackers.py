"""The trackers of a budget file that this process has loaded."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from llm_connect.budget.tracker import BudgetTracker
from llm_connect.stores.serialization import Row, tracker_state
from llm_connect.stores.sqlite.rows import (
    ALLOTMENTS_AT,
    ALLOTMENTS_OF,
    FIND_TRACKER,
    INSERT_TRACKER,
    JOINED_TRACKER,
    READ_TRACKERS,
    SPENT_TRACKERS,
)
from llm_connect.stores.sqlite.windows import read_window, write_window
from llm_connect.stores.trackers import Trackers

if TYPE_CHECKING:
    from llm_connect.budget.accounting.scope import Scope
    from llm_connect.budget.accounting.windows import Window
    from llm_connect.stores.sqlite.ports import FileParts

#: The number of values that one query can have in every version of SQLite.
_MOST = 500


class FileTrackers(Trackers):
    """Trackers by the id of their row."""

    _session: FileParts

    def __init__(self, *details: Any, **more: Any) -> None:
        super().__init__(*details, **more)
        #: The version of the file's state. A tracker with the same `as_of` is up to date.
        self._state = 1
        #: The number of the lease of each loaded open allotment.
        self.allotments: dict[int, int] = {}

    def _read(self, number: int) -> Row:
        row: Row = self._connection.execute(FIND_TRACKER, (number,)).fetchone()
        return row

    def _window(self, number: int, state: Row) -> Window | None:
        return read_window(self._connection, number)

    def number_of(self, tracker: Scope, *, joined: bool = False) -> int:
        if not tracker.number:
            parent = None if tracker.parent is None else self.number_of(tracker.parent)
            place = (self._session.budget, parent, tracker.name, tracker.path, joined)
            row = (*place, *tracker_state(tracker, None))
            # First, so that `undo` knows of it if an interruption follows.
            self._inserted.append(tracker)
            number = self._connection.execute(INSERT_TRACKER, row).lastrowid
            assert number is not None
            self._enter(tracker, number)
            self.allotments.pop(number, None)
            tracker.as_of = self._state
            write_window(self._connection, number, tracker.window)
        return tracker.number

    def joined(self, child: Scope) -> BudgetTracker | None:
        assert child.parent is not None
        parent = self.number_of(child.parent)
        row = self._connection.execute(JOINED_TRACKER, (parent, child.name)).fetchone()
        return None if row is None else self.find(row[0])

    def deepest_first(self) -> list[BudgetTracker]:
        rows = self._connection.execute(SPENT_TRACKERS, (self._session.budget,)).fetchall()
        # Include all parents: their windows may contain less spend than those of their children.
        found = {each: None for (number,) in rows for each in self.find(number).lineage}
        return sorted(found, key=lambda tracker: len(tracker.lineage), reverse=True)

    def refresh(self, trackers: Iterable[Scope]) -> None:
        if not all(map(self.is_current, trackers)):
            # Reading the figures again would drop the changes that the step has made to them.
            self._session.check_touched()
            self.bring(trackers)

    def bring(self, trackers: Iterable[Scope]) -> None:
        """Read the figures of these trackers, unless they are up to date."""
        state = self._state
        old = {each.number: each for each in trackers if each.as_of != state and each.number}
        for numbers in batched(list(old)):
            rows = self._connection.execute(f"{READ_TRACKERS} ({', '.join('?' * len(numbers))})", numbers).fetchall()
            for number, *state in rows:
                self._bring_up_to_date(old[number], number, tuple(state))

    def _bring_up_to_date(self, tracker: Scope, number: int, state: Row) -> None:
        super()._bring_up_to_date(tracker, number, state)
        tracker.as_of = self._state
        self.note_allotment(number, state[1])

    def note_allotment(self, number: int, lease: Any) -> None:
        """Note the lease of an open allotment; None means that the tracker is not one."""
        if lease is None:
            self.allotments.pop(number, None)
        else:
            self.allotments[number] = lease

    def is_current(self, tracker: Scope) -> bool:
        return tracker.as_of == self._state or not tracker.number

    def open_allotments(self, *, at: Scope | None = None, lease: object = None) -> list[BudgetTracker]:
        query = ALLOTMENTS_OF if at is None else ALLOTMENTS_AT
        values = (self._session.budget, *((lease,) if at is None else (at.path,) * 3))
        found = [self.find(number) for (number,) in self._connection.execute(query, values).fetchall()]
        # An earlier tracker may have had the same path.
        return [each for each in found if at is None or at in each.lineage]

    def keeps_allotments(self, lease: object) -> bool:
        found = self._connection.execute(f"SELECT EXISTS ({ALLOTMENTS_OF})", (self._session.budget, lease)).fetchone()
        return bool(found[0])

    def commit(self) -> None:
        """Keep the inserted trackers: they are in the file."""
        self._inserted.clear()

    def undo(self, touched: Iterable[Scope]) -> None:
        super().undo(touched)
        self.forget()

    def forget(self) -> None:
        """Consider all loaded figures stale."""
        self._state += 1

    @property
    def _connection(self) -> sqlite3.Connection:
        return self._session.connection


def batched(numbers: list[int]) -> Iterator[list[int]]:
    """The numbers in batches that every version of SQLite accepts."""
    return (numbers[at : at + _MOST] for at in range(0, len(numbers), _MOST))

"""The trackers of a budget file that this process knows."""

from __future__ import annotations

import sqlite3
import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING

from llm_connect.core.budget import BudgetTracker
from llm_connect.core.periods import Period
from llm_connect.core.price import Price
from llm_connect.stores.sqlite.rows import (
    CHANGED_TRACKERS,
    FIND_TRACKER,
    INSERT_TRACKER,
    JOINED_TRACKER,
    LAST_CHANGE,
    OPEN_SLICES,
    SPENT_TRACKERS,
    Row,
    bring_up_to_date,
    tracker_state,
)
from llm_connect.stores.sqlite.windows import read_window, write_window

if TYPE_CHECKING:
    from llm_connect.stores.sqlite.state import TransactionalGate


class Trackers:
    """Trackers by the number of their row. One that has never held or booked anything has none yet."""

    def __init__(self, gate: TransactionalGate, prices: Mapping[str, Price], *, strict: bool) -> None:
        self._gate = gate
        self._prices = prices
        self._strict = strict
        self._known: weakref.WeakValueDictionary[int, BudgetTracker] = weakref.WeakValueDictionary()
        self._inserted: list[BudgetTracker] = []
        #: The number of the last change that was seen; None when all has to be read.
        self.stamp: int | None = None
        #: For each open slice, the number of the lease that keeps it open.
        self.slices: dict[int, int] = {}

    def find(self, number: int) -> BudgetTracker:
        """The tracker of a row."""
        known = self._known.get(number)
        if known is not None:
            return known
        parent, name, is_slice, *state = self._connection.execute(FIND_TRACKER, (number,)).fetchone()
        window = read_window(self._connection, number)
        period = None if window is None else window.period
        tracker = self.make(name, None if parent is None else self.find(parent), period, is_slice=bool(is_slice))
        tracker._opens_as_slice = False
        self._bring_up_to_date(tracker, number, tuple(state))
        self._enter(tracker, number, lease=state[1])
        if window is not None:
            # What is booked on it next must not count in a part that is over.
            self._gate.roll()
        return tracker

    def make(self, name: str, parent: BudgetTracker | None, period: Period | None, *, is_slice: bool) -> BudgetTracker:
        """A tracker as it is in memory."""
        tracker = BudgetTracker.__new__(BudgetTracker)
        tracker.prices = self._prices
        tracker.strict = self._strict
        tracker._become(name, parent, self._gate, (None, None, None), period, is_slice=is_slice)
        return tracker

    def number_of(self, tracker: BudgetTracker, *, joined: bool = False) -> int:
        """The number of its row, which it gets when it has none."""
        if not tracker.number:
            parent = None if tracker.parent is None else self.number_of(tracker.parent)
            place = (self._gate.budget, parent, tracker.name, tracker.path, joined, tracker.is_slice, self.next_stamp)
            row = (*place, *tracker_state(tracker, None))
            number = self._connection.execute(INSERT_TRACKER, row).lastrowid
            assert number is not None
            self._enter(tracker, number, lease=None)
            write_window(self._connection, number, tracker.window)
            self._inserted.append(tracker)
        return tracker.number

    def joined(self, child: BudgetTracker) -> BudgetTracker | None:
        """The open child of this name that others have joined."""
        assert child.parent is not None
        parent = self.number_of(child.parent)
        row = self._connection.execute(JOINED_TRACKER, (parent, child.name)).fetchone()
        return None if row is None else self.find(row[0])

    def open_slices(self) -> list[BudgetTracker]:
        """The open slices of all processes."""
        return [self.find(number) for number in self.slices]

    def deepest_first(self) -> list[BudgetTracker]:
        """Those that have spent anything, children before their parents."""
        rows = self._connection.execute(SPENT_TRACKERS, (self._gate.budget,)).fetchall()
        # And those above, whose windows may have less than those of their children.
        found = {each: None for (number,) in rows for each in self.find(number).lineage}
        return sorted(found, key=lambda tracker: len(tracker.lineage), reverse=True)  # type: ignore[arg-type]

    def refresh(self) -> None:
        """Bring those up to date that others have changed."""
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
        self.slices = dict(self._connection.execute(OPEN_SLICES, budget).fetchall())
        for number, tracker in list(self._known.items()):
            row = self._connection.execute(FIND_TRACKER, (number,)).fetchone()
            self._bring_up_to_date(tracker, number, row[3:])

    def _bring_up_to_date(self, tracker: BudgetTracker, number: int, state: Row) -> None:
        bring_up_to_date(tracker, state)
        window = None if tracker.window is None else read_window(self._connection, number)
        if tracker.window is not None and window is not None:
            tracker.window.become(*window.state)

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
    def inserted(self) -> bool:
        """Whether this transaction has inserted any."""
        return bool(self._inserted)

    def undo(self) -> None:
        """What was inserted is not there, and all others are read anew by the next transaction."""
        for tracker in self._inserted:
            self._known.pop(tracker.number, None)
            tracker.number = 0
        self._inserted.clear()
        self.stamp = None

    def _enter(self, tracker: BudgetTracker, number: int, lease: int | None) -> None:
        tracker.number = number
        self._known[number] = tracker
        self._note_slice(number, lease)

    def _note_slice(self, number: int, lease: int | None) -> None:
        if lease is None:
            self.slices.pop(number, None)
        else:
            self.slices[number] = lease

    @property
    def _connection(self) -> sqlite3.Connection:
        return self._gate.connection

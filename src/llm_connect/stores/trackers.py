"""The trackers of a budget in a store that this process knows."""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, cast

from llm_connect.budget.accounting.prices import Price
from llm_connect.budget.tracker import BudgetTracker
from llm_connect.stores.serialization import Row, bring_up_to_date

if TYPE_CHECKING:
    from llm_connect.budget.accounting.periods import Period
    from llm_connect.budget.accounting.scope import Scope
    from llm_connect.budget.accounting.windows import Window
    from llm_connect.stores.ports import StoreParts


class Trackers(ABC):
    """Trackers by their number in the store. One that has never held or booked anything has none yet."""

    def __init__(self, session: StoreParts, prices: Mapping[str, Price], *, strict: bool) -> None:
        self._session = session
        self._prices = prices
        self._strict = strict
        self._known: weakref.WeakValueDictionary[int, BudgetTracker] = weakref.WeakValueDictionary()
        self._inserted: list[Scope] = []

    def find(self, number: int) -> BudgetTracker:
        """The tracker of this number."""
        known = self._known.get(number)
        if known is not None:
            self.refresh(known.lineage)
            return known
        parent, name, is_slice, *state = self._read(number)
        window = self._window(number, tuple(state))
        period = None if window is None else window.period
        tracker = self.make(name, None if parent is None else self.find(parent), period, is_slice=bool(is_slice))
        tracker._opens_as_slice = False
        self._bring_up_to_date(tracker, number, tuple(state))
        self._enter(tracker, number)
        if window is not None:
            # What is booked on it next must not count in a part that is over.
            self._session.gate.move((tracker,))
        return tracker

    def known(self, number: int) -> BudgetTracker | None:
        """The tracker of this number, if this process has it."""
        return self._known.get(number)

    @abstractmethod
    def _window(self, number: int, state: Row) -> Window | None:
        """The window of the tracker of this number; None when its limits are for good."""

    def _bring_up_to_date(self, tracker: Scope, number: int, state: Row) -> None:
        bring_up_to_date(tracker, state)
        window = None if tracker.window is None else self._window(number, state)
        if tracker.window is not None and window is not None:
            tracker.window.become(*window.state)

    @abstractmethod
    def _read(self, number: int) -> Row:
        """The number of its parent, its name, whether it is a slice, and its state."""

    @abstractmethod
    def number_of(self, tracker: Scope, *, joined: bool = False) -> int:
        """The number of a tracker, which it gets when it has none."""

    @abstractmethod
    def joined(self, child: Scope) -> BudgetTracker | None:
        """The open child of this name that others have joined."""

    @abstractmethod
    def deepest_first(self) -> list[BudgetTracker]:
        """Those that have spent anything, children before their parents."""

    @abstractmethod
    def refresh(self, trackers: Iterable[Scope]) -> None:
        """In the middle of a step: bring these up to date, unless the step has changed them."""

    @abstractmethod
    def is_current(self, tracker: Scope) -> bool:
        """True if a step may be decided on the known figures of `tracker`."""

    def make(self, name: str, parent: BudgetTracker | None, period: Period | None, *, is_slice: bool) -> BudgetTracker:
        """A tracker as it is in memory."""
        tracker = BudgetTracker.__new__(BudgetTracker)
        tracker.prices = self._prices
        tracker.strict = self._strict
        tracker._become(name, parent, self._session.gate, (None, None, None), period, is_slice=is_slice)
        return tracker

    @abstractmethod
    def open_slices(self, *, at: Scope | None = None, lease: object = None) -> list[BudgetTracker]:
        """The open slices `at` a tracker and below it, whoever keeps them open; or those that a lease keeps open."""

    @abstractmethod
    def keeps_slices(self, lease: object) -> bool:
        """True if a lease keeps slices open."""

    def undo(self, touched: Iterable[Scope]) -> None:
        """Forget inserted trackers, and restore touched ones, now or in the next step."""
        for tracker in self._inserted:
            self._known.pop(tracker.number, None)
            tracker.number = 0
        self._inserted.clear()

    def _enter(self, tracker: Scope, number: int) -> None:
        tracker.number = number
        # All scopes of a store are trackers.
        self._known[number] = cast("BudgetTracker", tracker)

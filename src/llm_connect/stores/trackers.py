"""The trackers of a budget in a store that this process has loaded."""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, cast

from llm_connect.budget.accounting.prices import Price
from llm_connect.budget.tracker import BudgetTracker
from llm_connect.stores.serialization import Row, bring_up_to_date

if TYPE_CHECKING:
    from llm_connect.budget.accounting.scope import Scope
    from llm_connect.budget.accounting.windows import Window
    from llm_connect.stores.ports import StoreParts


class Trackers(ABC):
    """Trackers by their number in the store. A tracker gets its number with its first hold or booking."""

    def __init__(self, session: StoreParts, prices: Mapping[str, Price], *, strict: bool) -> None:
        self._session = session
        self._prices = prices
        self._strict = strict
        self._known: weakref.WeakValueDictionary[int, BudgetTracker] = weakref.WeakValueDictionary()
        self._inserted: list[Scope] = []

    def find(self, number: int) -> BudgetTracker:
        """The tracker with this number, up to date."""
        known = self._known.get(number)
        if known is not None:
            self.refresh(known.lineage)
            return known
        parent, name, *state = self._read(number)
        window = self._window(number, tuple(state))
        period = None if window is None else window.period
        above = None if parent is None else self.find(parent)
        tracker = BudgetTracker.__new__(BudgetTracker)
        tracker.prices = self._prices
        tracker.strict = self._strict
        # Only an open allotment has a lease.
        is_allotment = state[1] is not None
        tracker._become(name, above, self._session.gate, (None, None, None), period, is_allotment=is_allotment)
        self._bring_up_to_date(tracker, number, tuple(state))
        self._enter(tracker, number)
        if window is not None:
            # The next booking must not count in a part of the window that has ended.
            self._session.gate.move((tracker,))
        return tracker

    def known(self, number: int) -> BudgetTracker | None:
        """The tracker with this number, if this process has loaded it."""
        return self._known.get(number)

    @abstractmethod
    def _window(self, number: int, state: Row) -> Window | None:
        """The window of the tracker with this number; None without a period."""

    def _bring_up_to_date(self, tracker: Scope, number: int, state: Row) -> None:
        bring_up_to_date(tracker, state)
        window = None if tracker.window is None else self._window(number, state)
        if tracker.window is not None and window is not None:
            tracker.window.become(*window.state)

    @abstractmethod
    def _read(self, number: int) -> Row:
        """Read a tracker: the number of its parent, its name and its state."""

    @abstractmethod
    def number_of(self, tracker: Scope, *, joined: bool = False) -> int:
        """The number of a tracker; a new tracker gets one."""

    @abstractmethod
    def joined(self, child: Scope) -> BudgetTracker | None:
        """The open joined child of this name, if there is one."""

    @abstractmethod
    def deepest_first(self) -> list[BudgetTracker]:
        """All trackers that have spent, children before their parents."""

    @abstractmethod
    def refresh(self, trackers: Iterable[Scope]) -> None:
        """Update these trackers within a step, except those that the step has changed."""

    @abstractmethod
    def is_current(self, tracker: Scope) -> bool:
        """True if a step may rely on the loaded figures of `tracker`."""

    @abstractmethod
    def open_allotments(self, *, at: Scope | None = None, lease: object = None) -> list[BudgetTracker]:
        """The open allotments `at` a tracker and below it, of all processes, or the allotments of one lease."""

    @abstractmethod
    def keeps_allotments(self, lease: object) -> bool:
        """True if allotments are open under a lease."""

    def undo(self, touched: Iterable[Scope]) -> None:
        """Forget inserted trackers. Restore touched ones, now or in the next step."""
        for tracker in self._inserted:
            self._known.pop(tracker.number, None)
            tracker.number = 0
        self._inserted.clear()

    def _enter(self, tracker: Scope, number: int) -> None:
        tracker.number = number
        # In a store, all scopes are trackers.
        self._known[number] = cast("BudgetTracker", tracker)

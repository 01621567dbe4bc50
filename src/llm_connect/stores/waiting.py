"""The wait queue of a budget in a store, and the waiting callers, of which the processes tell each other.

Each process writes the first callers of its wait queue to the store, for the time of a lease, and renews them while
they wait. In the other processes, callers that arrived later wait behind them.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple
from weakref import WeakSet

from llm_connect.budget.admission.holds import Keeper
from llm_connect.budget.admission.wait_queue import Line, RemoteWaiter, Waiter
from llm_connect.errors import BudgetReason, LLMError
from llm_connect.stores.parts import Trackers
from llm_connect.types.amounts import Amount

#: A process tells the others of at most this many callers, on different trackers or with different amounts.
_TOLD = 16

#: The process renews the row of a caller three times before it would expire.
_RENEWALS = 3


class RevisableLine(Line):
    """A wait queue that announces the decisions of a step after its commit, and undoes them otherwise."""

    def __init__(self, keeper: Keeper, sure: Callable[[], None]) -> None:
        super().__init__(keeper)
        #: The waiters to wake.
        self.told: deque[Waiter] = deque()
        self._sure = sure
        #: The waiters that the step has changed, with their states before, and True for those that were in the queue.
        self.noted: dict[Waiter, tuple[tuple[Any, ...], bool]] = {}

    def note(self, waiter: Waiter) -> None:
        if waiter not in self.noted:
            state = (waiter.hold, waiter.error, waiter.own, waiter.gone)
            self.noted[waiter] = (state, waiter in self._members)

    def _refuse(self, waiter: Waiter, reason: BudgetReason) -> None:
        if reason != "wait_expired":
            self._sure()
        super()._refuse(waiter, reason)

    def commit(self) -> None:
        """Keep the decisions: the step was committed."""
        if self.ready:
            self.told.extend(self.ready)
            self.ready.clear()
        self.noted.clear()

    def undo(self, error: LLMError | None = None) -> None:
        """Undo the decisions: all wait as before. Callers that the step had admitted get `error`, if there is one."""
        self.ready.clear()
        self._kept.clear()
        for waiter, (before, _) in self.noted.items():
            granted = waiter.hold is not None
            waiter.hold, waiter.error, waiter.own, waiter.gone = before
            if granted and waiter.waiting and error is not None:
                waiter.error = error
                self.told.append(waiter)
        joined = {waiter for waiter, (_, was_there) in self.noted.items() if not was_there}
        waiting = {waiter for waiter in (*self._waiters(), *self.noted) if waiter.waiting}
        self._members = WeakSet(waiting - joined)
        self._regroup()
        self._restore_untaken()
        self._look_who_waits()
        self.noted.clear()

    def _restore_untaken(self) -> None:
        for waiter in [waiter for waiter in self.untaken if waiter.hold is None]:
            del self.untaken[waiter]
        for waiter in self.noted:
            if waiter.hold is not None and waiter not in self.untaken:
                self._expect_taking(waiter)


class Told(NamedTuple):
    """A waiting caller of this process, as other processes know it."""

    #: Its number or name in the store.
    row: Any
    amount: Amount
    #: The time of the monotonic clock at which its row must be renewed.
    renewed_at: float


class Heard(NamedTuple):
    """A waiting caller, as another process describes it."""

    #: The number of the tracker on which it waits.
    tracker: int
    arrival: int
    amount: Amount
    #: The seconds until its row expires.
    seconds: float


class Waiters(ABC):
    """The waiting callers of this process that the store lists, and the callers of other processes."""

    def __init__(self, trackers: Trackers, seconds: float) -> None:
        self._trackers = trackers
        self._seconds = seconds
        #: The callers in the store.
        self.told: dict[Waiter, Told] = {}
        #: The same, as the last step has left them.
        self.told_before: dict[Waiter, Told] = {}
        #: The callers of other processes that have a place here.
        self.remote: dict[Any, RemoteWaiter] = {}
        #: True until the next step after the callers of this process were withdrawn.
        self.withdrawn: bool = False

    @abstractmethod
    def _write(self, row: Any, waiter: Waiter, seconds: float) -> Any:
        """Write a waiting caller to the store for `seconds`, to its row if it has one, and return the row."""

    @abstractmethod
    def _delete(self, row: Any) -> None:
        """Delete the caller of this row from the store."""

    @property
    def due(self) -> bool:
        """True if the row of a remote caller has expired, or the row of an own caller must be renewed."""
        now = time.monotonic()
        over = any(waiter.waiting and waiter.deadline <= now for waiter in list(self.remote.values()))
        return over or any(told.renewed_at <= now for told in list(self.told.values()))

    def see(self, heard: Mapping[Any, Heard], line: RevisableLine) -> None:
        """Give the callers of other processes their places in `line`; `heard` has all callers in the store."""
        for row in self.remote.keys() - heard.keys():
            self.remote.pop(row).leave()
        own = {told.row for told in self.told.values()}
        others = {row: caller for row, caller in heard.items() if row not in own}
        line.see([new for row, caller in others.items() if (new := self._new(row, caller)) is not None])

    def tell(self, line: RevisableLine) -> None:
        """Write the first callers in `line` to the store, so that other processes know of them."""
        first = [] if self.withdrawn else line.first(_TOLD)
        for waiter in self.told.keys() - set(first):
            self._forget(waiter)
        for waiter in first:
            told = self.told.get(waiter)
            if told is not None and told.amount != waiter.demand.smallest:
                self._forget(waiter)
                told = None
            if told is None or told.renewed_at <= time.monotonic():
                self._tell(waiter, None if told is None else told.row)

    def withdraw(self) -> None:
        """Withdraw the callers of this process from the store until its next step."""
        for waiter in list(self.told):
            self._forget(waiter)
        self.withdrawn = True

    def commit(self) -> None:
        """Keep the changes: the step was committed."""
        self.withdrawn = False
        self.told_before = dict(self.told)

    def undo(self) -> None:
        """Undo the changes: the step was rolled back."""
        self.told, self.withdrawn = dict(self.told_before), False

    def leave_to_parent(self) -> None:
        """Forget all callers in a forked process: they belong to the parent."""
        self.told, self.told_before, self.remote = {}, {}, {}

    def _new(self, row: Any, caller: Heard) -> RemoteWaiter | None:
        """Return a waiter for an unknown row; for a known one, note the new deadline and return None."""
        deadline = time.monotonic() + caller.seconds
        known = self.remote.get(row)
        if known is not None and known.waiting:
            known.deadline = deadline
            return None
        tracker = self._trackers.find(caller.tracker)
        new = self.remote[row] = RemoteWaiter(tracker, caller.amount, arrival=caller.arrival, deadline=deadline)
        return new

    def _tell(self, waiter: Waiter, row: Any) -> None:
        now = time.monotonic()
        seconds = min(self._seconds, waiter.deadline - now)
        row = self._write(row, waiter, seconds)
        renewed_at = now + seconds / _RENEWALS if seconds == self._seconds else math.inf
        self.told[waiter] = Told(row, waiter.demand.smallest, renewed_at)

    def _forget(self, waiter: Waiter) -> None:
        self._delete(self.told.pop(waiter).row)

"""Callers that wait, as the processes that use a budget in a store tell each other of them.

Each process says who stands first in its line, for the time of a lease, and renews that while they wait. The others let
those that came later wait behind them.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from llm_connect.budget.admission.waiters import RemoteWaiter, Waiter
from llm_connect.types.amounts import Amount

if TYPE_CHECKING:
    from llm_connect.budget.admission.wait_queue import Line
    from llm_connect.stores.ports import StoreParts

#: Of so many callers, on different trackers or of different needs, a process tells the others.
_TOLD = 16

#: A caller's time is renewed three times before it would be over.
_RENEWALS = 3


class Told(NamedTuple):
    """A waiting caller of this process, as other processes know it."""

    #: Under which number or name it stands in the store.
    row: Any
    amount: Amount
    #: Moment on the monotonic clock in which its time is to be renewed.
    renewed_at: float


class Heard(NamedTuple):
    """A waiting caller, as another process describes it."""

    #: The number of the tracker on which it waits.
    tracker: int
    arrival: int
    amount: Amount
    #: Seconds until its time is over.
    seconds: float


class Waiters(ABC):
    """The callers of this process that the others know of, and those of the others."""

    def __init__(self, session: StoreParts, seconds: float) -> None:
        self._session = session
        self._seconds = seconds
        self._told: dict[Waiter, Told] = {}
        self._told_before: dict[Waiter, Told] = {}
        self._remote: dict[Any, RemoteWaiter] = {}
        self._withdrawn = False

    @abstractmethod
    def _write(self, row: Any, waiter: Waiter, seconds: float) -> Any:
        """Write a waiting caller to the store for `seconds`, to its row if it has one, and return the row."""

    @abstractmethod
    def _delete(self, row: Any) -> None:
        """Delete the caller of this row from the store."""

    @property
    def any_heard(self) -> bool:
        """True if a caller of another process has a place here."""
        return bool(self._remote)

    @property
    def due(self) -> bool:
        """True if the time of a caller is over, or a caller of this process has to renew its row."""
        now = time.monotonic()
        over = any(waiter.waiting and waiter.deadline <= now for waiter in list(self._remote.values()))
        return over or any(told.renewed_at <= now for told in list(self._told.values()))

    def see(self, heard: Mapping[Any, Heard], line: Line) -> None:
        """Give the callers of other processes their places in `line`; `heard` has all that are in the store."""
        for row in self._remote.keys() - heard.keys():
            self._remote.pop(row).leave()
        own = {told.row for told in self._told.values()}
        others = {row: caller for row, caller in heard.items() if row not in own}
        line.see([new for row, caller in others.items() if (new := self._new(row, caller)) is not None])

    def tell(self, line: Line) -> None:
        """Tell other processes of the first callers in `line` that they do not know yet."""
        if not (line.busy or self._told):
            return
        first = [] if self._withdrawn else line.first(_TOLD)
        for waiter in self._told.keys() - set(first):
            self._forget(waiter)
        for waiter in first:
            told = self._told.get(waiter)
            if told is not None and told.amount != waiter.demand.smallest:
                self._forget(waiter)
                told = None
            if told is None or told.renewed_at <= time.monotonic():
                self._tell(waiter, None if told is None else told.row)

    def withdraw(self) -> None:
        """Withdraw the callers of this process from the store until its next step."""
        for waiter in list(self._told):
            self._forget(waiter)
        self._withdrawn = True

    def commit(self) -> None:
        """The transaction was committed."""
        self._withdrawn = False
        if self._told or self._told_before:
            self._told_before = dict(self._told)

    def undo(self) -> None:
        """The transaction was rolled back."""
        self._told, self._withdrawn = dict(self._told_before), False

    def leave_to_parent(self) -> None:
        """In a forked process: the callers are the parent's."""
        self._told, self._told_before, self._remote = {}, {}, {}

    def _new(self, row: Any, caller: Heard) -> RemoteWaiter | None:
        """The caller of a row that is not known yet; of one that is, its time is noted."""
        deadline = time.monotonic() + caller.seconds
        known = self._remote.get(row)
        if known is not None and known.waiting:
            known.deadline = deadline
            return None
        tracker = self._session.trackers.find(caller.tracker)
        new = self._remote[row] = RemoteWaiter(tracker, caller.amount, arrival=caller.arrival, deadline=deadline)
        return new

    def _tell(self, waiter: Waiter, row: Any) -> None:
        now = time.monotonic()
        seconds = min(self._seconds, waiter.deadline - now)
        row = self._write(row, waiter, seconds)
        renewed_at = now + seconds / _RENEWALS if seconds == self._seconds else math.inf
        self._told[waiter] = Told(row, waiter.demand.smallest, renewed_at)

    def _forget(self, waiter: Waiter) -> None:
        self._delete(self._told.pop(waiter).row)

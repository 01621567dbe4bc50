"""Waiting callers, of which the processes that share a budget tell each other through the store.

Each process writes the first callers of its wait queue to the store, for the time of a lease, and renews them while
they wait. In the other processes, callers that arrived later wait behind them.
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

#: A process tells the others of at most this many callers, on different trackers or with different amounts.
_TOLD = 16

#: The process renews the row of a caller three times before it would expire.
_RENEWALS = 3


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
        """True if the row of a remote caller has expired, or the row of an own caller must be renewed."""
        now = time.monotonic()
        over = any(waiter.waiting and waiter.deadline <= now for waiter in list(self._remote.values()))
        return over or any(told.renewed_at <= now for told in list(self._told.values()))

    def see(self, heard: Mapping[Any, Heard], line: Line) -> None:
        """Give the callers of other processes their places in `line`; `heard` has all callers in the store."""
        for row in self._remote.keys() - heard.keys():
            self._remote.pop(row).leave()
        own = {told.row for told in self._told.values()}
        others = {row: caller for row, caller in heard.items() if row not in own}
        line.see([new for row, caller in others.items() if (new := self._new(row, caller)) is not None])

    def tell(self, line: Line) -> None:
        """Write the first callers in `line` to the store, so that other processes know of them."""
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
        """Keep the changes: the step was committed."""
        self._withdrawn = False
        if self._told or self._told_before:
            self._told_before = dict(self._told)

    def undo(self) -> None:
        """Undo the changes: the step was rolled back."""
        self._told, self._withdrawn = dict(self._told_before), False

    def leave_to_parent(self) -> None:
        """Forget all callers in a forked process: they belong to the parent."""
        self._told, self._told_before, self._remote = {}, {}, {}

    def _new(self, row: Any, caller: Heard) -> RemoteWaiter | None:
        """Return a waiter for an unknown row; for a known one, note the new deadline and return None."""
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

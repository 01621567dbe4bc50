"""Allowances: what a process holds of a budget, so that it can go on while the store is lost.

An allowance is a hold in the store, dispatched, under the lease of its process: when that dies, it is presumed. So
what is spent of it without the store's knowledge has counted all the time. A process keeps one on the budget itself,
and one on each child with limits that other processes may know.
"""

from __future__ import annotations

import math
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from functools import reduce
from typing import TYPE_CHECKING, Any

from llm_connect.core import accounts
from llm_connect.core.accounts import Account, left_on
from llm_connect.core.demand import CallFacts, PlainDemand
from llm_connect.core.grants import extend, give_back
from llm_connect.core.holds import RELEASED
from llm_connect.core.units import NOTHING, Amount
from llm_connect.stores.holds import StoredHold
from llm_connect.stores.rows import ALLOWANCE

if TYPE_CHECKING:
    from llm_connect.core.budget import BudgetTracker
    from llm_connect.stores.slicing import SlicingGate

#: How long after allowances were given back they are not taken again.
_REST_SECONDS = 1.0


class Allowance(StoredHold):
    """The hold of an allowance. It keeps neither its tracker nor the gate from being collected."""

    __slots__ = ("_gate_ref", "_number", "places")

    def __init__(self, tracker: BudgetTracker, bound: Amount) -> None:
        #: The numbers of its tracker and all above it.
        self.places: tuple[int, ...] = tuple(above.number for above in tracker.lineage)  # type: ignore[attr-defined]
        super().__init__(tracker, bound, None, PlainDemand(*bound), CallFacts(labels=ALLOWANCE))
        self.dispatched = True  # pyright: ignore[reportIncompatibleVariableOverride]

    @property
    def tracker(self) -> Any:
        return self._gate.trackers.find(self._number)

    @tracker.setter
    def tracker(self, tracker: BudgetTracker) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        self._gate_ref: weakref.ref[Any] = weakref.ref(tracker.gate)
        self._number: int = tracker.number

    @property
    def _gate(self) -> Any:
        return self._gate_ref()

    def __del__(self) -> None:
        """Its gate ends it."""


class Allowances:
    """The allowances of one process. Whoever changes them is in a transaction."""

    def __init__(self, gate: SlicingGate, share: float) -> None:
        self._gate = gate
        self._share = Fraction(repr(share))
        #: Trackers that other processes may know.
        self._shared: weakref.WeakSet[BudgetTracker] = weakref.WeakSet()
        #: Those among them that have limits, and when they were used last.
        self._used: weakref.WeakKeyDictionary[BudgetTracker, float] = weakref.WeakKeyDictionary()
        self.forget()

    def forget(self) -> None:
        """In a forked process: they are the parent's."""
        #: By the number of their tracker.
        self._kept: dict[int, Allowance] = {}
        #: Those of which nobody knows whether they were taken.
        self._doubtful: list[Allowance] = []
        self._before: tuple[dict[int, Allowance], list[Allowance]] = ({}, [])
        #: Numbers of those that may be gone: a transaction that gave them back may have been written.
        self._unsure: set[int] = set()
        self._rests_until = 0.0

    def __bool__(self) -> bool:
        return bool(self._kept or self._doubtful)

    def share(self, trackers: Iterable[Any]) -> None:
        """Other processes may know these, and all above them."""
        for tracker in trackers:
            self._shared.update(tracker.lineage)

    def is_shared(self, tracker: BudgetTracker) -> bool:
        """Whether other processes may know `tracker`."""
        return tracker in self._shared

    def use(self, tracker: BudgetTracker) -> None:
        """`tracker` is used: allowances are kept on it and above it from now on."""
        now = time.monotonic()
        for each in tracker.lineage:
            if each in self._shared and any(account.limit is not None for account in each.own_accounts):
                self._used[each] = now  # type: ignore[index]

    def on(self, tracker: BudgetTracker) -> Amount:
        """What is kept on `tracker` and below it, for sure."""
        bounds = (
            allowance.bound
            for number, allowance in list(self._kept.items())
            if tracker.number in allowance.places and number not in self._unsure
        )
        return reduce(Amount.plus, bounds, NOTHING)

    @property
    def due(self) -> bool:
        """Whether `tend` has anything to do; it may be asked without a transaction."""
        if self._unwanted:
            return bool(self)
        if self._doubtful or any(self._must_end(allowance) for allowance in list(self._kept.values())):
            return True
        return time.monotonic() >= self._rests_until and any(map(self._lacking, self._wanted()))

    def tend(self) -> None:
        """Take what lacks, and give back what is not to be kept."""
        if self._unwanted:
            self.give_back()
            return
        for number, allowance in list(self._kept.items()):
            if self._must_end(allowance):
                self._end(self._kept.pop(number))
        self._end_doubtful()
        if time.monotonic() >= self._rests_until:
            for tracker in self._wanted():
                self._keep(tracker)

    def give_back(self) -> bool:
        """Free all of them; whether there were any. Nothing while the store is lost, when they may be used up."""
        if self._gate.shadow is not None or not self:
            return False
        self.end()
        self._rests_until = time.monotonic() + _REST_SECONDS
        self._gate.look_who_fits()
        return True

    def end(self) -> None:
        """Free all of them; those that were presumed, since their lease was over, are corrected."""
        for allowance in self._kept.values():
            self._end(allowance)
        self._kept.clear()
        self._end_doubtful()

    @contextmanager
    def not_counted(self) -> Iterator[None]:
        """In the block, what is free is so as if they had been given back."""
        held = [(a.tracker.accounts, a.bound) for a in self._kept.values() if not a.ended and not self._gate.shadow]
        for path, bound in held:
            accounts.hold(path, NOTHING.minus(bound))
        try:
            yield
        finally:
            for path, bound in held:
                accounts.hold(path, bound)

    def commit(self) -> None:
        """The transaction was committed."""
        self._before = (dict(self._kept), list(self._doubtful))
        self._unsure.clear()

    def undo(self) -> None:
        """The transaction was rolled back."""
        kept, doubtful = self._before
        self._kept, self._doubtful = dict(kept), list(doubtful)

    def undo_in_doubt(self, undo: Callable[[], None]) -> None:
        """Do `undo`; but nobody knows whether the transaction was written.

        What it has given back is not used any more, and what it has taken is ended when the store is there again.
        """
        before = self._before[0]
        taken = [(a, a.before) for number, a in self._kept.items() if before.get(number) is not a]
        gone = [number for number, allowance in before.items() if self._kept.get(number) is not allowance]
        undo()
        self._unsure.update(gone)
        for allowance, as_taken in taken:
            allowance.undo(as_taken)
            self._doubtful.append(allowance)
        self._before = (before, list(self._doubtful))

    @property
    def _unwanted(self) -> bool:
        """Whether it is time to do without: somebody waits for budget, or nobody here has the budget any more."""
        gate = self._gate
        return gate.closed or gate.leaving or gate.anybody_waits or not gate.trackers.known

    def _must_end(self, allowance: Allowance) -> bool:
        return allowance.lost or not any(tracker.number == allowance.places[0] for tracker in self._wanted())

    def _wanted(self) -> list[BudgetTracker]:
        """Trackers on which an allowance is kept; on a child only as long as it is used."""
        long_ago = time.monotonic() - self._gate.terms.lease_seconds
        used = [tracker for ref in self._used.keyrefs() if (tracker := ref()) is not None]
        return [
            tracker
            for tracker in used
            if not tracker.closed and (tracker.parent is None or self._used.get(tracker, 0.0) > long_ago)
        ]

    def _keep(self, tracker: BudgetTracker) -> None:
        lacking = self._lacking(tracker)
        if lacking is None:
            return
        kept = self._kept.get(tracker.number)
        if kept is not None:
            extend(kept, lacking)
        elif accounts.take(tracker.accounts, lacking):
            self._kept[tracker.number] = Allowance(tracker, lacking)
        else:
            # More is spent than a limit allows.
            self._rests_until = time.monotonic() + _REST_SECONDS

    def _lacking(self, tracker: BudgetTracker) -> Amount | None:
        """What is to be taken for `tracker`; None when there is nothing, or nothing left."""
        kept = self._kept.get(tracker.number)
        bound = NOTHING if kept is None else kept.bound
        lacking = Amount(*map(self._lacks, tracker.accounts.units, bound))
        return None if lacking == NOTHING else lacking

    def _lacks(self, path: tuple[Account, ...], kept: int) -> int:
        shares = [math.ceil(account.limit * self._share) for account in path if account.limit is not None]
        return max(0, min(min(shares) - kept, left_on(path) or 0)) if shares else 0

    def _end_doubtful(self) -> None:
        for allowance in self._doubtful:
            self._end(allowance)
        self._doubtful.clear()

    def _end(self, allowance: Allowance) -> None:
        # So that they are there until they are written.
        self._gate.changes.note_trackers(allowance.tracker.lineage)
        if allowance.late:
            self._gate._end(allowance, RELEASED)
        else:
            give_back(allowance)

"""A gate that goes on while its store is lost: from a slice that was granted before, and never beyond it."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from llm_connect.core import accounts
from llm_connect.core.exceptions import LLMError, LLMStoreError
from llm_connect.core.holds import RELEASED, Ending, Hold
from llm_connect.stores.allowances import Allowances
from llm_connect.stores.gate import StoreGate
from llm_connect.stores.holds import StoredHold
from llm_connect.stores.outages import Outage, WatchedTransaction
from llm_connect.stores.shadows import Left, Moving, ShadowGate, ShadowState

if TYPE_CHECKING:
    from llm_connect.core.budget import BudgetTracker
    from llm_connect.core.demand import CallFacts, Demand
    from llm_connect.core.ledger import LedgerEntry
    from llm_connect.core.limits import Limits
    from llm_connect.core.units import Amount
    from llm_connect.core.waiters import Waiter

T = TypeVar("T")
_log = logging.getLogger("llm_connect")
#: How often one looks after the allowances.
_LOOK_SECONDS = 1.0
#: Gates that have something in their store, or to write there, also when nobody has their budgets any more.
_indebted: set[SlicingGate] = set()


class SlicingGate(StoreGate):
    """Goes before the gate of a store: what that cannot do while the store is lost is done by a shadow."""

    def __init__(self, *details: Any) -> None:
        self.outage: Outage = Outage(self)
        #: What stands for the budget while the store is lost.
        self.shadow: ShadowGate | None = None
        #: Whether this process ends, and keeps no allowance any more.
        self.leaving: bool = False
        #: What is just being written into the store, and those that are to wait there again.
        self._left: Left | None = None
        self._returning: list[Waiter] = []
        #: Ids of entries as long as the store has none for them, and those that it gave to presumed ones.
        self.provisional_ids: itertools.count[int] = itertools.count(-2, -1)
        self._booked_as: dict[int, int] = {}
        super().__init__(*details)
        self.allowances: Allowances = Allowances(self, self.terms.slice_share)

    def _new_lock(self) -> WatchedTransaction:
        return WatchedTransaction(self)

    @property
    def learned(self) -> Any:
        return self._learned

    @property
    def anybody_waits(self) -> bool:
        return self._line.busy

    def others_wait(self) -> bool:
        """Whether a look at the store shows that anybody waits for budget, so that allowances are to be given back."""
        return False

    @property
    def outage_said(self) -> LLMStoreError:
        """The error for what is wrong with the store."""
        return self.outage.error or LLMStoreError(
            f"The budget store {self.terms.shown} could not be used until now.", store=self.terms.shown
        )

    # Admission: each operation is tried in the store, and done by the shadow when that is lost.

    def admit(
        self, tracker: BudgetTracker, demand: Demand, facts: CallFacts, replaces: Hold | None = None
    ) -> Hold | None:
        admit = super().admit

        def in_store() -> Hold | None:
            self.outage.check()
            mine = replaces if replaces is not None and replaces.tracker.gate is self else None
            if replaces is not None and mine is None:
                replaces.release()
            return admit(tracker, demand, facts, mine)

        def instead(shadow: ShadowGate) -> Hold | None:
            hold = shadow.admit_instead(tracker, demand, facts, replaces)
            if replaces is not None and replaces.tracker.gate is self:
                self._end_aside(replaces, RELEASED)
            return hold

        hold = self._or_instead(in_store, instead)
        if hold is not None:
            self._use(tracker)
        return hold

    def room(self, tracker: BudgetTracker, demand: Demand, facts: CallFacts) -> int | None:
        def room() -> int | None:
            self._work_off()
            with self.allowances.not_counted():
                return 0 if tracker.closed else accounts.room(tracker.accounts, self._raised(demand, facts).amount)

        return self._or_instead(
            lambda: self.in_one_step(room), lambda shadow: shadow.room_instead(tracker, demand, facts)
        )

    def queue(self, waiter: Waiter, *, may_wait: bool) -> None:
        queue = super().queue

        def without_allowances() -> None:
            self.allowances.give_back()
            queue(waiter, may_wait=may_wait)

        self._or_instead(
            lambda: self.in_one_step(without_allowances),
            lambda shadow: shadow.queue_instead(waiter, may_wait=may_wait),
        )

    def look(self, tracker: BudgetTracker) -> float:
        try:
            return super().look(tracker)
        except LLMStoreError:
            return math.inf

    def take(self, waiter: Waiter) -> Hold:
        hold = None
        while hold is None:
            shadow = waiter.tracker.gate
            if isinstance(shadow, ShadowGate):
                hold = shadow.take_instead(waiter)
                continue
            try:
                hold = self.in_one_step(partial(self._take, waiter))
            except LLMStoreError:
                if waiter.tracker.gate is self:
                    return self._reserve_anew(waiter)
        return hold

    def _take(self, waiter: Waiter) -> Hold | None:
        """The hold that was granted; None when the waiter stands in the line of the shadow by now."""
        return super().take(waiter) if waiter.tracker.gate is self else None

    def _reserve_anew(self, waiter: Waiter) -> Hold:
        """What was granted as the store was lost may be lost, too: it is given back."""
        self.abandon(waiter)
        hold = self.admit(waiter.tracker, waiter.demand, waiter.facts)
        if hold is None:
            raise self.outage_said
        return hold

    def abandon(self, waiter: Waiter) -> None:
        if waiter.tracker.gate is self:
            self._do(partial(self._leave, waiter))
        else:
            waiter.tracker.gate.abandon(waiter)

    def _leave(self, waiter: Waiter) -> None:
        if waiter.tracker.gate is self:
            self._line.leave(waiter)
        else:
            waiter.tracker.gate.abandon(waiter)

    def dispatch(self, hold: Hold) -> bool:
        if isinstance(hold, StoredHold) and hold.withdrawn is not None:
            return False
        try:
            return super().dispatch(hold)
        except LLMStoreError as error:
            if hold.dispatched:
                raise
            # Whether it is still there nobody knows: it is reserved anew.
            assert isinstance(hold, StoredHold)
            hold.withdrawn = error
            self._end_aside(hold, RELEASED)
            return False

    def extend(self, hold: Hold, more: Amount) -> bool:
        if hold.tracker.gate is not self:
            return hold.tracker.gate.extend(hold, more)
        extend = super().extend
        with suppress(LLMStoreError):
            return self.in_one_step(lambda: extend(hold, more) or (self.allowances.give_back() and extend(hold, more)))
        return False

    def end(self, hold: Hold, ending: Ending) -> None:
        shadow = self.shadow
        super().end(hold, ending)
        if isinstance(hold, StoredHold) and shadow is not None and shadow is self.shadow:
            shadow.follow(hold, ending.amount)

    def _end_aside(self, hold: Hold, ending: Ending) -> None:
        """Let it be ended in the store when that is there again."""
        self.lose(hold, ending)
        shadow = self.shadow
        if isinstance(hold, StoredHold) and shadow is not None:
            shadow.follow(hold, ending.amount)

    def _end(self, hold: Hold, ending: Ending) -> None:
        if hold.tracker.gate is self:
            super()._end(hold, ending)
        else:
            hold.tracker.gate.end(hold, ending)

    def _covers(self, hold: Hold) -> bool:
        return super()._covers(hold) or (self.allowances.give_back() and super()._covers(hold))

    def _or_instead(self, operation: Callable[[], T], instead: Callable[[ShadowGate], T]) -> T:
        """What `operation` comes to; or what comes `instead`, while the store is lost."""
        while True:
            try:
                return operation()
            except LLMStoreError:
                shadow, lost = self.shadow, self.outage.lost
                if shadow is None and not lost:
                    raise
            with suppress(Moving):
                if shadow is not None:
                    return instead(shadow)
            self.wait()

    def wait(self) -> None:
        """Wait until the transaction at hand is over: the store may be there again."""
        with self.lock.no_transaction():
            pass

    # The tree.

    def tracker(self, number: int) -> BudgetTracker:
        tracker = super().tracker(number)
        self._share((tracker,))
        self._use(tracker)
        return tracker

    def join(self, joined: dict[str, BudgetTracker], child: BudgetTracker) -> BudgetTracker:
        shared = super().join(joined, child)
        self._share((shared,))
        return shared

    def handle(self, tracker: BudgetTracker) -> Any:
        handle = super().handle(tracker)
        self._share((tracker,))
        return handle

    def open_slice(self, child: BudgetTracker) -> bool:
        open_slice = super().open_slice
        return self.in_one_step(lambda: open_slice(child) or (self.allowances.give_back() and open_slice(child)))

    def close(self, tracker: BudgetTracker) -> None:
        super().close(tracker)
        shadow = self.shadow
        if shadow is not None:
            shadow.close(shadow.of(tracker))

    def _close(self, tracker: BudgetTracker) -> None:
        if tracker.parent is None:
            self.allowances.give_back()
        super()._close(tracker)

    def correct(self, entry_id: int, figures: Limits) -> LedgerEntry:
        return super().correct(self._booked_as.get(entry_id, entry_id), figures)

    def _share(self, trackers: Iterable[BudgetTracker]) -> None:
        self.allowances.share(trackers)

    def _use(self, tracker: BudgetTracker) -> None:
        """Let the worker see to it that there is an allowance."""
        self.allowances.use(tracker)
        if self.shadow is None and self.allowances.due:
            self._worker.start()
            self._worker.put(self.stay)

    # The outage.

    def lose_store(self, error: LLMStoreError) -> None:
        """Go on without the store; those that wait for budget wait for what is kept for this."""
        _indebted.add(self)
        self.outage.begin(error)
        shadow = self.shadow = self.shadow or ShadowGate(self)
        waiters, self._returning = [*self._line.hand_over(), *self._returning], []
        for waiter in waiters:
            shadow.queue_instead(waiter, may_wait=True)

    def find_store(self) -> None:
        if self.shadow is None:
            self.outage.end()

    def try_again(self) -> None:
        """Write what has become of calls meanwhile, if the store is there; those that wait go on waiting there."""
        with self.outage.trying():
            self.in_one_step(self._reconcile)
        waiters, self._returning = self._returning, []
        for waiter in waiters:
            self.queue(waiter, may_wait=True)
        self._worker.put(self.stay)

    def _reconcile(self) -> None:
        """In one transaction: what is kept is given back, and what was spent and is held of it is written."""
        self._work_off()
        if self.shadow is not None:
            left = self.shadow.freeze()
            self._left = left._replace(holds=[*self.unwritten(), *left.holds])
            self.allowances.end()
            for state in self._left.holds:
                self._adopt(state)
            self._line.scan()

    def unwritten(self) -> list[ShadowState]:
        """Holds of before that were not written though it had seemed so."""
        return []

    def _adopt(self, state: ShadowState) -> None:
        hold, real = state.hold, state.tracker.real
        hold.tracker = real
        accounts.hold(real.accounts, hold.bound)
        if state.before.ended:
            self.books.end(hold, state.ending)
        else:
            self.changes.adopt(hold)

    def _settled(self) -> None:
        super()._settled()
        self.allowances.commit()
        left, self._left = self._left, None
        if left is not None:
            self.leave_shadow(left)
            self.note_ids(left.holds)
        if self.allowances or self.shadow is not None:
            _indebted.add(self)
        else:
            _indebted.discard(self)

    def leave_shadow(self, left: Left) -> None:
        """The store is used again; those that wait go on waiting there."""
        self.shadow, self._returning = None, left.waiters

    def note_ids(self, states: Iterable[ShadowState]) -> None:
        """Know under which ids the store has what is presumed, so that it can be corrected by those of before, too."""
        for state in states:
            if state.before.ended and state.ending.outcome == "presumed":
                self._booked_as[state.entry_id] = state.hold.entry_id

    def _undo(self) -> None:
        super()._undo()
        self.allowances.undo()
        left, self._left = self._left, None
        if left is not None:
            for state in left.holds:
                state.restore()
            left.shadow.thaw(left.waiters)

    # The process.

    def flush(self) -> None:
        if not self.outage.lost:
            super().flush()

    def tick(self) -> float:
        if self.outage.lost:
            return _LOOK_SECONDS
        pause = super().tick()  # type: ignore[safe-super]
        try:
            if self.shadow is None and (self.allowances.due or (self.allowances and self.others_wait())):
                self.in_one_step(self.allowances.tend)
        except LLMError as error:
            _log.warning("%s", error)
        return min(pause, _LOOK_SECONDS)

    def look_who_fits(self) -> None:
        """Let in who fits by what was given back."""
        if self._line.busy:
            self._line.scan()

    def shut(self) -> None:
        self.leaving = True
        with suppress(LLMError):
            if self.outage.lost:
                self.try_again()
            self.in_one_step(self.allowances.give_back)
        super().shut()
        self.leaving = False

    def before_fork(self) -> None:
        self._share(self.trackers.known)

    def leave_to_parent(self) -> None:
        super().leave_to_parent()
        self.outage.forget()
        self.allowances.forget()
        self.shadow = self._left = None
        self._returning.clear()
        _indebted.discard(self)

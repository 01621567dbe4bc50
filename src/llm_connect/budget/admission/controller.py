"""The controller of a budget: its one lock, and every operation that changes spend and holds under it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, TypeVar, final

from llm_connect import _forks
from llm_connect.budget.accounting import accounts
from llm_connect.budget.accounting.accounts import Account, Scope, Tree
from llm_connect.budget.accounting.bounds import CallFacts, Demand, Key, LearnedFactor
from llm_connect.budget.accounting.journal import Journal, Plan
from llm_connect.budget.accounting.ledger import Ledger, LedgerEntry
from llm_connect.budget.accounting.snapshot import BudgetSnapshot
from llm_connect.budget.accounting.windows import Clock
from llm_connect.budget.admission.arguments import Limits, OnUnknown
from llm_connect.budget.admission.backoff_lock import TreeLock
from llm_connect.budget.admission.booking import Sink, Windows, seconds_until_open, wall_clock
from llm_connect.budget.admission.callbacks import Threshold
from llm_connect.budget.admission.holds import Ending, Hold, Worker, gather_lost, give_back, grant, grow, lost
from llm_connect.budget.admission.log import Owed, raise_owed, stray
from llm_connect.budget.admission.session import Note, Session
from llm_connect.budget.admission.wait_queue import Line, Waiter
from llm_connect.errors import LLMConfigurationError
from llm_connect.types.amounts import NOTHING, Amount, usd_of

S = TypeVar("S", bound=Scope)
T = TypeVar("T")


@final
class Gate:
    """The controller of a tree of trackers: its one lock, and all decisions under it.

    Granting is a change of state under the lock, so no two calls can be granted the same budget. The lock is held
    for microseconds, never across a wait or a callback: the gate wakes waiters and runs callbacks after releasing it.

    Each operation is a step of its session. In memory a step needs only the lock; in a store the session makes it a
    transaction (`session.py`).
    """

    def __init__(
        self,
        keep_entries: int,
        on_unknown: OnUnknown,
        sink: Sink | None,
        session: Session[Gate],
        clock: Clock = wall_clock,
    ) -> None:
        self._lock: TreeLock = TreeLock()
        #: True if an operation is running, or was interrupted.
        self._inside: bool = False
        self.journal: Journal = Journal()
        self.on_unknown: OnUnknown = on_unknown
        self.clock: Clock = clock
        self.tree: Tree = Tree()
        #: The session, which keeps the state and runs the steps.
        self.session: Session[Gate] = session
        #: True for a store: then every operation is a step of the session.
        self._stored: bool = session.worker is not None
        #: Runs operations for coroutines; None in memory, where no operation does I/O.
        self.worker: Worker | None = self.session.worker
        #: The largest limit that the session can store.
        self.most_limit: int = self.session.most_limit
        #: The class of granted holds.
        self.hold_type: type[Hold] = self.session.hold_type
        parts = self.session.open(self, keep_entries, sink)
        self.ledger: Ledger = Ledger(parts.entries)
        self._outbox, self._books, self._line = parts.outbox, parts.books, parts.line
        self._allotments, self._deliver = parts.allotments, parts.deliver
        #: Returns the next arrival number; a call keeps its number over its retries.
        self.arrive: Callable[[], int] = self.session.arrive
        self._learned = self._books.learned.factors
        #: SystemExit and KeyboardInterrupt exceptions of callbacks and log handlers, which the next call raises.
        self.owed: Owed = self._outbox.owed
        self._windows = Windows(clock)
        #: True if a tracker has a window; if not, no operation reads the clock.
        self.windowed: bool = False
        #: Work that the next operation does first.
        self.notes: deque[Note] = deque()
        self._generation = _forks.generation

    def raise_owed(self) -> None:
        """Raise a SystemExit or KeyboardInterrupt of a callback or log handler, before anything is held or sent."""
        if self.owed or stray:
            raise_owed(self.owed)
            raise_owed(stray)

    # Every operation has the form that `TreeLock` describes, and sets `_inside` while it runs. `admit` and `end`, which
    # every call needs, contain that form themselves for a budget in memory; `run` provides it for the others.

    def admit(self, tracker: Scope, demand: Demand, facts: CallFacts, replaces: Hold | None = None) -> Hold | None:
        """Return a hold if the demand fits and nobody waits; None if the caller has to join the queue.

        The budget of the hold `replaces` passes to the new hold in the same step, so no other call can get it. Only in
        memory; a store does the same in `ask`.
        """
        if self._inside:
            self._refuse_reentry()
        lock, line = self._lock, self._line
        try:
            if not lock.take(False):
                lock.wait()
            if self._inside:
                self._repair()
            self._inside = True
            if lost or self.notes or self.windowed or (line.untaken and line.due <= time.monotonic()):
                self._work_off()
            if self._learned:
                demand = demand.raised(self._learned.get(facts.key))
            if replaces is not None or line.busy or self.tree.any_closed:
                hold = self._admit(tracker, demand, facts, replaces)
            else:
                hold = grant(self, tracker, demand, facts)
            self._inside = False
        finally:
            try:
                lock.release()
            except BaseException as error:
                lock.let_go(error)
        if line.ready or self._outbox.calls:
            self._notify()
        return hold

    def ask(self, tracker: Scope, demand: Demand, facts: CallFacts, replaces: Hold | None = None) -> Hold | None:
        """Like `admit`, as a step of the session."""
        return self.run(self._ask, tracker, demand, facts, replaces, on=tracker)

    def end(self, hold: Hold, ending: Ending) -> None:
        """Close `hold` with its ending; a no-op if it has ended."""
        if self._stored:
            self.session.end(hold, ending)
            return
        if self._inside and self._lock.owned():
            # A finalizer or signal handler has interrupted an operation of this thread: the next one ends the hold.
            self.lose(hold, ending)
            return
        lock, line = self._lock, self._line
        try:
            if not lock.take(False):
                lock.wait()
            if self._inside:
                self._repair()
            self._inside = True
            if lost or self.notes or self.windowed or (line.untaken and line.due <= time.monotonic()):
                self._work_off()
            if not hold.ended:
                if self._books.end(hold, ending):
                    self._raise_demands(hold.facts.key)
                if line.busy:
                    line.scan()
            self._inside = False
        finally:
            try:
                lock.release()
            except BaseException as error:
                lock.let_go(error)
        if line.ready or self._outbox.calls:
            self._notify()

    def run(
        self,
        step: Callable[..., T],
        *args: Any,
        on: Scope | None = None,
        informed: bool = False,
        alone: bool = False,
        looks: bool = False,
    ) -> T:
        """Return the result of `step`, one step of the session. Raises LLMConfigurationError inside another step.

        on: the tracker that the step is about. informed: the step needs the present state of the store, because the
        store checks only what a step writes. alone: leave the notes to another step. looks: only look at objects in
        memory, under the lock and without a step.
        """
        if self._generation != _forks.generation:
            self.check_process()
        if self._inside:
            self._refuse_reentry()
        lock, done = self._lock, False
        try:
            if not lock.take(False):
                lock.wait()
            if self._inside:
                self._repair()
            if looks:
                result = step(*args)
            else:
                self._inside = True
                result = self.session.run(_nothing if alone else self._work_off, partial(step, *args), on, informed)
                self._inside = False
            done = True
        finally:
            try:
                lock.release()
            except BaseException as error:
                lock.let_go(error)
            if not done and not self._inside:
                self._notify()
        if self._line.told or self._outbox.calls:
            self._notify()
        return result

    @property
    def begun(self) -> bool:
        """True if an operation is running, or was interrupted."""
        return self._inside

    @property
    def free(self) -> bool:
        """True if this thread may begin an operation in this process."""
        return not self._lock.owned() and self._generation == _forks.generation

    @property
    def within(self) -> bool:
        """True if this thread is inside an operation, which a finalizer or signal handler has interrupted."""
        return self._inside and self._lock.owned()

    def undone(self) -> None:
        """Note that the present step has failed, and that its session has restored the state."""
        self._inside = False

    def _refuse_reentry(self) -> None:
        """Raise LLMConfigurationError if this thread is inside an operation."""
        if self._lock.owned():
            if self._lock.left:
                self._lock.drop()
                return
            raise LLMConfigurationError(
                "This thread has interrupted its own operation on this budget: a signal handler or finalizer cannot "
                "use the budget. Set a flag in it, and use the budget afterwards."
            )

    def _repair(self) -> None:
        """Complete or undo an interrupted operation, and rebuild the queue."""
        if self.session.repair():
            self._inside = False
            return
        self.journal.finish()
        for key in list(self._learned):
            self._raise_demands(key)
        self._books.look_at_thresholds()
        self._line.repair()

    def dispatch(self, hold: Hold) -> bool:
        """True if the request of `hold` may be sent. Raises LLMConfigurationError if the hold has ended.

        The hold is released, and the result is False, if a limit is breached in the meantime, or if the bounds of its
        adapter and model were raised and the difference does not fit.
        """
        if self._generation != _forks.generation:
            self.check_process()
        if self.windowed:
            self.tidy()
        if not self._books.surprised and not hold.ended:
            # This needs no lock: a surprise at this moment counts as later than the request.
            hold.dispatched = True
            return True
        self.session.check(hold)
        before = hold.dispatched
        try:
            dispatched = self.run(self._dispatch, hold, on=hold.tracker)
        except BaseException:
            # Nothing is sent, even if the store has recorded the dispatch.
            self.session.undispatch(hold, before)
            raise
        if dispatched is None:
            if self.session.has_lost(hold):
                return False
            raise LLMConfigurationError("This hold has ended: make a new reservation for another request.")
        if not dispatched:
            hold.release()
        return dispatched

    def room(self, tracker: Scope, demand: Demand, facts: CallFacts) -> int | None:
        """The number of such demands that fit at present; None if no limit applies to them."""
        return self.run(self._room, tracker, demand, facts, on=tracker, informed=True)

    def queue(self, waiter: Waiter, *, may_wait: bool) -> None:
        """Add `waiter` to the queue. Afterwards it has a hold or an error, or it waits, if `may_wait` allows it."""
        waits = self.run(self._queue, waiter, may_wait, on=waiter.tracker, informed=True)
        if waits and self._stored:
            self.session.watch()

    def take(self, waiter: Waiter) -> Hold | None:
        """Return the granted hold. None if it was refused or reclaimed; then the waiter has an error."""
        return self.run(self._line.take, waiter, on=waiter.tracker, informed=waiter.waiting)

    def work_off(self) -> None:
        """Do the notes now, or leave them to the next operation if this thread has interrupted its own."""
        self.session.work_off()

    def lose(self, hold: Hold, ending: Ending) -> None:
        """Let the next operation end a hold that was garbage collected."""
        self.notes.append(partial(self._end, hold, ending))
        if self._stored:
            self.session.note_lost(hold, ending)

    def tidy(self) -> None:
        """Do the notes and move the windows, so that figures do not include lost holds and expired spend."""
        if self._stored or self._inside or lost or self.notes or (self.windowed and self._windows.due):
            self.work_off()

    def flush(self) -> None:
        """Do the notes, even in a running event loop."""
        self.session.flush()

    def record(self, tracker: Scope, amount: Amount, facts: CallFacts) -> LedgerEntry:
        """Book spend that has already happened, even above a limit."""
        return self.run(self._record, tracker, amount, facts, on=tracker, informed=True)

    def correct(self, entry_id: int, figures: Limits) -> LedgerEntry:
        """Correct a presumed or settled entry, once. Raises LLMConfigurationError for any other entry."""
        entry = self.run(self._correct, entry_id, figures, informed=True)
        if entry is None:
            raise LLMConfigurationError(
                f"Entry {entry_id} cannot be corrected: it is neither presumed nor settled, is already corrected, or "
                "the ledger no longer keeps it."
            )
        return entry

    def change_limits(self, tracker: Scope, limits: dict[Account, int | None]) -> None:
        """Set limits of `tracker` in one step, and admit the waiters that fit."""
        self.run(self._change_limits, tracker, limits, on=tracker, informed=True)

    def allot(self, share: Scope, kept: Hold) -> bool:
        """Set the limits of `share` aside above it, in place of the hold `kept`.

        False if it or a tracker above is closed, or if an overrun has taken the room in the meantime.
        """
        return self.run(self._allot, share, kept, on=share, informed=True)

    def close(self, tracker: Scope) -> None:
        """Admit no more calls on `tracker` and below it, refuse waiters there, and return the rest of allotments."""
        self.check_process()
        self.session.close(tracker, partial(self._close, tracker))

    def watch(self, threshold: Threshold) -> None:
        """Fire `threshold` once it is reached."""
        self.run(self._books.watch, threshold, on=threshold.tracker, informed=True)

    def keep_window(self, tracker: Scope) -> None:
        """Move the window of `tracker` from now on."""
        if not self._stored:
            # The session of a store moves the windows of the trackers in each step.
            self._windows.add(tracker)
        self.windowed = True

    def look(self, tracker: Scope) -> float:
        """Move the windows, admit waiters that fit, and return the seconds until a window of `tracker`'s path opens."""
        return self.run(seconds_until_open, tracker, on=tracker)

    def read(self, tracker: Scope) -> BudgetSnapshot:
        """All figures of `tracker` at one moment."""
        return self.run(self._snapshot, tracker, on=tracker, informed=True)

    def join(self, joined: dict[str, S], child: S) -> S:
        """Return the open child of this name in `joined`; else add `child` and return it."""
        shared: S = self.run(self._join, joined, child, on=child.parent, informed=True)
        return shared

    def handle(self, tracker: Scope) -> Any:
        """Return the pickled form of `tracker`. Raises TypeError in memory."""
        return self.session.handle(tracker)

    def check_process(self) -> None:
        """Raise LLMConfigurationError in a forked process, where a copy of the budget would be a second one."""
        _forks.check(self._generation)

    # Operations for the session.

    def leave_to_parent(self, line: Line) -> None:
        """Start over in a forked process with a new session: lock, notes and waiters belong to the parent."""
        self._lock, self._inside, self._line = TreeLock(), False, line
        self.worker = self.session.worker
        self.notes.clear()
        self._generation = _forks.generation

    def know(self, learned: dict[Key, LearnedFactor]) -> None:
        """Take over the learned factors of a store, and raise the demands of waiters."""
        before = dict(self._learned)
        self._books.learned.become(learned)
        self._relearn(before)

    def move(self, trackers: Iterable[Scope]) -> None:
        """Move the windows of these trackers, and admit waiting callers that fit then."""
        if self._windows.move(trackers, self._books) and self._line.busy:
            self._line.scan()

    def do(self, note: Note) -> None:
        """Do the work of a note."""
        if isinstance(note, Waiter):
            self._line.leave(note)
        else:
            note()

    def finish(self, hold: Hold, ending: Ending) -> Callable[[], None]:
        """A step that ends a hold."""
        return partial(self._end, hold, ending)

    # Steps under the lock.

    def _ask(self, tracker: Scope, demand: Demand, facts: CallFacts, replaces: Hold | None) -> Hold | None:
        return self._admit(tracker, self._raised(demand, facts), facts, replaces)

    def _admit(self, tracker: Scope, demand: Demand, facts: CallFacts, replaces: Hold | None = None) -> Hold | None:
        replaced = replaces is not None and give_back(replaces)
        free = (replaced or not self._line.busy) and not (self.tree.any_closed and tracker.closed)
        hold = grant(self, tracker, demand, facts) if free else None
        if replaced:
            self._line.scan()
        return hold

    def _dispatch(self, hold: Hold) -> bool | None:
        """True if the request may be sent; None if the hold has ended."""
        if hold.ended:
            return None
        if hold.dispatched or self._covers(hold):
            hold.dispatched = True
        return hold.dispatched

    def _room(self, tracker: Scope, demand: Demand, facts: CallFacts) -> int | None:
        counts = accounts.room(tracker.accounts, self._raised(demand, facts).amount)
        return 0 if tracker.closed else counts

    def _queue(self, waiter: Waiter, may_wait: bool) -> bool:
        if self._learned:
            waiter.ask(self._raised(waiter.demand, waiter.facts))
        self._line.join(waiter)
        if not may_wait:
            self._line.end_wait(waiter, "refused")
        return waiter.waiting

    def _record(self, tracker: Scope, amount: Amount, facts: CallFacts) -> LedgerEntry:
        entry = self._books.record(tracker, amount, facts)
        self._line.scan()
        return entry

    def _correct(self, entry_id: int, figures: Limits) -> LedgerEntry | None:
        before = dict(self._learned)
        entry = self._books.correct(entry_id, figures)
        self._relearn(before)
        self._line.scan()
        return entry

    def _change_limits(self, tracker: Scope, limits: dict[Account, int | None]) -> None:
        self.session.touch(tracker)
        plan = Plan()
        for account, limit in limits.items():
            plan.set(account, "limit", limit)
        plan.set(self._books, "surprised", True)
        self.journal.carry_out(plan)
        self._books.look_at_thresholds()
        self._line.scan()

    def _allot(self, share: Scope, kept: Hold) -> bool:
        give_back(kept)
        opened = not share.closed and self._allotments.open(share)
        self._line.scan()
        return opened

    def _close(self, tracker: Scope) -> None:
        self._allotments.close(tracker)
        self._line.close()

    def _join(self, joined: dict[str, S], child: S) -> S:
        shared = self.session.joined(joined, child)
        if shared is None or shared.closed:
            shared = child
            self.session.join(child)
        joined[child.name] = shared
        return shared

    def _snapshot(self, tracker: Scope) -> BudgetSnapshot:
        own = tracker.own_accounts
        tokens, calls, usd = (account.limit for account in own)
        return BudgetSnapshot(
            path=tracker.path,
            total=tokens,
            total_calls=calls,
            total_usd=None if usd is None else usd_of(usd),
            spent=accounts.amount_of(own, "spent"),
            held=accounts.amount_of(own, "held"),
            presumed=accounts.amount_of(own, "presumed"),
            allotted=accounts.amount_of(own, "allotted"),
            waiting=self._line.waiting_on(tracker),
            breached=any(account.breached for account in own),
            closed=tracker.closed,
            period=tracker.period,
            opens_at=None if tracker.window is None else tracker.window.opens_at,
            learned=dict(self._learned),
        )

    def _covers(self, hold: Hold) -> bool:
        """True if the hold covers its call by the present bounds; grows the hold if necessary."""
        path, factor = hold.tracker.accounts, self._learned.get(hold.facts.key) if self._learned else None
        unlimited = hold.unlimited and accounts.limits_output(path)
        if not unlimited and accounts.fits(path, NOTHING) and (factor is None or grow(hold, factor)):
            return True
        self.session.sure()
        return False

    def _raised(self, demand: Demand, facts: CallFacts) -> Demand:
        return demand.raised(self._learned.get(facts.key)) if self._learned else demand

    def _end(self, hold: Hold, ending: Ending) -> None:
        if self.session.has_lost(hold):
            self.session.end_late(hold, ending)
        elif hold.ended:
            return
        elif self._books.end(hold, ending):
            self._raise_demands(hold.facts.key)
        if self._line.busy:
            self._line.scan()

    def _relearn(self, before: Mapping[Key, LearnedFactor]) -> None:
        """Raise the demands of waiters whose learned factor differs from the one before."""
        for key in before.keys() | self._learned.keys():
            if before.get(key) != self._learned.get(key):
                self._raise_demands(key)

    def _raise_demands(self, key: Key) -> None:
        self._line.raise_demands(key, self._learned.get(key))

    def _work_off(self) -> None:
        if self.windowed and not self._stored and self._windows.roll(self._books) and self._line.busy:
            self._line.scan()
        if self._line.untaken and self._line.due <= time.monotonic():
            self._line.reclaim()
        if lost:
            gather_lost()
        if self.notes:
            self.session.do_notes()

    def _notify(self) -> None:
        """Wake admitted and refused waiters, and run the callbacks; the lock is already released."""
        self._wake_all(self._line.told)
        self._deliver()

    def _wake_all(self, ready: deque[Waiter]) -> None:
        all_woken = True
        while ready:
            try:
                # Another thread may do the same; waking a waiter twice does no harm.
                waiter = ready[0]
                all_woken = (waiter.gone or self._wake(waiter)) and all_woken
                ready.remove(waiter)
            except (IndexError, ValueError):
                continue
        if not all_woken:
            self.work_off()

    def _wake(self, waiter: Waiter) -> bool:
        try:
            waiter.wake()
        except (MemoryError, RecursionError):
            raise
        except Exception:
            # Its event loop is closed: the next waiter gets the grant, and the code that settles gets no error.
            self.notes.append(waiter)
            return False
        return True


def _nothing() -> None:
    pass

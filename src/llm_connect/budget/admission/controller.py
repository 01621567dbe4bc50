"""The one lock of a tree of trackers, and every operation that changes what is spent and held under it."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import Any, Literal, TypeAlias, TypeVar, final

from llm_connect import _forks
from llm_connect.budget.accounting import accounts
from llm_connect.budget.accounting.accounts import Account
from llm_connect.budget.accounting.arguments import Limits
from llm_connect.budget.accounting.calibration import Key, LearnedFactor
from llm_connect.budget.accounting.demands import CallFacts, Demand
from llm_connect.budget.accounting.journal import Journal, Plan
from llm_connect.budget.accounting.ledger import Ledger, LedgerEntry
from llm_connect.budget.accounting.scope import Scope, Tree
from llm_connect.budget.accounting.snapshot import BudgetSnapshot
from llm_connect.budget.accounting.windows import Clock
from llm_connect.budget.admission.alerts import Threshold
from llm_connect.budget.admission.backend import Note
from llm_connect.budget.admission.backoff_lock import TreeLock
from llm_connect.budget.admission.booking import Sink
from llm_connect.budget.admission.clocks import wall_clock
from llm_connect.budget.admission.expiry import Windows, seconds_until_open
from llm_connect.budget.admission.granting import give_back, grant, grow, is_unlimited
from llm_connect.budget.admission.holds import Ending, Hold, Worker, gather_lost, lost
from llm_connect.budget.admission.log import Owed, raise_stray, stray
from llm_connect.budget.admission.session import MemorySession, Session
from llm_connect.budget.admission.wait_queue import Line
from llm_connect.budget.admission.waiters import Waiter
from llm_connect.errors import LLMConfigurationError
from llm_connect.types.amounts import NOTHING, Amount, usd_of

#: What becomes of a hold whose outcome is not known after dispatch.
OnUnknown: TypeAlias = Literal["presume", "release"]
S = TypeVar("S", bound=Scope)
T = TypeVar("T")


@final
class Gate:
    """The one lock of a tree of trackers, and all that is decided under it.

    Granting is a change of state under the lock, so no two calls can be granted the same budget. The lock is held
    for microseconds, never across a wait or a callback: waiters are woken, and callbacks made, after it is let go.

    Each operation is a step of its session. In memory the lock is all that a step needs; in a store the session makes
    a transaction of it (`session.py`).
    """

    def __init__(
        self,
        keep_entries: int,
        on_unknown: OnUnknown,
        sink: Sink | None,
        clock: Clock = wall_clock,
        session: Session | None = None,
    ) -> None:
        self._lock: TreeLock = TreeLock()
        #: Whether an operation has begun and not ended: it goes on, or it was interrupted.
        self._inside: bool = False
        self.journal: Journal = Journal()
        self.on_unknown: OnUnknown = on_unknown
        self.clock: Clock = clock
        self.tree: Tree = Tree()
        #: Where its state is kept, and how a step on it is done.
        self.session: Session = session or MemorySession()
        #: True for a store: then every operation is a step of the session.
        self._stored: bool = session is not None
        #: Does operations for coroutines; None in memory, where none does any I/O.
        self.worker: Worker | None = self.session.worker
        #: The next arrival number; a call keeps its number over its retries.
        self.arrive: Callable[[], int] = self.session.arrive
        #: The largest limit that it can count.
        self.most_limit: int = self.session.most_limit
        #: What is granted.
        self.hold_type: type[Hold] = self.session.hold_type
        parts = self.session.open(self, keep_entries, sink)
        self.ledger: Ledger = parts.ledger
        self._outbox, self._books, self._line, self._slices = parts.outbox, parts.books, parts.line, parts.slices
        self._learned = self._books.learned.factors
        self._windows = Windows(clock)
        #: Whether there is any window: else no operation looks at the clock.
        self._windowed: bool = False
        #: What is left to do; the next operation works it off.
        self.notes: deque[Note] = deque()
        self._generation = _forks.generation

    def raise_owed(self) -> None:
        """Raise the SystemExit or KeyboardInterrupt that a callback has raised, before anything is held or sent."""
        if self._outbox.owed:
            self._outbox.raise_owed()
        if stray:
            raise_stray()

    @property
    def owed(self) -> Owed:
        """What callbacks and log handlers have raised to end the program."""
        return self._outbox.owed

    # An operation has the form that `TreeLock` shows, and says by `_inside` that it has begun and that it is done.
    # The two that every call needs are written out for a budget in memory; `run` does all others.

    def admit(self, tracker: Scope, demand: Demand, facts: CallFacts, replaces: Hold | None = None) -> Hold | None:
        """A hold, when the demand fits and nobody waits; None when the caller has to queue.

        What the hold `replaces` has kept passes over without a moment in which somebody else could get it.
        """
        if self._stored:
            return self.run(self._ask, tracker, demand, facts, replaces, on=tracker)
        if self._generation != _forks.generation:
            self.check_process()
        if self._inside:
            self._refuse_reentry()
        lock, line = self._lock, self._line
        try:
            if not lock.take(False):
                lock.wait()
            if self._inside:
                self._repair()
            self._inside = True
            if lost or self.notes or line.untaken or self._windowed:
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
            self._tell()
        return hold

    def end(self, hold: Hold, ending: Ending) -> None:
        """End `hold` with what it came to; nothing when it has ended."""
        if self._stored:
            self.session.end(hold, ending)
            return
        if self._generation != _forks.generation:
            self.check_process()
        if self._inside and self._lock.owned():
            # A finalizer, or a signal handler, runs in the midst of an operation of this thread: the next one does it.
            self.lose(hold, ending)
            return
        lock, line = self._lock, self._line
        try:
            if not lock.take(False):
                lock.wait()
            if self._inside:
                self._repair()
            self._inside = True
            if lost or self.notes or line.untaken or self._windowed:
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
            self._tell()

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
                self._tell()
        if self._line.told or self._outbox.calls:
            self._tell()
        return result

    @property
    def windowed(self) -> bool:
        """True if a tracker has a window."""
        return self._windowed

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
        """Raise LLMConfigurationError when this very thread is in the midst of an operation."""
        if self._lock.owned():
            if self._lock.left:
                self._lock.drop()
                return
            raise LLMConfigurationError(
                "This thread is in the midst of an operation on this budget: a signal handler or finalizer that "
                "runs in it cannot use the budget as well. Let it set a flag, and use the budget afterwards."
            )

    def _repair(self) -> None:
        """Put in order what an operation has left that was interrupted."""
        if self.session.repair():
            self._inside = False
            return
        self.journal.finish()
        for key in list(self._learned):
            self._raise_demands(key)
        self._books.look_at_thresholds()
        self._line.repair()

    def dispatch(self, hold: Hold) -> bool:
        """Whether the request of `hold` may be sent. Raises LLMConfigurationError when it has ended.

        It ends, released, when by an overrun more is spent by now than a limit allows, or more was learned of its
        adapter and model since it was granted, and what it lacks does not fit now.
        """
        if self._generation != _forks.generation:
            self.check_process()
        if self._windowed:
            self.tidy()
        if not self._books.surprised and not hold.ended:
            # Without the lock: what surprises meanwhile comes after this request.
            hold.dispatched = True
            return True
        self.session.check(hold)
        before = hold.dispatched
        try:
            dispatched = self.run(self._dispatch, hold, on=hold.tracker)
        except BaseException:
            # Nothing is sent, whatever the store may say of it.
            self.session.undispatch(hold, before)
            raise
        if dispatched is None:
            if self.session.has_lost(hold):
                return False
            raise LLMConfigurationError("This hold has ended: reserve anew for another request.")
        if not dispatched:
            hold.release()
        return dispatched

    def room(self, tracker: Scope, demand: Demand, facts: CallFacts) -> int | None:
        """How many such demands fit now; None when no limit concerns them."""
        return self.run(self._room, tracker, demand, facts, on=tracker, informed=True)

    def queue(self, waiter: Waiter, *, may_wait: bool) -> None:
        """Let `waiter` stand in line: afterwards it has a hold, an error, or waits.

        With `may_wait` False it does not wait: what would have to, is refused.
        """
        self.run(self._queue, waiter, may_wait, on=waiter.tracker, informed=True)
        if waiter.waiting:
            self.session.watch()

    def take(self, waiter: Waiter) -> Hold | None:
        """The hold that was granted; None when there is none, or no longer, and then the waiter has an error."""
        return self.run(self._take, waiter, on=waiter.tracker, informed=waiter.waiting)

    def work_off(self) -> None:
        """Do what the notes say; in the midst of an operation of this thread that is left to the next one."""
        self.session.work_off()

    def lose(self, hold: Hold, ending: Ending) -> None:
        """Let the next operation end a hold that was garbage collected."""
        self.notes.append(partial(self._end, hold, ending))
        if self._stored:
            self.session.note_lost(hold, ending)

    def tidy(self) -> None:
        """Work off what is left to do and what has left windows, so that figures do not count what is gone."""
        if self._stored or self._inside or lost or self.notes or (self._windowed and self._windows.due):
            self.work_off()

    def flush(self) -> None:
        """Do what is left to do, also in a running event loop."""
        self.session.flush()

    def record(self, tracker: Scope, amount: Amount, facts: CallFacts) -> LedgerEntry:
        """Book what has been spent already, whatever the limits say."""
        return self.run(self._record, tracker, amount, facts, on=tracker, informed=True)

    def correct(self, entry_id: int, figures: Limits) -> LedgerEntry:
        """Append what a presumed or settled entry really came to; once for each."""
        entry = self.run(self._correct, entry_id, figures, informed=True)
        if entry is None:
            raise LLMConfigurationError(
                f"Entry {entry_id} is nothing that this budget has presumed, or settled and still keeps; or it was "
                "corrected before."
            )
        return entry

    def change_limits(self, tracker: Scope, limits: dict[Account, int | None]) -> None:
        """Set limits of `tracker`, all at the same moment, and look who fits now."""
        self.run(self._change_limits, tracker, limits, on=tracker, informed=True)

    def open_slice(self, child: Scope, kept: Hold) -> bool:
        """Set the limits of `child` aside above it, in the place of what is `kept`; False when it is closed above it.

        It may fail as well when by an overrun more is spent there by now.
        """
        return self.run(self._open_slice, child, kept, on=child, informed=True)

    def close(self, tracker: Scope) -> None:
        """Admit nothing more on `tracker` and below it, tell those that wait there, and return the rest of slices."""
        self.check_process()
        self.session.close(tracker, partial(self._close, tracker))

    def watch(self, threshold: Threshold) -> None:
        """Tell of a threshold once it is reached."""
        self.run(self._books.watch, threshold, on=threshold.tracker, informed=True)

    def keep_window(self, tracker: Scope) -> None:
        """Let what `tracker` has spent leave its window in time."""
        if not self._stored:
            # A store moves the windows of those that a step is about.
            self._windows.add(tracker)
        self._windowed = True

    def look(self, tracker: Scope) -> float:
        """Let in who fits by what has left windows; seconds until more leaves one of `tracker` or above it."""
        return self.run(seconds_until_open, tracker, on=tracker) if self._windowed else math.inf

    def read(self, tracker: Scope) -> BudgetSnapshot:
        """The figures of `tracker`, all of one moment."""
        return self.run(self._snapshot, tracker, on=tracker, informed=True)

    def join(self, joined: dict[str, S], child: S) -> S:
        """The open child of this name among `joined`, else `child`, which joins them."""
        shared: S = self.run(self._join, joined, child, on=child.parent, informed=True)
        return shared

    def handle(self, tracker: Scope) -> Any:
        """Return the pickled form of `tracker`. Raises TypeError in memory."""
        return self.session.handle(tracker)

    def check_process(self) -> None:
        """Raise LLMConfigurationError in a forked process, where a copy of the budget would be a second one."""
        _forks.check(self._generation)

    # What a session asks for.

    def leave_to_parent(self, line: Line) -> None:
        """In a forked process that goes on by a session of its own: lock, notes and waiters are the parent's."""
        self._lock, self._inside, self._line = TreeLock(), False, line
        self.worker = self.session.worker
        self.notes.clear()
        self._generation = _forks.generation

    def know(self, learned: dict[Key, LearnedFactor]) -> None:
        """Know what others have learned."""
        changed = [key for key in {*learned, *self._learned} if learned.get(key) != self._learned.get(key)]
        self._books.learned.become(learned)
        for key in changed:
            self._raise_demands(key)

    def move(self, trackers: Iterable[Scope]) -> None:
        """Move the windows of these trackers, and admit waiting callers that fit then."""
        if self._windows.move(trackers, self._books) and self._line.busy:
            self._line.scan()

    def do(self, note: Note) -> None:
        """Do what a note says."""
        if isinstance(note, Waiter):
            self._line.leave(note)
        else:
            note()

    def finish(self, hold: Hold, ending: Ending) -> Callable[[], None]:
        """The step that ends a hold."""
        return partial(self._end, hold, ending)

    # What operations do under the lock.

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
        """Whether it may be sent; None when it has ended."""
        if hold.ended:
            return None
        if hold.dispatched or self._covers(hold):
            hold.dispatched = True
        return hold.dispatched

    def _room(self, tracker: Scope, demand: Demand, facts: CallFacts) -> int | None:
        counts = accounts.room(tracker.accounts, self._raised(demand, facts).amount)
        return 0 if tracker.closed else counts

    def _queue(self, waiter: Waiter, may_wait: bool) -> None:
        waiter.demand = self._raised(waiter.demand, waiter.facts)
        self._line.join(waiter)
        if not may_wait:
            self._line.end_wait(waiter, "refused")

    def _take(self, waiter: Waiter) -> Hold | None:
        return self._line.take(waiter)

    def _record(self, tracker: Scope, amount: Amount, facts: CallFacts) -> LedgerEntry:
        entry = self._books.record(tracker, amount, facts)
        self._line.scan()
        return entry

    def _correct(self, entry_id: int, figures: Limits) -> LedgerEntry | None:
        before = dict(self._learned)
        entry = self._books.correct(entry_id, figures)
        for key in before.keys() | self._learned.keys():
            if before.get(key) != self._learned.get(key):
                self._raise_demands(key)
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

    def _open_slice(self, child: Scope, kept: Hold) -> bool:
        assert child.parent is not None
        give_back(kept)
        opened = not child.parent.closed and self._slices.open(child)
        self._line.scan()
        return opened

    def _close(self, tracker: Scope) -> None:
        self._slices.close(tracker)
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
            sliced=accounts.amount_of(own, "sliced"),
            waiting=self._line.waiting_on(tracker),
            breached=any(account.breached for account in own),
            closed=tracker.closed,
            learned=dict(self._books.learned.factors),
            period=tracker.period,
            opens_at=None if tracker.window is None else tracker.window.opens_at,
        )

    def _covers(self, hold: Hold) -> bool:
        """Whether the hold covers its call by what is known now, after it has grown if need be."""
        path, factor = hold.tracker.accounts, self._learned.get(hold.facts.key)
        limited = not (is_unlimited(hold) and accounts.limits_output(path))
        if accounts.fits(path, NOTHING) and limited and (factor is None or grow(hold, factor)):
            return True
        self.session.sure()
        return False

    def _raised(self, demand: Demand, facts: CallFacts) -> Demand:
        return demand.raised(self._learned.get(facts.key))

    def _end(self, hold: Hold, ending: Ending) -> None:
        if self.session.has_lost(hold):
            self.session.end_late(hold, ending)
        elif hold.ended:
            return
        elif self._books.end(hold, ending):
            self._raise_demands(hold.facts.key)
        if self._line.busy:
            self._line.scan()

    def _raise_demands(self, key: Key) -> None:
        self._line.raise_demands(key, self._learned.get(key))

    def _work_off(self) -> None:
        if self._windowed and not self._stored and self._windows.roll(self._books) and self._line.busy:
            self._line.scan()
        self._line.reclaim()
        gather_lost()
        self.session.do_notes()

    def _tell(self) -> None:
        """Wake who has been let in or refused, and make the callbacks; the lock is let go by now."""
        self._wake_all(self._line.told)
        self._outbox.deliver()

    def _wake_all(self, ready: deque[Waiter]) -> None:
        all_woken = True
        while ready:
            with suppress(IndexError, ValueError):
                # Another thread may do the same. Woken twice, it goes on once.
                waiter = ready[0]
                all_woken = (waiter.gone or self._wake(waiter)) and all_woken
                ready.remove(waiter)
        if not all_woken:
            self.work_off()

    def _wake(self, waiter: Waiter) -> bool:
        try:
            waiter.wake()
        except (MemoryError, RecursionError):
            raise
        except Exception:
            # Its event loop is closed: the grant goes to the next one, and whoever settles is not disturbed.
            self.notes.append(waiter)
            return False
        return True


def _nothing() -> None:
    pass

"""The one lock of a tree of trackers, and every operation that changes what is spent and held under it."""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Literal, TypeAlias, TypeVar

from llm_connect import _forks
from llm_connect.budget.accounting import accounts
from llm_connect.budget.accounting.accounts import Account
from llm_connect.budget.accounting.arguments import Limits
from llm_connect.budget.accounting.calibration import Key
from llm_connect.budget.accounting.demands import CallFacts, Demand
from llm_connect.budget.accounting.journal import Journal, Plan
from llm_connect.budget.accounting.ledger import Ledger, LedgerEntry
from llm_connect.budget.accounting.scope import Scope, Tree
from llm_connect.budget.accounting.snapshot import BudgetSnapshot
from llm_connect.budget.accounting.windows import Clock
from llm_connect.budget.admission.alerts import Threshold
from llm_connect.budget.admission.backend import Note
from llm_connect.budget.admission.backoff_lock import TreeLock
from llm_connect.budget.admission.booking import Books, Sink
from llm_connect.budget.admission.callbacks import Outbox
from llm_connect.budget.admission.clocks import wall_clock
from llm_connect.budget.admission.earmarks import Slices
from llm_connect.budget.admission.expiry import Windows, seconds_until_open
from llm_connect.budget.admission.granting import give_back, grant, grow, is_unlimited
from llm_connect.budget.admission.holds import Ending, Hold, OpenHold, Worker, gather_lost, lost
from llm_connect.budget.admission.log import Owed, raise_stray, stray
from llm_connect.budget.admission.wait_queue import Line
from llm_connect.budget.admission.waiters import Waiter
from llm_connect.errors import LLMConfigurationError
from llm_connect.types.amounts import MOST_LIMIT, NOTHING, Amount, usd_of

#: What becomes of a hold whose outcome is not known after dispatch.
OnUnknown: TypeAlias = Literal["presume", "release"]
S = TypeVar("S", bound=Scope)
T = TypeVar("T")


class Gate:
    """The one lock of a tree of trackers, and all that is decided under it.

    Granting is a change of state under the lock, so no two calls can be granted the same budget. The lock is held
    for microseconds, never across I/O, a wait or a callback: waiters are woken, and callbacks made, after it is let go.
    """

    #: The largest limit that it can count.
    most_limit: int = MOST_LIMIT
    #: Operations of this gate do no I/O, so that a coroutine may call them.
    worker: Worker | None = None
    #: What is granted.
    hold_type: type[Hold] = OpenHold

    def __init__(self, keep_entries: int, on_unknown: OnUnknown, sink: Sink | None, clock: Clock = wall_clock) -> None:
        self._lock: TreeLock = TreeLock()
        #: Whether an operation has begun and not ended: it goes on, or it was interrupted.
        self._inside: bool = False
        self.journal: Journal = Journal()
        self.on_unknown: OnUnknown = on_unknown
        self.ledger: Ledger = Ledger(keep_entries, self._run)
        self._outbox = Outbox()
        self._books = Books(self.ledger, self._outbox, sink)
        self._learned = self._books.learned.factors
        self._line = Line(self)
        self._slices = Slices()
        self.clock: Clock = clock
        self._windows = Windows(clock)
        #: Whether there is any window: else no operation looks at the clock.
        self._windowed: bool = False
        #: What is left to do; the next operation works it off.
        self.notes: deque[Note] = deque()
        self._generation = _forks.generation
        self._arrivals = itertools.count(1)
        self.tree: Tree = Tree()

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

    def arrive(self) -> int:
        """The next arrival number; a call keeps its number over its retries."""
        return next(self._arrivals)

    # An operation has the form that `TreeLock` shows, and says by `_inside` that it has begun and that it is done.
    # The two that every call needs are written out; `_run` does all others.

    def admit(self, tracker: Scope, demand: Demand, facts: CallFacts, replaces: Hold | None = None) -> Hold | None:
        """A hold, when the demand fits and nobody waits; None when the caller has to queue.

        What the hold `replaces` has kept passes over without a moment in which somebody else could get it.
        """
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

    def _run(self, operation: Callable[..., T], *args: Any) -> T:
        """What `operation` comes to, after what was left to do is done. Raises LLMConfigurationError in one."""
        self.check_process()
        if self._inside:
            self._refuse_reentry()
        lock = self._lock
        try:
            if not lock.take(False):
                lock.wait()
            if self._inside:
                self._repair()
            self._inside = True
            self._work_off()
            result = operation(*args)
            self._inside = False
        finally:
            try:
                lock.release()
            except BaseException as error:
                lock.let_go(error)
        if self._line.ready or self._outbox.calls:
            self._tell()
        return result

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
        dispatched = self._run(self._dispatch, hold)
        if dispatched is None:
            raise LLMConfigurationError("This hold has ended: reserve anew for another request.")
        if not dispatched:
            hold.release()
        return dispatched

    def room(self, tracker: Scope, demand: Demand, facts: CallFacts) -> int | None:
        """How many such demands fit now; None when no limit concerns them."""
        return self._run(self._room, tracker, demand, facts)

    def queue(self, waiter: Waiter, *, may_wait: bool) -> None:
        """Let `waiter` stand in line: afterwards it has a hold, an error, or waits.

        With `may_wait` False it does not wait: what would have to, is refused.
        """
        self._run(self._queue, waiter, may_wait)

    def take(self, waiter: Waiter) -> Hold | None:
        """The hold that was granted; None when there is none, or no longer, and then the waiter has an error."""
        return self._run(self._take, waiter)

    def work_off(self) -> None:
        """Do what the notes say; in the midst of an operation of this thread that is left to the next one."""
        if not self._lock.owned() and self._generation == _forks.generation:
            self._run(_nothing)

    def lose(self, hold: Hold, ending: Ending) -> None:
        """Let the next operation end a hold that was garbage collected."""
        self.notes.append(partial(self._end, hold, ending))

    def tidy(self) -> None:
        """Work off what is left to do and what has left windows, so that figures do not count what is gone."""
        if self._inside or lost or self.notes or (self._windowed and self._windows.due):
            self.work_off()

    def flush(self) -> None:
        """Do what is left to do, also in a running event loop."""
        self.tidy()

    def record(self, tracker: Scope, amount: Amount, facts: CallFacts) -> LedgerEntry:
        """Book what has been spent already, whatever the limits say."""
        return self._run(self._record, tracker, amount, facts)

    def correct(self, entry_id: int, figures: Limits) -> LedgerEntry:
        """Append what a presumed or settled entry really came to; once for each."""
        entry = self._run(self._correct, entry_id, figures)
        if entry is None:
            raise LLMConfigurationError(
                f"Entry {entry_id} is nothing that this budget has presumed, or settled and still keeps; or it was "
                "corrected before."
            )
        return entry

    def change_limits(self, tracker: Scope, limits: dict[Account, int | None]) -> None:
        """Set limits of `tracker`, all at the same moment, and look who fits now."""
        self._run(self._change_limits, tracker, limits)

    def open_slice(self, child: Scope, kept: Hold) -> bool:
        """Set the limits of `child` aside above it, in the place of what is `kept`; False when it is closed above it.

        It may fail as well when by an overrun more is spent there by now.
        """
        return self._run(self._open_slice, child, kept)

    def close(self, tracker: Scope) -> None:
        """Admit nothing more on `tracker` and below it, tell those that wait there, and return the rest of slices."""
        self.check_process()
        self.notes.append(partial(self._close, tracker))
        self.work_off()

    def watch(self, threshold: Threshold) -> None:
        """Tell of a threshold once it is reached."""
        self._run(self._books.watch, threshold)

    def keep_window(self, tracker: Scope) -> None:
        """Let what `tracker` has spent leave its window in time."""
        self._windows.add(tracker)
        self._windowed = True

    def look(self, tracker: Scope) -> float:
        """Let in who fits by what has left windows; seconds until more leaves one of `tracker` or above it."""
        return self._run(seconds_until_open, tracker) if self._windowed else math.inf

    def read(self, tracker: Scope) -> BudgetSnapshot:
        """The figures of `tracker`, all of one moment."""
        return self._run(self._snapshot, tracker)

    def join(self, joined: dict[str, S], child: S) -> S:
        """The open child of this name among `joined`, else `child`, which joins them."""
        shared: S = self._run(self._join, joined, child)
        return shared

    def handle(self, tracker: Scope) -> Any:
        """What `tracker` is pickled as. Raises TypeError."""
        raise TypeError(
            "A BudgetTracker cannot be pickled: a copy in another process would be a second budget of the same "
            "size. Make one in each process, with its share of the limit, or share one by open_budget."
        )

    def check_process(self) -> None:
        """Raise LLMConfigurationError in a forked process, where a copy of the budget would be a second one."""
        _forks.check(self._generation)

    # What operations do under the lock.

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
        if waiter.waiting:
            self._line.scan()
            self._line.end_wait(waiter, "wait_expired")
        return waiter.leave()

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
        shared = joined.get(child.name)
        if shared is None or shared.closed:
            shared = joined[child.name] = child
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
        path = hold.tracker.accounts
        if not accounts.fits(path, NOTHING) or (is_unlimited(hold) and accounts.limits_output(path)):
            return False
        factor = self._learned.get(hold.facts.key)
        return factor is None or grow(hold, factor)

    def _raised(self, demand: Demand, facts: CallFacts) -> Demand:
        return demand.raised(self._learned.get(facts.key))

    def _end(self, hold: Hold, ending: Ending) -> None:
        if hold.ended:
            return
        if self._books.end(hold, ending):
            self._raise_demands(hold.facts.key)
        if self._line.busy:
            self._line.scan()

    def _raise_demands(self, key: Key) -> None:
        self._line.raise_demands(key, self._learned.get(key))

    def _roll(self) -> None:
        """Let leave windows what is over, and let in who fits by that."""
        if self._windows.roll(self._books) and self._line.busy:
            self._line.scan()

    def _work_off(self) -> None:
        if self._windowed:
            self._roll()
        self._line.reclaim()
        gather_lost()
        notes = self.notes
        while notes:
            # One that is interrupted is done again.
            self._note(notes[0])
            notes.popleft()

    def _note(self, note: Note) -> None:
        if isinstance(note, Waiter):
            self._line.leave(note)
        else:
            note()

    def _tell(self) -> None:
        """Wake who has been let in or refused, and make the callbacks; the lock is let go by now."""
        self._wake_all(self._line.ready)
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

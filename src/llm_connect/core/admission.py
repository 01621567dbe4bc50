"""The one lock of a tree of trackers, and every operation that changes what is spent and held under it."""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from llm_connect.core import accounts, forks
from llm_connect.core.accounts import Account
from llm_connect.core.books import Books, Sink
from llm_connect.core.demand import CallFacts, Demand
from llm_connect.core.exceptions import LLMConfigurationError
from llm_connect.core.gates import Lock, Worker
from llm_connect.core.grants import give_back, grant, grow, is_unlimited
from llm_connect.core.holds import Ending, Hold
from llm_connect.core.ledger import Ledger, LedgerEntry
from llm_connect.core.limits import Limits
from llm_connect.core.line import Line
from llm_connect.core.locks import TreeLock
from llm_connect.core.outbox import Outbox
from llm_connect.core.slices import Slices
from llm_connect.core.snapshot import BudgetSnapshot
from llm_connect.core.thresholds import Threshold
from llm_connect.core.units import NOTHING, Amount, usd_of
from llm_connect.core.waiters import Waiter
from llm_connect.core.windows import Clock, Windows, seconds_until_open, wall_clock

if TYPE_CHECKING:
    from llm_connect.core.budget import BudgetTracker

#: What becomes of a hold whose outcome is not known after dispatch.
OnUnknown: TypeAlias = Literal["presume", "release"]


class Gate:
    """The one lock of a tree of trackers, and all that is decided under it.

    Granting is a change of state under the lock, so no two calls can be granted the same budget. The lock is held
    for microseconds, never across I/O, a wait or a callback: waiters are woken, and callbacks made, after it is let go.
    """

    #: Operations of this gate do no I/O, so that a coroutine may call them.
    worker: Worker | None = None
    #: What is granted.
    hold_type: type[Hold] = Hold

    def __init__(self, keep_entries: int, on_unknown: OnUnknown, sink: Sink | None, clock: Clock = wall_clock) -> None:
        # What a slot of it holds is callable, which pyright takes for an unbound method.
        self._lock: Lock = TreeLock()  # pyright: ignore[reportAttributeAccessIssue]
        self.on_unknown: OnUnknown = on_unknown
        self.ledger: Ledger = Ledger(keep_entries, self._lock)
        self._outbox = Outbox()
        self._books = Books(self.ledger, self._outbox, sink)
        self._learned = self._books.learned.factors
        self._line = Line()
        self._slices = Slices()
        self.clock: Clock = clock
        self._windows = Windows(clock)
        #: Whether there is any window: else no operation looks at the clock.
        self._windowed: bool = False
        #: What finalizers left to do; the next operation works it off.
        self._notes: deque[Callable[[], None]] = deque()
        self._generation = forks.generation
        self._arrivals = itertools.count(1)
        #: Whether any tracker of the tree is closed, or was once: else none has to be asked.
        self.any_closed: bool = False

    def raise_owed(self) -> None:
        """Raise the SystemExit or KeyboardInterrupt that a callback has raised, before anything is held or sent."""
        if self._outbox.owed:
            self._outbox.raise_owed()

    def arrive(self) -> int:
        """The next arrival number; a call keeps its number over its retries."""
        return next(self._arrivals)

    def admit(
        self, tracker: BudgetTracker, demand: Demand, facts: CallFacts, replaces: Hold | None = None
    ) -> Hold | None:
        """A hold, when the demand fits and nobody waits; None when the caller has to queue.

        What the hold `replaces` has kept passes over without a moment in which somebody else could get it.
        """
        if self._generation != forks.generation:
            self.check_process()
        line = self._line
        self._lock.acquire()
        try:
            if self._notes or line.untaken or self._windowed:
                self._work_off()
            replaced = replaces is not None and give_back(replaces)
            if self._learned:
                demand = demand.raised(self._learned.get(facts.key))
            free = (replaced or not line.busy) and not (self.any_closed and tracker.closed)
            hold = grant(tracker, demand, facts) if free else None
            if replaced:
                line.scan()
        finally:
            self._lock.release()
        if line.ready or self._outbox.calls:
            self._tell()
        return hold

    def dispatch(self, hold: Hold) -> bool:
        """Whether the request of `hold` may be sent. Raises LLMConfigurationError when it has ended.

        It ends, released, when by an overrun more is spent by now than a limit allows, or more was learned of its
        adapter and model since it was granted, and what it lacks does not fit now.
        """
        if self._generation != forks.generation:
            self.check_process()
        if self._windowed:
            self.tidy()
        if not self._books.surprised and not hold.ended:
            # Without the lock: what surprises meanwhile comes after this request.
            hold.dispatched = True
            return True
        with self._lock:
            if hold.ended:
                raise LLMConfigurationError("This hold has ended: reserve anew for another request.")
            if hold.dispatched or self._covers(hold):
                hold.dispatched = True
                return True
        hold.release()
        return False

    def room(self, tracker: BudgetTracker, demand: Demand, facts: CallFacts) -> int | None:
        """How many such demands fit now; None when no limit concerns them."""
        self.check_process()
        with self._lock:
            self._work_off()
            counts = accounts.room(tracker.accounts, self._raised(demand, facts).amount)
            room = 0 if tracker.closed else counts
        self._tell()
        return room

    def queue(self, waiter: Waiter, *, may_wait: bool) -> None:
        """Let `waiter` stand in line: afterwards it has a hold, an error, or waits.

        With `may_wait` False it does not wait: what would have to, is refused.
        """
        with self._lock:
            self._work_off()
            waiter.demand = self._raised(waiter.demand, waiter.facts)
            self._line.join(waiter)
            if not may_wait:
                self._line.end_wait(waiter, "refused")
        self._tell()

    def take(self, waiter: Waiter) -> Hold:
        """The hold that was granted. Raises LLMBudgetExceededError when there is none, or no longer."""
        with self._lock:
            if waiter.waiting:
                self._work_off()
                self._line.scan()
                self._line.end_wait(waiter, "wait_expired")
            hold = waiter.leave()
        self._tell()
        if hold is not None:
            return hold
        assert waiter.error is not None
        raise waiter.error

    def abandon(self, waiter: Waiter) -> None:
        """The caller no longer waits: a grant that it has not taken goes back."""
        self._do(partial(self._line.leave, waiter))

    def end(self, hold: Hold, ending: Ending) -> None:
        """End `hold` with what it came to; nothing when it has ended."""
        if self._generation != forks.generation:
            self.check_process()
        if self._lock.owned():
            # A finalizer runs in the midst of an operation of this thread: the next one does it.
            self.lose(hold, ending)
            return
        self._lock.acquire()
        try:
            if self._notes or self._line.untaken or self._windowed:
                self._work_off()
            self._end(hold, ending)
        finally:
            self._lock.release()
        if self._line.ready or self._outbox.calls:
            self._tell()

    def lose(self, hold: Hold, ending: Ending) -> None:
        """Let the next operation end a hold that was garbage collected."""
        self._notes.append(partial(self._end, hold, ending))

    def tidy(self) -> None:
        """Work off what finalizers left and what has left windows, so that figures do not count what is gone."""
        if (self._notes or (self._windowed and self._windows.due)) and self._generation == forks.generation:
            with self._lock:
                self._work_off()
            self._tell()

    def flush(self) -> None:
        """Do what is left to do, also in a running event loop."""
        self.tidy()

    def record(self, tracker: BudgetTracker, amount: Amount, facts: CallFacts) -> LedgerEntry:
        """Book what has been spent already, whatever the limits say."""
        self.check_process()
        with self._lock:
            self._work_off()
            entry = self._books.record(tracker, amount, facts)
            self._line.scan()
        self._tell()
        return entry

    def correct(self, entry_id: int, figures: Limits) -> LedgerEntry:
        """Append what a presumed or settled entry really came to; once for each."""
        self.check_process()
        with self._lock:
            self._work_off()
            before = dict(self._learned)
            entry = self._books.correct(entry_id, figures)
            for key in before.keys() | self._learned.keys():
                if before.get(key) != self._learned.get(key):
                    self._line.raise_demands(key, self._learned.get(key))
            self._line.scan()
        self._tell()
        if entry is None:
            raise LLMConfigurationError(
                f"Entry {entry_id} is nothing that this budget has presumed, or settled and still keeps; or it was "
                "corrected before."
            )
        return entry

    def change_limits(self, tracker: BudgetTracker, limits: dict[Account, int | None]) -> None:
        """Set limits of `tracker`, all at the same moment, and look who fits now."""
        self.check_process()
        with self._lock:
            self._work_off()
            for account, limit in limits.items():
                account.limit = limit
            self._books.surprised = True
            self._books.look_at_thresholds()
            self._line.scan()
        self._tell()

    def open_slice(self, child: BudgetTracker, kept: Hold) -> bool:
        """Set the limits of `child` aside above it, in the place of what is `kept`; False when it is closed above it.

        It may fail as well when by an overrun more is spent there by now.
        """
        self.check_process()
        with self._lock:
            self._work_off()
            give_back(kept)
            child.closed_itself = False
            opened = not child.closed and self._slices.open(child)
            child.closed_itself = not opened
            self._line.scan()
        self._tell()
        return opened

    def close(self, tracker: BudgetTracker) -> None:
        """Admit nothing more on `tracker` and below it, tell those that wait there, and return the rest of slices."""
        self.check_process()
        with self._lock:
            self._work_off()
            tracker.closed_itself = True
            self._slices.close(tracker)
            self._line.close()
        self._tell()

    def watch(self, threshold: Threshold) -> None:
        """Tell of a threshold once it is reached."""
        self.check_process()
        with self._lock:
            self._work_off()
            self._books.watch(threshold)
        self._tell()

    def keep_window(self, tracker: BudgetTracker) -> None:
        """Let what `tracker` has spent leave its window in time."""
        self._windows.add(tracker)
        self._windowed = True

    def look(self, tracker: BudgetTracker) -> float:
        """Let in who fits by what has left windows; seconds until more leaves one of `tracker` or above it."""
        if not self._windowed:
            return math.inf
        self.check_process()
        with self._lock:
            self._work_off()
            seconds = seconds_until_open(tracker)
        self._tell()
        return seconds

    def read(self, tracker: BudgetTracker) -> BudgetSnapshot:
        """The figures of `tracker`, all of one moment."""
        self.check_process()
        with self._lock:
            self._work_off()
            snapshot = self._snapshot(tracker)
        self._tell()
        return snapshot

    def join(self, joined: dict[str, BudgetTracker], child: BudgetTracker) -> BudgetTracker:
        """The open child of this name among `joined`, else `child`, which joins them."""
        self.check_process()
        with self._lock:
            shared = joined.get(child.name)
            if shared is None or shared.closed:
                shared = joined[child.name] = child
        return shared

    def handle(self, tracker: BudgetTracker) -> Any:
        """What `tracker` is pickled as. Raises TypeError."""
        raise TypeError(
            "A BudgetTracker cannot be pickled: a copy in another process would be a second budget of the same "
            "size. Make one in each process, with its share of the limit, or share one by open_budget."
        )

    def check_process(self) -> None:
        """Raise LLMConfigurationError in a forked process, where a copy of the budget would be a second one."""
        forks.check(self._generation)

    def _snapshot(self, tracker: BudgetTracker) -> BudgetSnapshot:
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
            key = hold.facts.key
            self._line.raise_demands(key, self._learned.get(key))
        if self._line.busy:
            self._line.scan()

    def _do(self, note: Callable[[], None]) -> None:
        """Do it now; or leave it to the next operation, when a finalizer runs in the midst of one."""
        self._notes.append(note)
        if self._lock.owned():
            return
        with self._lock:
            self._work_off()
        self._tell()

    def _roll(self) -> None:
        """Let leave windows what is over, and let in who fits by that."""
        if self._windows.roll(self._books) and self._line.busy:
            self._line.scan()

    def _work_off(self) -> None:
        if self._windowed:
            self._roll()
        self._line.reclaim()
        while self._notes:
            self._notes.popleft()()

    def _tell(self) -> None:
        """Wake who has been let in or refused, and make the callbacks; the lock is let go by now."""
        while self._line.ready:
            # Another thread may have taken the last one.
            with suppress(IndexError):
                self._wake(self._line.ready.popleft())
        self._outbox.deliver()

    def _wake(self, waiter: Waiter) -> None:
        try:
            waiter.wake()
        except Exception:
            # Its event loop is closed: the grant goes to the next one, and whoever settles is not disturbed.
            self.abandon(waiter)

"""Admission to a tree of trackers: who is let in, who waits, who is refused, and what became of each."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from llm_connect.core import accounts, forks
from llm_connect.core.accounts import Account, Path, hopeless, short
from llm_connect.core.books import Books
from llm_connect.core.circles import stuck
from llm_connect.core.demand import CallFacts, Demand
from llm_connect.core.exceptions import LLMConfigurationError
from llm_connect.core.holds import Hold
from llm_connect.core.ledger import Ledger, LedgerEntry, Outcome
from llm_connect.core.limits import Limits
from llm_connect.core.queues import Queues
from llm_connect.core.refusals import Reason, refusal
from llm_connect.core.snapshot import BudgetSnapshot
from llm_connect.core.units import Amount
from llm_connect.core.waiters import Waiter

#: What becomes of a hold whose outcome is not known after dispatch.
OnUnknown: TypeAlias = Literal["presume", "release"]

#: How long a grant that came at the end of the wait is left to its caller.
_TAKING_SECONDS = 1.0

if TYPE_CHECKING:
    from llm_connect.core.budget import BudgetTracker


class Gate:
    """The one lock of a tree of trackers, and all that is decided under it.

    Granting is a change of state under the lock, so no two calls can be granted the same budget. The lock is held
    for microseconds, never across I/O, a wait or a callback: waiters are woken after it is let go.
    """

    def __init__(self, keep_entries: int, on_unknown: OnUnknown) -> None:
        self.on_unknown = on_unknown
        self.ledger: Ledger = Ledger(keep_entries)
        self._books = Books(self.ledger)
        #: What finalizers left to do; the next operation works it off.
        self._notes: deque[Callable[[], None]] = deque()
        #: Reentrant, because a finalizer (of a generator with an open hold in it) may run while this thread has it.
        self._lock = threading.RLock()
        self._generation = forks.generation()
        self._arrivals = itertools.count(1)
        self._queues = Queues()
        self._blocked: set[Account] = set()
        self._ready: deque[Waiter] = deque()
        self._untaken: list[tuple[float, int, Waiter]] = []

    def arrive(self) -> int:
        """The next arrival number; a call keeps its number over its retries."""
        return next(self._arrivals)

    def admit(
        self, tracker: BudgetTracker, demand: Demand, facts: CallFacts, replaces: Hold | None = None
    ) -> Hold | None:
        """A hold, when the demand fits and nobody waits; None when the caller has to queue.

        What the hold `replaces` has kept passes over without a moment in which somebody else could get it.
        """
        self.check_process()
        with self._lock:
            self._work_off()
            replaced = replaces is not None and self._give_back(replaces)
            free = not tracker.closed and (replaced or not self._queues)
            hold = self._grant(tracker, demand, facts) if free else None
            if replaced:
                self._scan()
        self._wake_ready()
        return hold

    def dispatch(self, hold: Hold) -> bool:
        """Whether `hold` is still open, and its request may be sent."""
        self.check_process()
        with self._lock:
            if hold.state == "ended":
                return False
            hold.state = "dispatched"
            return True

    def queue(self, waiter: Waiter, *, may_wait: bool) -> None:
        """Let `waiter` stand in line: afterwards it has a hold, an error, or waits.

        With `may_wait` False it does not wait: what would have to, is refused.
        """
        with self._lock:
            self._work_off()
            reason = self._obstacle(waiter)
            if reason is not None:
                self._refuse(waiter, reason)
            else:
                self._queues.add(waiter)
                self._scan()
            if waiter.waiting and not may_wait:
                self._refuse(waiter, "refused")
                self._scan()
        self._wake_ready()

    def take(self, waiter: Waiter) -> Hold:
        """The hold that was granted. Raises LLMBudgetExceededError when there is none, or no longer."""
        with self._lock:
            if waiter.waiting:
                self._work_off()
                self._scan()
            if waiter.waiting:
                self._refuse(waiter, "wait_expired")
                self._scan()
            hold = waiter.leave()
        self._wake_ready()
        if hold is not None:
            return hold
        assert waiter.error is not None
        raise waiter.error

    def abandon(self, waiter: Waiter) -> None:
        """The caller no longer waits: a grant that it has not taken goes back."""
        self._do(partial(self._abandon, waiter))

    def end(self, hold: Hold, outcome: Outcome, actual: Amount, **known: Any) -> None:
        """End `hold` with what it came to; nothing when it has ended."""
        self.check_process()
        self._do(partial(self._end, hold, outcome, actual, **known))

    def lose(self, hold: Hold, outcome: Outcome, actual: Amount) -> None:
        """Let the next operation end a hold that was garbage collected."""
        self._notes.append(partial(self._end, hold, outcome, actual))

    def tidy(self) -> None:
        """Work off what finalizers left, so that figures do not count holds that nobody has any more."""
        if self._notes and self._generation == forks.generation():
            with self._lock:
                self._work_off()
            self._wake_ready()

    def record(self, tracker: BudgetTracker, amount: Amount, facts: CallFacts, **known: Any) -> LedgerEntry:
        """Book what has been spent already, whatever the limits say."""
        self.check_process()
        now = time.time()
        with self._lock:
            self._work_off()
            entry = self._books.book(tracker, "recorded", amount, facts=facts, bound=amount, reserved_at=now, **known)
            self._scan()
        self._wake_ready()
        return entry

    def correct(self, entry_id: int, figures: Limits) -> LedgerEntry:
        """Append what a presumed entry really came to; once for each."""
        self.check_process()
        with self._lock:
            self._work_off()
            presumption = self._books.take_presumption(entry_id)
            entry = None if presumption is None else self._books.correct(*presumption, figures)
            self._scan()
        self._wake_ready()
        if entry is None:
            raise LLMConfigurationError(f"Entry {entry_id} is not an open presumption of this budget.")
        return entry

    def change_limits(self, limits: dict[Account, int | None]) -> None:
        """Set limits, all at the same moment, and look who fits now."""
        self.check_process()
        with self._lock:
            self._work_off()
            for account, limit in limits.items():
                account.limit = limit
            self._scan()
        self._wake_ready()

    def close(self, tracker: BudgetTracker) -> None:
        """Admit nothing more on `tracker` and below it, and tell those that wait there."""
        self.check_process()
        with self._lock:
            self._work_off()
            tracker.closed_itself = True
            for waiter in list(self._queues):
                if waiter.tracker.closed:
                    self._refuse(waiter, "closed")
            self._scan()
        self._wake_ready()

    def read(self, tracker: BudgetTracker) -> BudgetSnapshot:
        """The figures of `tracker`, all of one moment."""
        self.check_process()
        with self._lock:
            self._work_off()
            tokens, calls, usd = (account.limit for account in tracker.own_accounts)
            snapshot = BudgetSnapshot(
                path=tracker.path,
                total=(tokens, calls, usd),
                spent=accounts.amount_of(tracker.own_accounts, "spent"),
                held=accounts.amount_of(tracker.own_accounts, "held"),
                presumed=accounts.amount_of(tracker.own_accounts, "presumed"),
                waiting=sum(tracker in waiter.tracker.lineage for waiter in self._queues),
                breached=tracker.breached,
                closed=tracker.closed,
            )
        self._wake_ready()
        return snapshot

    def join(self, joined: dict[str, BudgetTracker], child: BudgetTracker) -> BudgetTracker:
        """The open child of this name among `joined`, else `child`, which joins them."""
        with self._lock:
            shared = joined.get(child.name)
            if shared is None or shared.closed:
                shared = joined[child.name] = child
        return shared

    def check_process(self) -> None:
        """Raise LLMConfigurationError in a forked process, where a copy of the budget would be a second one."""
        if self._generation != forks.generation():
            raise LLMConfigurationError(
                "This budget was made before os.fork: used here it would be a second budget of the same size. "
                "Make a BudgetTracker of its own in each process, with its share of the limit."
            )

    def _grant(self, tracker: BudgetTracker, demand: Demand, facts: CallFacts) -> Hold | None:
        fitting = demand.fitting(tracker.accounts)
        if fitting is None:
            return None
        amount, max_tokens = fitting
        accounts.hold(tracker.accounts, amount)
        return Hold(tracker, amount, max_tokens, facts)

    def _obstacle(self, waiter: Waiter) -> Reason | None:
        """What stands against a waiter however many other holds end."""
        path, amount = waiter.tracker.accounts, waiter.demand.smallest
        if waiter.tracker.closed:
            return "closed"
        if hopeless(path, amount) is not None:
            return "never_fits"
        return "self_wait" if hopeless(path, amount, waiter.own_on) is not None else None

    def _refuse(self, waiter: Waiter, reason: Reason) -> None:
        waiter.error = refusal(waiter, reason)
        self._ready.append(waiter)

    def _scan(self) -> None:
        while self._queues:
            self._blocked.clear()
            for waiter in self._queues.hopeless():
                self._refuse(waiter, self._obstacle(waiter) or "never_fits")
            self._queues.scan(self._decide, self._may_block)
            circle = stuck(self._queues.owners())
            if not circle:
                return
            # They wait for each other: the last one makes way, since nobody else can.
            self._refuse(circle[-1], "self_wait")

    def _may_block(self, path: Path, amount: Amount) -> bool:
        return any(account not in self._blocked for account in short(path, amount))

    def _decide(self, waiter: Waiter) -> None:
        if self._may_pass(waiter):
            waiter.hold = self._grant(waiter.tracker, waiter.demand, waiter.facts)
        if waiter.hold is not None:
            taken_by = max(waiter.deadline, time.monotonic() + _TAKING_SECONDS)
            heapq.heappush(self._untaken, (taken_by, waiter.arrival, waiter))
            self._ready.append(waiter)
        elif waiter.deadline + _TAKING_SECONDS < time.monotonic():
            # Its event loop stands still, and must not keep others waiting.
            self._refuse(waiter, "wait_expired")
        else:
            self._blocked.update(short(waiter.tracker.accounts, waiter.demand.smallest))

    def _may_pass(self, waiter: Waiter) -> bool:
        """Whether no earlier waiter is short of what this one needs.

        A caller passes one that waits for the caller's own hold: behind it, both would wait for ever.
        """
        if not self._blocked:
            return True
        needs = waiter.demand.smallest
        return not any(
            needs[unit] and account in self._blocked and not waiter.own_on(account)
            for account, unit in waiter.tracker.accounts
        )

    def _do(self, note: Callable[[], None]) -> None:
        """Do it now; or leave it to the next operation, when a finalizer runs in the midst of one."""
        self._notes.append(note)
        if self._lock._is_owned():  # type: ignore[attr-defined]
            return
        with self._lock:
            self._work_off()
        self._wake_ready()

    def _give_back(self, hold: Hold) -> bool:
        if hold.state == "ended":
            return False
        hold.state = "ended"
        accounts.unhold(hold.tracker.accounts, hold.bound)
        return True

    def _abandon(self, waiter: Waiter) -> None:
        hold = waiter.leave()
        if hold is not None:
            self._give_back(hold)
        self._scan()

    def _end(self, hold: Hold, outcome: Outcome, actual: Amount, **known: Any) -> None:
        if not self._give_back(hold):
            return
        hold.entry = self._books.book(
            hold.tracker,
            outcome,
            actual,
            facts=hold.facts,
            bound=hold.bound,
            reserved_at=hold.reserved_at,
            **known,
        )
        self._scan()

    def _work_off(self) -> None:
        while self._untaken and (self._untaken[0][2].gone or self._untaken[0][0] <= time.monotonic()):
            waiter = heapq.heappop(self._untaken)[2]
            if not waiter.gone:
                waiter.error = refusal(waiter, "wait_expired")
                self._abandon(waiter)
        while self._notes:
            self._notes.popleft()()

    def _wake_ready(self) -> None:
        while self._ready:
            # Another thread may have taken the last one.
            with suppress(IndexError):
                self._wake(self._ready.popleft())

    def _wake(self, waiter: Waiter) -> None:
        try:
            waiter.wake()
        except Exception:
            # Its event loop is closed: the grant goes to the next one, and whoever settles is not disturbed.
            self.abandon(waiter)

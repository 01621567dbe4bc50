"""The wait queue: its callers, the order in which it admits or refuses them, and the reason why none starves.

A call whose bound does not fit waits until others end. Many calls may wait at once, for different amounts, on different
trackers and in different units, and each end frees something for some of them. The queue decides which of them gets it.

Three simpler queues do not work.

- Strict first in, first out. A large call that waits for tokens of one child would stop the calls of all other
  children, which need nothing of that child. Their waits would end in refusals, although they fit.
- Admit every caller that fits. Small calls take each freed amount at once. A large call, which needs several of them
  together, may wait for ever.
- Wake all callers and let them try again. The order is random, and each of 10,000 ends wakes 10,000 callers.

The rule lies between the first two: a caller that does not fit blocks exactly the accounts that it is short of. A scan
(`Line.scan`) starts with no account blocked and looks at the waiters in order of arrival. It admits a waiter if the
waiter fits and needs no blocked account; otherwise it blocks the accounts that the waiter is short of, until the scan
ends. A later caller passes if it needs none of them. A new call bypasses the queue only while nobody waits, or in place
of a hold that it gives back, and a retried call keeps the arrival number of its first attempt.

This is sufficient. Take the oldest waiter that is short of some account. While it is short, no later caller gets
anything from that account, so the number of open holds there falls (each may grow once, just before it is sent). Holds
end: their owners settle them or lose them, or the lease of their process expires. Each end frees the hold or books it
as spent. So after finitely many ends the waiter fits there, or can never fit because too much is spent. In the second
case `hopeless` finds it, and it is refused at once unless a window opens in time. By then it may be short of another
account, further up. That adds one more round for each level and no more: a caller that needs a tracker also needs those
above it, up to the allotment around it, so a blocked account protects all accounts below it.

The argument has two gaps, and only the deadline of the wait bounds them.

- Units are blocked one by one. Calls that cost no money pass a caller that is short of money. If they take the tokens
  that it needs as well, it waits for tokens next.
- A caller may overtake a waiter that is short of an account on which the caller itself has a hold. The waiter may be
  waiting for that hold, and behind it both would deadlock. So a caller that always keeps a hold can overtake again and
  again.

A waiter whose event loop is blocked cannot leave when its wait is over. A second later a scan refuses it, so that it no
longer blocks other callers.

A scan that looks at every waiter would be too slow, so the queue consists of groups. The members of a group wait on the
same tracker and need the same units. If the first of them has to wait, the others have to wait as well, because they
need the account that stopped it. A larger one may be short of more accounts and must block these, too. So a scan looks
at the first of each group, and at the others only while the largest demand of the group may be short of an account that
is not blocked yet. 10,000 equal waiters cost as much as one.

Each process that shares a store runs its own queue. A `RemoteWaiter` stands for a caller of another process: only that
process admits it, but it keeps its place here, and a scan sets aside the amount that it needs.

Batch schedulers have the same problem; there, small jobs that pass a large one are called backfilling (Mu'alem and
Feitelson, 2001). Schedulers predict how long a job runs. A budget cannot predict that, so a later call never takes from
an account that an earlier one is short of.
"""

from __future__ import annotations

import asyncio
import heapq
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeAlias
from weakref import WeakSet

from llm_connect.budget.accounting.accounts import Account, Path, change, fits, hopeless, needs, now_on, opening, short
from llm_connect.budget.accounting.bounds import NO_FACTS, CallFacts, Demand, Key, LearnedFactor, PlainDemand
from llm_connect.budget.accounting.journal import Plan
from llm_connect.budget.admission.holds import Hold, Keeper, give_back, grant
from llm_connect.budget.admission.refusals import refusal_of
from llm_connect.errors import BudgetReason, LLMBudgetExceededError, LLMError
from llm_connect.types.amounts import NOTHING, Amount

if TYPE_CHECKING:
    from llm_connect.budget.accounting.accounts import Scope


#: The least time that a caller has to take its grant, even one that came at the end of its wait.
_TAKING_SECONDS = 1.0


class Waiter:
    """One call in the queue: its demand, its arrival number, and its grant or refusal.

    At most one of `hold` and `error` is set, under the lock of the tree; `wake` is called outside of the lock.
    """

    def __init__(
        self,
        tracker: Scope,
        demand: Demand,
        facts: CallFacts,
        *,
        arrival: int,
        deadline: float,
        own: tuple[Hold, ...],
    ) -> None:
        self.tracker = tracker
        self.path: Path = tracker.accounts
        self.facts = facts
        self.arrival = arrival
        #: The moment on the monotonic clock at which the wait ends.
        self.deadline = deadline
        #: Open holds that the caller has reserved itself, and cannot end while it waits.
        self.own: tuple[Hold, ...] = own
        self.hold: Hold | None = None
        self.error: LLMError | None = None
        self.gone: bool = False
        #: True once the caller comes for its grant or refusal. From then on, only its own `take` ends the wait.
        self.came: bool = False
        self.ask(demand)

    def ask(self, demand: Demand) -> None:
        """Wait for `demand` from now on; an exception changes nothing."""
        smallest = demand.smallest
        self.demand: Demand = demand
        #: The smallest amount with which the call can be sent.
        self.smallest: Amount = smallest

    @property
    def waiting(self) -> bool:
        return self.hold is None and self.error is None and not self.gone

    @property
    def patient_until(self) -> float:
        """The moment by which a window must open to help this waiter."""
        return self.deadline

    def leave(self) -> Hold | None:
        """Mark the caller as gone, and return the hold that was granted to it, if there is one."""
        hold = self.hold
        self.hold, self.own, self.gone = None, (), True
        return hold

    def own_on(self, account: Account) -> int:
        """The part of the held figure of `account` that belongs to the caller's own holds."""
        unit = account.index
        return sum(
            hold.bound[unit] for hold in self.own if not hold.ended and account in hold.tracker.accounts.units[unit]
        )

    def wake(self) -> None:
        """Wake the caller; raises an exception if the caller can no longer be reached."""

    def __lt__(self, other: Waiter) -> bool:
        return self.arrival < other.arrival


class RemoteWaiter(Waiter):
    """A caller in another process, as the store reports it. That process admits it; here it only keeps its place."""

    def __init__(self, tracker: Scope, amount: Amount, *, arrival: int, deadline: float) -> None:
        super().__init__(tracker, PlainDemand(*amount), NO_FACTS, arrival=arrival, deadline=deadline, own=())

    @property
    def patient_until(self) -> float:
        """Infinite: only its own process knows when the wait ends; by `deadline` that process must report it again."""
        return math.inf


class Wakeup:
    """Lets one thread sleep until another one wakes it. A wake-up before the sleep counts, and two count as one.

    A finalizer in the sleeping thread may give it, too: `Event` has an inner lock, which that thread may have taken. A
    `SimpleQueue` would hang: on Python 3.11 and 3.12 `get` never returns if its timeout passes before the sleep begins.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def give(self) -> None:
        """Wake the thread that sleeps, or that will."""
        try:
            self._lock.release()
        except RecursionError:
            raise
        except RuntimeError:
            """It has been given already."""

    def sleep(self, seconds: float) -> None:
        """Sleep until the next wake-up, or for `seconds`; negative ones count as 0."""
        self._lock.acquire(timeout=max(0.0, min(seconds, threading.TIMEOUT_MAX)))


class ThreadWaiter(Waiter):
    """A caller that blocks its thread."""

    def __init__(self, *call: Any, **details: Any) -> None:
        super().__init__(*call, **details)
        self._woken = Wakeup()

    @property
    def may_wait(self) -> bool:
        """False in a thread with a running event loop: a wait would block the calls that free budget."""
        return asyncio._get_running_loop() is None

    def wait(self, seconds: float) -> None:
        self._woken.sleep(seconds)

    def wake(self) -> None:
        self._woken.give()


class LoopWaiter(Waiter):
    """A caller that awaits in a task of the running loop, without a thread."""

    may_wait = True

    def __init__(self, *call: Any, **details: Any) -> None:
        super().__init__(*call, **details)
        self._loop = asyncio.get_running_loop()
        self._woken: asyncio.Future[None] | None = None

    async def await_it(self, seconds: float) -> None:
        # A decision in another thread after the caller's last look cannot wake it earlier than this: that takes a step
        # of the loop.
        self._woken = self._loop.create_future()
        timer = self._loop.call_later(seconds, self._resolve)
        try:
            await self._woken
        finally:
            timer.cancel()

    def wake(self) -> None:
        self._loop.call_soon_threadsafe(self._resolve)

    def _resolve(self) -> None:
        if self._woken is not None and not self._woken.done():
            self._woken.set_result(None)


CallerWaiter: TypeAlias = ThreadWaiter | LoopWaiter


class Line:
    """The waiters of one tree of trackers, with their grants and refusals; the caller has the lock of the tree.

    The waiters form groups. A group has one tracker and one set of needed units, so its other members need every
    account that can stop the first one: if that has to wait, the others have to wait, too. A caller with open holds
    forms its own group, because it may overtake. So does a caller of another process, because callers behind it may
    pass once it fits.
    """

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper
        #: Waiters with a grant or a refusal, to be woken after the lock is released.
        self.ready: deque[Waiter] = deque()
        #: The ready waiters that may be woken now: in memory all of them, in a store those of a committed step.
        self.told: deque[Waiter] = self.ready
        #: True if a caller waits, in this process or another one.
        self.busy: bool = False
        #: True if a caller waits in this process.
        self.busy_here: bool = False
        #: The callers that have not taken their grants yet, with the time at which each is reclaimed.
        self.untaken: dict[Waiter, float] = {}
        #: The time before which none of them is reclaimed.
        self.due: float = math.inf
        self._groups: dict[Hashable, _Group] = {}
        #: All waiters that have arrived and still exist.
        self._members: WeakSet[Waiter] = WeakSet()
        self._blocked: set[Account] = set()
        #: Waiters of other processes for which a scan has set their amounts aside.
        self._kept: list[RemoteWaiter] = []

    def note(self, waiter: Waiter) -> None:
        """Note that `waiter` is about to change. A queue whose decisions can be undone remembers its state."""

    def join(self, waiter: Waiter) -> None:
        """Add `waiter` to the queue, or refuse it if it can never fit in time."""
        self.note(waiter)
        if waiter.tracker.tree.any_closed and waiter.tracker.closed:
            self._refuse(waiter, "closed")
            return
        self._add(waiter)
        self.scan()

    def end_wait(self, waiter: Waiter, reason: BudgetReason) -> None:
        """Refuse `waiter` if it still waits; the reason is `self_wait` if only its own holds are in the way."""
        if waiter.waiting:
            by_itself = reason == "wait_expired" and _waits_for_itself(waiter)
            self._refuse(waiter, "self_wait" if by_itself else reason)
            self.scan()

    def take(self, waiter: Waiter) -> Hold | None:
        """Return the granted hold; None if it was refused, and then the waiter has an error."""
        self.note(waiter)
        if waiter.waiting:
            self.scan()
            self.end_wait(waiter, "wait_expired")
        self.untaken.pop(waiter, None)
        return waiter.leave()

    def leave(self, waiter: Waiter) -> None:
        """Remove a caller that gives up, and give back a grant that it has not taken."""
        self.note(waiter)
        if waiter.hold is not None:
            give_back(waiter.hold)
        self.untaken.pop(waiter, None)
        waiter.leave()
        self.scan()

    def close(self) -> None:
        """Refuse the waiters whose tracker is closed."""
        for waiter in self._waiters():
            if waiter.tracker.closed:
                self._refuse(waiter, "closed")
        self.scan()

    def see(self, remote: Iterable[RemoteWaiter]) -> None:
        """Add waiters of other processes, which keep their places here."""
        for waiter in remote:
            self._add(waiter)
        self._look_who_waits()

    def first(self, number: int) -> list[Waiter]:
        """The first waiter of each group, without those of other processes; at most `number`, in order of arrival."""
        firsts = (group.first() for group in self._groups.values())
        return heapq.nsmallest(number, (one for one in firsts if one and not isinstance(one, RemoteWaiter)))

    def trackers(self) -> list[Scope]:
        """The trackers on which a caller waits, or has a grant that may be reclaimed; some of them several times."""
        return [group.tracker for group in self._groups.values()] + [waiter.tracker for waiter in self.untaken]

    def waiting_on(self, tracker: Scope) -> int:
        """The number of callers in this process that wait on `tracker` or below it."""
        here = (waiter for waiter in self._waiters() if not isinstance(waiter, RemoteWaiter))
        return sum(tracker in waiter.tracker.lineage for waiter in here)

    def raise_demands(self, key: Key, factor: LearnedFactor | None) -> None:
        """Raise the demands of the waiting calls of one adapter and model by a learned factor."""
        for waiter in self._waiters():
            if waiter.facts.key == key:
                waiter.ask(waiter.demand.raised(factor))
        self._regroup()

    def reclaim(self) -> None:
        """Take back the grants that their callers have not taken in time; there are some once `due` is over."""
        over = [waiter for waiter, until in self.untaken.items() if until <= time.monotonic() and not waiter.came]
        for waiter in over:
            self.note(waiter)
            waiter.error = _refusal(waiter, "wait_expired")
            self.leave(waiter)
        self.due = min(self.untaken.values(), default=math.inf)

    def repair(self) -> None:
        """Rebuild the queue after an interruption from the attributes of the waiters."""
        self._kept.clear()
        decided = self._regroup()
        ready = set(self.ready)
        self.ready.extend(waiter for waiter in decided if waiter not in ready)
        self.untaken.clear()
        for waiter in [waiter for waiter in decided if waiter.hold is not None]:
            self._expect_taking(waiter)
        self.scan()

    def scan(self) -> None:
        """Admit the waiters that fit at present, in order of arrival; refuse those that can no longer fit."""
        groups = self._groups.values()
        if groups:
            self._blocked.clear()
            for waiter in [waiter for group in groups for waiter in group.hopeless()]:
                self._refuse(waiter, "never_fits")
            for waiter in heapq.merge(*(group.line(self._may_block) for group in groups)):
                self._decide(waiter)
            while self._kept:
                waiter = self._kept.pop()
                _hold(waiter.path, NOTHING.minus(waiter.smallest))
        self._look_who_waits()

    def _waiters(self) -> list[Waiter]:
        return [waiter for group in self._groups.values() for waiter in group.waiters()]

    def _add(self, waiter: Waiter) -> None:
        self._members.add(waiter)
        self._group(waiter)

    def _group(self, waiter: Waiter) -> None:
        needed = tuple(map(bool, waiter.demand.amount))
        alone = bool(waiter.own) or isinstance(waiter, RemoteWaiter)
        key = (waiter.tracker, needed, waiter if alone else None)
        self._groups.setdefault(key, _Group(waiter.tracker)).add(waiter)

    def _regroup(self) -> list[Waiter]:
        """Build all groups again by the present demands. Return the waiters with a grant or an error, which need none.

        Both are in order of arrival, and without callers that have left.
        """
        self._groups = {}
        arrived = sorted(waiter for waiter in self._members if not waiter.gone)
        for waiter in arrived:
            if waiter.waiting:
                self._group(waiter)
        return [waiter for waiter in arrived if not waiter.waiting]

    def _look_who_waits(self) -> None:
        if self._groups:
            self._groups = {key: group for key, group in self._groups.items() if group.first()}
        self.busy = bool(self._groups)
        self.busy_here = self.busy and bool(self.first(1))

    def _refuse(self, waiter: Waiter, reason: BudgetReason) -> None:
        self.note(waiter)
        waiter.error = _refusal(waiter, reason)
        self.ready.append(waiter)

    def _may_block(self, path: Path, amount: Amount) -> bool:
        """True if such a demand is short of an account that is not blocked yet."""
        return any(account not in self._blocked for account in short(path, amount))

    def _decide(self, waiter: Waiter) -> None:
        """Admit a waiter, if it fits and may pass, or let it block the accounts that it is short of."""
        self.note(waiter)
        if isinstance(waiter, RemoteWaiter):
            self._keep_place(waiter)
            return
        if self._may_pass(waiter):
            waiter.hold = grant(self._keeper, waiter.tracker, waiter.demand, waiter.facts)
        if waiter.hold is not None:
            self._expect_taking(waiter)
            self.ready.append(waiter)
        elif not waiter.came and waiter.deadline + _TAKING_SECONDS < time.monotonic():
            # Its event loop is blocked, and must not block other callers.
            self._refuse(waiter, "wait_expired")
        else:
            self._blocked.update(short(waiter.path, waiter.smallest))

    def _expect_taking(self, waiter: Waiter) -> None:
        self.untaken[waiter] = until = max(waiter.deadline, time.monotonic() + _TAKING_SECONDS)
        self.due = min(self.due, until)

    def _keep_place(self, waiter: RemoteWaiter) -> None:
        """Keep the amount that a caller of another process will get from all later callers during this scan."""
        if waiter.deadline <= time.monotonic():
            waiter.leave()
        elif self._may_pass(waiter) and fits(waiter.path, waiter.smallest):
            self._kept.append(waiter)
            _hold(waiter.path, waiter.smallest)
        else:
            self._blocked.update(short(waiter.path, waiter.smallest))

    def _may_pass(self, waiter: Waiter) -> bool:
        """True if no earlier waiter blocks an account that this one needs.

        A caller may overtake a waiter that its own hold blocks; behind it, both would deadlock.
        """
        if not self._blocked:
            return True
        return not any(
            need and account in self._blocked and not waiter.own_on(account)
            for account, need in needs(waiter.path, waiter.smallest)
        )


class _Group:
    """Waiters of which the later ones have to wait if the first one has to."""

    def __init__(self, tracker: Scope) -> None:
        self.tracker = tracker
        self._path = tracker.accounts
        self._heap: list[Waiter] = []
        self._largest = NOTHING
        self._earliest = math.inf

    def add(self, waiter: Waiter) -> None:
        heapq.heappush(self._heap, waiter)
        self._measure(waiter)

    def first(self) -> Waiter | None:
        while self._heap and not self._heap[0].waiting:
            heapq.heappop(self._heap)
        return self._heap[0] if self._heap else None

    def waiters(self) -> list[Waiter]:
        return [waiter for waiter in self._heap if waiter.waiting]

    def line(self, may_block: Callable[[Path, Amount], bool]) -> Iterator[Waiter]:
        """Yield waiters in order until one has to wait, and then the others, as long as one of them may block more."""
        while (first := self.first()) is not None:
            yield first
            if first.waiting:
                break
        if may_block(self._path, self._largest):
            for waiter in sorted(self._measured())[1:]:
                if not may_block(self._path, self._largest):
                    return
                yield waiter

    def hopeless(self) -> list[Waiter]:
        """The waiters that cannot fit in time. If the largest demand fits by the earliest deadline, there are none."""
        if _fits_by(self._earliest, self._path, self._largest):
            return []
        return [each for each in self._measured() if not _fits_by(each.patient_until, each.path, each.smallest)]

    def _measured(self) -> list[Waiter]:
        """All waiters, after computing the largest demand and the earliest deadline again."""
        waiters = self.waiters()
        self._largest, self._earliest = NOTHING, math.inf
        for waiter in waiters:
            self._measure(waiter)
        return waiters

    def _measure(self, waiter: Waiter) -> None:
        self._largest = Amount(*map(max, self._largest, waiter.smallest))
        self._earliest = min(self._earliest, waiter.patient_until)


def _fits_by(deadline: float, path: Path, amount: Amount) -> bool:
    """True if `amount` fits by `deadline` on the monotonic clock, given that all holds and allotments end by then."""
    if hopeless(path, amount) is None:
        return True
    opens_at = opening(path, amount)
    return opens_at is not None and time.monotonic() + max(0.0, opens_at - now_on(path)) <= deadline


def _waits_for_itself(waiter: Waiter) -> bool:
    """True if only open holds of its own caller are in the way of `waiter`."""
    lacking = short(waiter.path, waiter.smallest)
    return bool(lacking) and all(0 < account.held + account.allotted <= waiter.own_on(account) for account in lacking)


def _hold(path: Path, amount: Amount) -> None:
    plan = Plan()
    change(plan, path, amount, NOTHING)
    path.journal.carry_out(plan)


def _refusal(waiter: Waiter, reason: BudgetReason) -> LLMBudgetExceededError:
    return refusal_of(waiter.path, waiter.demand, waiter.facts, reason)

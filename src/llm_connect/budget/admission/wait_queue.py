"""The line of those who wait for budget: who is let in, and who is refused, when something has changed."""

from __future__ import annotations

import heapq
import time
from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING

from llm_connect.budget.accounting.accounts import Account, Path, change, fits, needs, short
from llm_connect.budget.accounting.calibration import Key, LearnedFactor
from llm_connect.budget.accounting.journal import Plan
from llm_connect.budget.admission.granting import give_back, grant
from llm_connect.budget.admission.holds import Keeper
from llm_connect.budget.admission.queues import Queues
from llm_connect.budget.admission.waiters import RemoteWaiter, Waiter, doomed, refusal
from llm_connect.errors import BudgetReason
from llm_connect.types.amounts import NOTHING, Amount

if TYPE_CHECKING:
    from llm_connect.budget.accounting.scope import Scope

#: How long a grant that came at the end of the wait is left to its caller.
_TAKING_SECONDS = 1.0


class Line:
    """Waiters of one tree of trackers, and what has become of them; its caller holds the lock of the tree."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper
        #: Those that have a grant or a refusal and are to be woken once the lock is let go.
        self.ready: deque[Waiter] = deque()
        #: Whether anybody waits, here or in another process.
        self.busy: bool = False
        #: Whether anybody waits here.
        self.busy_here: bool = False
        #: Grants that may have to be reclaimed, by the moment in which they would be.
        self.untaken: list[tuple[float, int, Waiter]] = []
        self._queues = Queues()
        self._blocked: set[Account] = set()
        #: What is set aside during a scan for those that other processes will let in.
        self._kept: list[RemoteWaiter] = []

    def join(self, waiter: Waiter) -> None:
        """Let `waiter` stand in line, or refuse it when nothing can help it."""
        reason = _obstacle(waiter)
        if reason is not None:
            self._refuse(waiter, reason)
        else:
            self._queues.add(waiter)
            self.scan()

    def end_wait(self, waiter: Waiter, reason: BudgetReason) -> None:
        """Refuse `waiter`, if it still waits; the reason of a wait for its own holds alone is `self_wait`."""
        if waiter.waiting:
            by_itself = reason == "wait_expired" and _waits_for_itself(waiter)
            self._refuse(waiter, "self_wait" if by_itself else reason)
            self.scan()

    def leave(self, waiter: Waiter) -> None:
        """Let a caller go that no longer waits: a grant that it has not taken goes back."""
        if waiter.hold is not None:
            give_back(waiter.hold)
        waiter.leave()
        self.scan()

    def close(self) -> None:
        """Refuse those whose tracker is closed."""
        for waiter in list(self._queues):
            if waiter.tracker.closed:
                self._refuse(waiter, "closed")
        self.scan()

    def see(self, remote: Iterable[RemoteWaiter]) -> None:
        """Let these, too, keep their places."""
        for waiter in remote:
            self._queues.add(waiter)
        self._look_who_waits()

    def first(self, number: int) -> list[Waiter]:
        """Those of this process behind whom others wait: so many at most, in order of arrival."""
        return self._queues.first(number) if self.busy else []

    def waiting_on(self, tracker: Scope) -> int:
        """How many wait in this process on `tracker` or below it."""
        here = (waiter for waiter in self._queues if not isinstance(waiter, RemoteWaiter))
        return sum(tracker in waiter.tracker.lineage for waiter in here)

    def raise_demands(self, key: Key, factor: LearnedFactor | None) -> None:
        """Let the waiting calls of one adapter and model ask for as much as was learned of them."""
        for waiter in self._queues:
            if waiter.facts.key == key:
                waiter.demand = waiter.demand.raised(factor)
        self._queues.rebuild()

    def reclaim(self) -> None:
        """Take back the grants whose callers have not come in time."""
        while self.untaken and (self.untaken[0][2].gone or self.untaken[0][0] <= time.monotonic()):
            waiter = heapq.heappop(self.untaken)[2]
            if not waiter.gone:
                waiter.error = refusal(waiter, "wait_expired")
                self.leave(waiter)

    def repair(self) -> None:
        """Put everything in order after an interruption, by what the waiters themselves say."""
        self._kept.clear()
        self._queues.rebuild()
        decided = [waiter for waiter in self._queues.members if not waiter.waiting]
        told = set(self.ready)
        self.ready.extend(waiter for waiter in decided if waiter not in told)
        self.untaken = [_untaken(waiter) for waiter in decided if waiter.hold is not None]
        heapq.heapify(self.untaken)
        self.scan()

    def scan(self) -> None:
        """Let in, in order of arrival, all that fit now; refuse those that nothing can help any more."""
        if self._queues:
            self._blocked.clear()
            for waiter in self._queues.hopeless():
                self._refuse(waiter, "never_fits")
            self._queues.scan(self._decide, self._may_block)
            self._return_kept()
        self._look_who_waits()

    def _look_who_waits(self) -> None:
        self.busy = bool(self._queues)
        self.busy_here = bool(self.first(1))

    def _refuse(self, waiter: Waiter, reason: BudgetReason) -> None:
        waiter.error = refusal(waiter, reason)
        self.ready.append(waiter)

    def _may_block(self, path: Path, amount: Amount) -> bool:
        return any(account not in self._blocked for account in short(path, amount))

    def _decide(self, waiter: Waiter) -> None:
        if isinstance(waiter, RemoteWaiter):
            self._keep_place(waiter)
            return
        if self._may_pass(waiter):
            waiter.hold = grant(self._keeper, waiter.tracker, waiter.demand, waiter.facts)
        if waiter.hold is not None:
            heapq.heappush(self.untaken, _untaken(waiter))
            self.ready.append(waiter)
        elif waiter.deadline + _TAKING_SECONDS < time.monotonic():
            # Its event loop stands still, and must not keep others waiting.
            self._refuse(waiter, "wait_expired")
        else:
            self._blocked.update(short(waiter.tracker.accounts, waiter.demand.smallest))

    def _keep_place(self, waiter: RemoteWaiter) -> None:
        """What a caller in another process is about to get is not given to others during this scan."""
        path, amount = waiter.tracker.accounts, waiter.demand.smallest
        if waiter.deadline <= time.monotonic():
            waiter.leave()
        elif self._may_pass(waiter) and fits(path, amount):
            self._kept.append(waiter)
            self._hold(waiter, amount)
        else:
            self._blocked.update(short(path, amount))

    def _return_kept(self) -> None:
        while self._kept:
            waiter = self._kept.pop()
            self._hold(waiter, NOTHING.minus(waiter.demand.smallest))

    @staticmethod
    def _hold(waiter: RemoteWaiter, amount: Amount) -> None:
        plan, path = Plan(), waiter.tracker.accounts
        change(plan, path, amount, NOTHING)
        path.journal.carry_out(plan)

    def _may_pass(self, waiter: Waiter) -> bool:
        """Whether no earlier waiter is short of what this one needs.

        A caller passes one that waits for the caller's own hold: behind it, both would wait for ever.
        """
        if not self._blocked:
            return True
        return not any(
            need and account in self._blocked and not waiter.own_on(account)
            for account, need in needs(waiter.tracker.accounts, waiter.demand.smallest)
        )


def _untaken(waiter: Waiter) -> tuple[float, int, Waiter]:
    """When the grant of `waiter` is to be reclaimed."""
    return max(waiter.deadline, time.monotonic() + _TAKING_SECONDS), waiter.arrival, waiter


def _obstacle(waiter: Waiter) -> BudgetReason | None:
    """What stands against a waiter however many other holds end, and whatever leaves a window in time."""
    if waiter.tracker.closed:
        return "closed"
    return "never_fits" if doomed(waiter) else None


def _waits_for_itself(waiter: Waiter) -> bool:
    """Whether nothing stands in its way by now but open holds that it has taken itself."""
    lacking = short(waiter.tracker.accounts, waiter.demand.smallest)
    return bool(lacking) and all(0 < account.held <= waiter.own_on(account) for account in lacking)

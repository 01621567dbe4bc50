"""FIFO queue of callers waiting for budget: admits or refuses them when capacity changes."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING

from llm_connect.budget.accounting.accounts import Path, change, fits, needs, short
from llm_connect.budget.accounting.calibration import Key, LearnedFactor
from llm_connect.budget.accounting.journal import Plan
from llm_connect.budget.accounting.levels import Account
from llm_connect.budget.admission.granting import give_back, grant
from llm_connect.budget.admission.holds import Hold, Keeper
from llm_connect.budget.admission.queues import Queues
from llm_connect.budget.admission.waiters import RemoteWaiter, Waiter, doomed, refusal
from llm_connect.errors import BudgetReason
from llm_connect.types.amounts import NOTHING, Amount

if TYPE_CHECKING:
    from llm_connect.budget.accounting.scope import Scope

#: The least time that a caller has to take its grant, even one that came at the end of its wait.
_TAKING_SECONDS = 1.0


class Line:
    """The waiters of one tree of trackers, with their grants and refusals; the caller has the lock of the tree."""

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
        self._queues = Queues()
        self._blocked: set[Account] = set()
        #: Waiters of other processes for which a scan has set their amounts aside.
        self._kept: list[RemoteWaiter] = []

    def join(self, waiter: Waiter) -> None:
        """Add `waiter` to the queue, or refuse it if it can never fit in time."""
        reason = _obstacle(waiter)
        if reason is not None:
            self._refuse(waiter, reason)
        else:
            self._queues.add(waiter)
            self.scan()

    def end_wait(self, waiter: Waiter, reason: BudgetReason) -> None:
        """Refuse `waiter` if it still waits; the reason is `self_wait` if only its own holds are in the way."""
        if waiter.waiting:
            by_itself = reason == "wait_expired" and _waits_for_itself(waiter)
            self._refuse(waiter, "self_wait" if by_itself else reason)
            self.scan()

    def take(self, waiter: Waiter) -> Hold | None:
        """Return the granted hold; None if it was refused, and then the waiter has an error."""
        if waiter.waiting:
            self.scan()
            self.end_wait(waiter, "wait_expired")
        self.untaken.pop(waiter, None)
        return waiter.leave()

    def leave(self, waiter: Waiter) -> None:
        """Remove a caller that gives up, and give back a grant that it has not taken."""
        if waiter.hold is not None:
            give_back(waiter.hold)
        self.untaken.pop(waiter, None)
        waiter.leave()
        self.scan()

    def close(self) -> None:
        """Refuse the waiters whose tracker is closed."""
        for waiter in list(self._queues):
            if waiter.tracker.closed:
                self._refuse(waiter, "closed")
        self.scan()

    def see(self, remote: Iterable[RemoteWaiter]) -> None:
        """Add waiters of other processes, which keep their places here."""
        for waiter in remote:
            self._queues.add(waiter)
        self._look_who_waits()

    def first(self, number: int) -> list[Waiter]:
        """The first waiters of this process's groups; at most `number`, in order of arrival."""
        return self._queues.first(number) if self.busy else []

    def trackers(self) -> list[Scope]:
        """The trackers on which a caller waits, or has a grant that may be reclaimed."""
        return [*self._queues.trackers, *(waiter.tracker for waiter in self.untaken)]

    def waiting_on(self, tracker: Scope) -> int:
        """The number of callers in this process that wait on `tracker` or below it."""
        here = (waiter for waiter in self._queues if not isinstance(waiter, RemoteWaiter))
        return sum(tracker in waiter.tracker.lineage for waiter in here)

    def raise_demands(self, key: Key, factor: LearnedFactor | None) -> None:
        """Raise the demands of the waiting calls of one adapter and model by a learned factor."""
        for waiter in self._queues:
            if waiter.facts.key == key:
                waiter.demand = waiter.demand.raised(factor)
        self._queues.rebuild()

    def reclaim(self) -> None:
        """Take back the grants that their callers have not taken in time."""
        if self.due <= time.monotonic():
            for waiter in [waiter for waiter, until in self.untaken.items() if until <= time.monotonic()]:
                waiter.error = refusal(waiter, "wait_expired")
                self.leave(waiter)
            self.due = min(self.untaken.values(), default=math.inf)

    def repair(self) -> None:
        """Rebuild the queue after an interruption from the attributes of the waiters."""
        self._kept.clear()
        self._queues.rebuild()
        decided = [waiter for waiter in self._queues.members if not waiter.waiting]
        ready = set(self.ready)
        self.ready.extend(waiter for waiter in decided if waiter not in ready)
        self.untaken.clear()
        for waiter in [waiter for waiter in decided if waiter.hold is not None]:
            self._expect_taking(waiter)
        self.scan()

    def scan(self) -> None:
        """Admit the waiters that fit at present, in order of arrival; refuse those that can no longer fit."""
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
            self._expect_taking(waiter)
            self.ready.append(waiter)
        elif waiter.deadline + _TAKING_SECONDS < time.monotonic():
            # Its event loop is blocked, and must not block other callers.
            self._refuse(waiter, "wait_expired")
        else:
            self._blocked.update(short(waiter.tracker.accounts, waiter.demand.smallest))

    def _expect_taking(self, waiter: Waiter) -> None:
        self.untaken[waiter] = until = max(waiter.deadline, time.monotonic() + _TAKING_SECONDS)
        self.due = min(self.due, until)

    def _keep_place(self, waiter: RemoteWaiter) -> None:
        """Keep the amount that a caller of another process will get from all later callers during this scan."""
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
        """True if no earlier waiter blocks an account that this one needs.

        A caller may overtake a waiter that its own hold blocks; behind it, both would deadlock.
        """
        if not self._blocked:
            return True
        return not any(
            need and account in self._blocked and not waiter.own_on(account)
            for account, need in needs(waiter.tracker.accounts, waiter.demand.smallest)
        )


def _obstacle(waiter: Waiter) -> BudgetReason | None:
    """The reason why a waiter can never be admitted in time; None if it can."""
    if waiter.tracker.closed:
        return "closed"
    return "never_fits" if doomed(waiter) else None


def _waits_for_itself(waiter: Waiter) -> bool:
    """True if only open holds of its own caller are in the way of `waiter`."""
    lacking = short(waiter.tracker.accounts, waiter.demand.smallest)
    return bool(lacking) and all(0 < account.held + account.allotted <= waiter.own_on(account) for account in lacking)

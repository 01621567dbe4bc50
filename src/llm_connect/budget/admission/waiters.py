"""Waiters: callers that wait for budget in a thread, in a task, or in another process."""

from __future__ import annotations

import asyncio
import math
import queue
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from llm_connect.budget.accounting.accounts import Path, hopeless, now_on, opening
from llm_connect.budget.accounting.demands import NO_FACTS, CallFacts, Demand, PlainDemand
from llm_connect.budget.accounting.levels import Account
from llm_connect.budget.admission.callers import in_running_loop
from llm_connect.budget.admission.refusals import refusal_of
from llm_connect.errors import BudgetReason, LLMBudgetExceededError, LLMError
from llm_connect.types.amounts import Amount

if TYPE_CHECKING:
    from llm_connect.budget.accounting.scope import Scope
    from llm_connect.budget.admission.holds import Hold


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
        self.demand = demand
        self.facts = facts
        self.arrival = arrival
        #: The moment on the monotonic clock at which the wait ends.
        self.deadline = deadline
        #: Open holds that the caller has reserved itself, and cannot end while it waits.
        self.own: tuple[Hold, ...] = own
        self.hold: Hold | None = None
        self.error: LLMError | None = None
        self.gone: bool = False

    @property
    def waiting(self) -> bool:
        return self.hold is None and self.error is None and not self.gone

    @property
    def patient_until(self) -> float:
        """The moment by which a window must open to help this waiter."""
        return self.deadline

    @property
    def seconds_left(self) -> float:
        """The seconds that it may still wait."""
        return self.deadline - time.monotonic()

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


class ThreadWaiter(Waiter):
    """A caller that blocks its thread."""

    def __init__(self, *call: Any, **details: Any) -> None:
        super().__init__(*call, **details)
        # Unlike Event, SimpleQueue is reentrant: a finalizer in this thread may wake it mid-wait.
        self._woken: queue.SimpleQueue[None] = queue.SimpleQueue()

    @property
    def may_wait(self) -> bool:
        """False in a thread with a running event loop: a wait would block the calls that free budget."""
        return not in_running_loop()

    def wait(self, seconds: float) -> None:
        with suppress(queue.Empty):
            self._woken.get(timeout=max(0.0, min(seconds, threading.TIMEOUT_MAX)))

    def wake(self) -> None:
        self._woken.put(None)


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


class RemoteWaiter(Waiter):
    """A caller in another process, as the store reports it. That process admits it; here it only keeps its place."""

    def __init__(self, tracker: Scope, amount: Amount, *, arrival: int, deadline: float) -> None:
        super().__init__(tracker, PlainDemand(*amount), NO_FACTS, arrival=arrival, deadline=deadline, own=())

    @property
    def patient_until(self) -> float:
        """Infinite: only its own process knows when the wait ends; by `deadline` that process must report it again."""
        return math.inf


def doomed(waiter: Waiter) -> bool:
    """True if `waiter` would not fit in time even if all holds and allotments ended."""
    return not fits_by(waiter.patient_until, waiter.tracker.accounts, waiter.demand.smallest)


def fits_by(deadline: float, path: Path, amount: Amount) -> bool:
    """True if `amount` fits by `deadline` on the monotonic clock, given that all holds and allotments end by then."""
    if hopeless(path, amount) is None:
        return True
    opens_at = opening(path, amount)
    return opens_at is not None and time.monotonic() + max(0.0, opens_at - now_on(path)) <= deadline


def refusal(waiter: Waiter, reason: BudgetReason) -> LLMBudgetExceededError:
    """The error for a refused `waiter`, about the first account that stops it."""
    path, needed = waiter.tracker.accounts, waiter.demand.smallest
    return refusal_of(path, waiter.demand, waiter.facts, reason, hopeless(path, needed))

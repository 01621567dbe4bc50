"""Callers that wait for budget: in a thread, or in a task of an event loop."""

from __future__ import annotations

import asyncio
import math
import queue
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from llm_connect.budget.accounting.accounts import Account, Path, hopeless, now_on, opening
from llm_connect.budget.accounting.demands import NO_FACTS, CallFacts, Demand, PlainDemand
from llm_connect.budget.admission.callers import in_running_loop
from llm_connect.budget.admission.refusals import refusal_of
from llm_connect.errors import BudgetReason, LLMBudgetExceededError, LLMError
from llm_connect.types.amounts import Amount

if TYPE_CHECKING:
    from llm_connect.budget.accounting.scope import Scope
    from llm_connect.budget.admission.holds import Hold


class Waiter:
    """One call in the queue: its demand, its place, and what became of it.

    `hold` and `error` are set under the lock of the tree, at most one of them; `wake` is called outside of it.
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
        #: Moment on the monotonic clock after which the wait is over.
        self.deadline = deadline
        #: Open holds of the caller itself, which cannot end while it waits.
        self.own: tuple[Hold, ...] = own
        self.hold: Hold | None = None
        self.error: LLMError | None = None
        self.gone: bool = False

    @property
    def waiting(self) -> bool:
        return self.hold is None and self.error is None and not self.gone

    @property
    def patient_until(self) -> float:
        """Like `deadline`: when it is too late for a window to open."""
        return self.deadline

    @property
    def seconds_left(self) -> float:
        """How long it may wait from now on."""
        return self.deadline - time.monotonic()

    def leave(self) -> Hold | None:
        """The caller goes, with the grant that it has not taken yet, if there is one."""
        hold = self.hold
        self.hold, self.own, self.gone = None, (), True
        return hold

    def own_on(self, account: Account) -> int:
        """How much of what `account` holds is held by the caller itself."""
        place = account.index
        return sum(
            hold.bound[place] for hold in self.own if not hold.ended and account in hold.tracker.accounts.units[place]
        )

    def wake(self) -> None:
        """Let the caller go on; may raise when the caller cannot be reached any more."""

    def __lt__(self, other: Waiter) -> bool:
        return self.arrival < other.arrival


class ThreadWaiter(Waiter):
    """A caller that blocks its thread."""

    def __init__(self, *place: Any, **details: Any) -> None:
        super().__init__(*place, **details)
        # Unlike an Event, it can be woken by a finalizer that runs in this very thread while it begins to wait.
        self._woken: queue.SimpleQueue[None] = queue.SimpleQueue()

    @property
    def may_wait(self) -> bool:
        """False in a thread whose event loop runs: nobody else there could end a hold meanwhile."""
        return not in_running_loop()

    def wait(self, seconds: float) -> None:
        with suppress(queue.Empty):
            self._woken.get(timeout=max(0.0, min(seconds, threading.TIMEOUT_MAX)))

    def wake(self) -> None:
        self._woken.put(None)


class LoopWaiter(Waiter):
    """A caller that awaits in a task of the running loop; it costs no thread."""

    may_wait = True

    def __init__(self, *place: Any, **details: Any) -> None:
        super().__init__(*place, **details)
        self._loop = asyncio.get_running_loop()
        self._woken: asyncio.Future[None] = self._loop.create_future()

    async def await_it(self, seconds: float) -> None:
        # Unlike a timeout around the future, it leaves that as it is: one may wait again.
        await asyncio.wait((self._woken,), timeout=seconds)

    def wake(self) -> None:
        self._loop.call_soon_threadsafe(self._resolve)

    def _resolve(self) -> None:
        if not self._woken.done():
            self._woken.set_result(None)


class RemoteWaiter(Waiter):
    """A caller that waits in another process, as a store says. It is let in there; here it keeps its place in line."""

    def __init__(self, tracker: Scope, amount: Amount, *, arrival: int, deadline: float) -> None:
        super().__init__(tracker, PlainDemand(*amount), NO_FACTS, arrival=arrival, deadline=deadline, own=())

    @property
    def patient_until(self) -> float:
        """For ever: how long it waits its own process knows, `deadline` is when that is to say so again."""
        return math.inf


def doomed(waiter: Waiter) -> bool:
    """Whether `waiter` would not fit in time though all holds and slices ended."""
    return not fits_by(waiter.patient_until, waiter.tracker.accounts, waiter.demand.smallest)


def fits_by(deadline: float, path: Path, amount: Amount) -> bool:
    """Whether `amount` fits by `deadline` on the monotonic clock, if all holds and slices end by then."""
    if hopeless(path, amount) is None:
        return True
    opens_at = opening(path, amount)
    return opens_at is not None and time.monotonic() + max(0.0, opens_at - now_on(path)) <= deadline


def refusal(waiter: Waiter, reason: BudgetReason) -> LLMBudgetExceededError:
    """The error for `waiter`, about the first account that stops it."""
    path, needed = waiter.tracker.accounts, waiter.demand.smallest
    return refusal_of(path, waiter.demand, waiter.facts, reason, hopeless(path, needed))

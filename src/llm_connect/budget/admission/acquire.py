"""Waiting for budget, as a flow: try to reserve; if that fails, join the queue, wait, and take the grant."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from llm_connect._flows import Flow
from llm_connect.budget.accounting.demands import CallFacts, Demand
from llm_connect.budget.admission.backend import BudgetGate
from llm_connect.budget.admission.callers import own_holds
from llm_connect.budget.admission.holds import Hold, Keeper, tell_of_hold
from llm_connect.budget.admission.log import tell, tell_of_refusal, tells_of_wait
from llm_connect.budget.admission.observing import observers
from llm_connect.budget.admission.waiters import LoopWaiter, ThreadWaiter, Waiter
from llm_connect.errors import LLMBudgetExceededError

if TYPE_CHECKING:
    from llm_connect.budget.accounting.scope import Scope
    from llm_connect.budget.admission.figures import BudgetFigures

CallerWaiter: TypeAlias = ThreadWaiter | LoopWaiter


def _nothing() -> None:
    """The default of `before_waiting`."""


def acquire(
    tracker: BudgetFigures,
    demand: Demand,
    facts: CallFacts,
    *,
    deadline: float,
    arrival: int | None = None,
    replaces: Hold | None = None,
    before_waiting: Callable[[], None] = _nothing,
) -> Flow[Hold]:
    """Return a hold for `demand`; wait for it until `deadline` on the monotonic clock.

    arrival: the arrival number of the call; None takes a new one. replaces: a hold that is given back when the new one
    is granted, or before the wait. before_waiting: called before a wait. A cancelled wait leaves nothing held.

    Raises LLMBudgetExceededError; in a thread with a running event loop at once, because waiting would block the calls
    that free budget.
    """
    gate = tracker.gate
    gate.raise_owed()
    if observers:
        tell("reserve", gate.owed, **_facts_of(tracker, demand, facts))
    if gate.worker is None:
        hold = gate.admit(tracker, demand, facts, replaces)
    else:
        hold = yield Operation(gate, gate.admit, (tracker, demand, facts, replaces))
    if hold is None:
        hold = yield from wait_in_line(
            tracker, demand, facts, deadline=deadline, arrival=arrival, before_waiting=before_waiting
        )
    elif observers:
        tell_of_hold("grant", hold, seconds=0.0)
    return hold


def wait_in_line(
    tracker: BudgetFigures,
    demand: Demand,
    facts: CallFacts,
    *,
    deadline: float,
    arrival: int | None = None,
    before_waiting: Callable[[], None] = _nothing,
) -> Flow[Hold]:
    """Return a hold for a demand that `BudgetGate.admit` has not let in: join the queue, wait, and take the grant."""
    gate = tracker.gate
    leave = gate.notes.append
    number = gate.arrive() if arrival is None else arrival
    details = {"arrival": number, "deadline": deadline, "own": own_holds()}
    waiter: CallerWaiter = yield MakeWaiter((tracker, demand, facts), details)
    began = time.monotonic()
    try:
        yield Operation(gate, partial(gate.queue, waiter, may_wait=waiter.may_wait and waiter.seconds_left > 0))
        if waiter.waiting:
            before_waiting()
            if observers:
                tell("wait", gate.owed, **_facts_of(tracker, demand, facts))
        while waiter.waiting and (seconds := (yield Look(gate, waiter))) < waiter.seconds_left:
            yield Wait(waiter, seconds)
        if waiter.waiting:
            yield Wait(waiter, waiter.seconds_left)
        hold: Hold | None = yield Operation(gate, gate.take, (waiter,))
    except BaseException:
        # A function in C appends the note first: no later exception can lose the fact that the waiter leaves.
        leave(waiter)
        gate.work_off()
        raise
    if hold is None:
        assert waiter.error is not None
        if isinstance(waiter.error, LLMBudgetExceededError):
            tell_of_refusal(waiter.error, gate.owed)
        raise waiter.error
    if tells_of_wait(seconds := time.monotonic() - began):
        tell_of_hold("grant", hold, seconds=seconds)
    return hold


def _facts_of(tracker: Scope, demand: Demand, facts: CallFacts) -> dict[str, Any]:
    """The fields of an event that comes before the hold."""
    amount = demand.amount
    who = {"provider": facts.adapter, "model": facts.model, "labels": facts.labels}
    return {"path": tracker.path, "tokens": amount.tokens, "usd": amount.usd, **who}


class Operation:
    """Does an operation on a budget; for a coroutine, a store's worker does it."""

    __slots__ = ("arguments", "gate", "operation")

    def __init__(self, gate: Keeper, operation: Callable[..., Any], arguments: tuple[Any, ...] = ()) -> None:
        self.gate: Keeper = gate
        self.operation: Callable[..., Any] = operation
        self.arguments: tuple[Any, ...] = arguments

    def run(self) -> Any:
        return self.operation(*self.arguments)

    async def arun(self) -> Any:
        worker = self.gate.worker
        return self.run() if worker is None else await worker.run(self.operation, *self.arguments)


class MakeWaiter:
    """Makes a waiter for the caller, which has not joined the wait queue yet."""

    __slots__ = ("asked", "details")

    def __init__(self, asked: tuple[BudgetFigures, Demand, CallFacts], details: dict[str, Any]) -> None:
        self.asked: tuple[BudgetFigures, Demand, CallFacts] = asked
        self.details: dict[str, Any] = details

    def run(self) -> ThreadWaiter:
        return ThreadWaiter(*self.asked, **self.details)

    async def arun(self) -> LoopWaiter:
        return LoopWaiter(*self.asked, **self.details)


class Look:
    """Returns the seconds until a window opens for a waiter; a store's worker watches windows for coroutines."""

    __slots__ = ("gate", "waiter")

    def __init__(self, gate: BudgetGate, waiter: Waiter) -> None:
        self.gate: BudgetGate = gate
        self.waiter: Waiter = waiter

    def run(self) -> float:
        return self.gate.look(self.waiter.tracker)

    async def arun(self) -> float:
        return self.run() if self.gate.worker is None else self.waiter.seconds_left


class Wait:
    """Waits until a waiter is admitted or refused, for at most `seconds`."""

    __slots__ = ("seconds", "waiter")

    def __init__(self, waiter: CallerWaiter, seconds: float) -> None:
        self.waiter: CallerWaiter = waiter
        self.seconds: float = seconds

    def run(self) -> None:
        self.waiter.wait(self.seconds)  # type: ignore[union-attr]

    async def arun(self) -> None:
        await self.waiter.await_it(self.seconds)  # type: ignore[union-attr]

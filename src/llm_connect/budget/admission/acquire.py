"""Acquiring: the flow from a demand to a hold.

It tries to reserve. If that fails, it joins the queue, waits, and takes the grant.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from llm_connect._flows import Flow
from llm_connect.budget.accounting.bounds import CallFacts, Demand, PlainDemand
from llm_connect.budget.admission.children import limits_of
from llm_connect.budget.admission.controller import Gate
from llm_connect.budget.admission.holds import Hold, Keeper, own_holds, tell_of_hold
from llm_connect.budget.admission.log import LONG_SECONDS, observers, stray, tell, tell_of_refusal
from llm_connect.budget.admission.wait_queue import CallerWaiter, LoopWaiter, ThreadWaiter
from llm_connect.errors import LLMBudgetExceededError, LLMError

if TYPE_CHECKING:
    from llm_connect.budget.accounting.accounts import Scope
    from llm_connect.budget.admission.figures import BudgetFigures

_ALLOTMENT = CallFacts(asker="allotment")


def acquire(
    tracker: BudgetFigures,
    demand: Demand,
    facts: CallFacts,
    *,
    deadline: float,
    arrival: int | None = None,
    replaces: Hold | None = None,
    before_waiting: Callable[[], None] | None = None,
    tried: bool = False,
) -> Flow[Hold]:
    """Return a hold for `demand`; wait for it until `deadline` on the monotonic clock.

    arrival: the arrival number of the call; None takes a new one. replaces: a hold that is given back when the new one
    is granted, or before the wait. before_waiting: called before a wait. A cancelled wait leaves nothing held. tried:
    True if `Gate.admit` has just not let it in.

    Raises LLMBudgetExceededError; in a thread with a running event loop at once, because waiting would block the calls
    that free budget.
    """
    gate = tracker.gate
    if not tried:
        if gate.owed or stray:
            gate.raise_owed()
        if observers:
            tell("reserve", gate.owed, **_facts_of(tracker, demand, facts))
        hold: Hold | None
        if gate.worker is None:
            hold = gate.admit(tracker, demand, facts, replaces)
        else:
            hold = yield Operation(gate, gate.ask, tracker, demand, facts, replaces)
        if hold is not None:
            if observers:
                tell_of_hold("grant", hold, seconds=0.0)
            return hold
    number = gate.arrive() if arrival is None else arrival
    details = {"arrival": number, "deadline": deadline, "own": own_holds()}
    waiter: CallerWaiter = yield MakeWaiter((tracker, demand, facts), details)
    return (yield from _wait_in_line(gate, waiter, demand, before_waiting))


def _wait_in_line(
    gate: Gate, waiter: CallerWaiter, demand: Demand, before_waiting: Callable[[], None] | None
) -> Flow[Hold]:
    """Join the queue with `waiter`, wait, and take the grant. Raises the error of a refusal."""
    began, leave = time.monotonic(), gate.notes.append
    try:
        may_wait = waiter.may_wait and began < waiter.deadline
        yield Operation(gate, partial(gate.queue, waiter, may_wait=may_wait))
        # Looked at here and not in the operation: a store's worker may have decided since, before there was a future.
        if waiter.waiting:
            if before_waiting is not None:
                before_waiting()
            if observers:
                tell("wait", gate.owed, **_facts_of(waiter.tracker, demand, waiter.facts))
        while waiter.waiting and time.monotonic() < waiter.deadline:
            yield Wait(gate, waiter)
        # A store may be busy for longer than a grant waits to be taken.
        waiter.came = True
        hold: Hold | None = yield Operation(gate, gate.take, waiter)
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
    seconds = time.monotonic() - began
    if observers or seconds > LONG_SECONDS:
        tell_of_hold("grant", hold, seconds=seconds)
    return hold


def draw(share: BudgetFigures, max_wait_seconds: float) -> Flow[None]:
    """Open the allotment `share` as soon as its limits fit, in line with calls.

    Raises LLMBudgetExceededError like `acquire`.
    """
    assert share.parent is not None
    size, deadline, opened = PlainDemand(*limits_of(share)), time.monotonic() + max_wait_seconds, False
    while not opened:
        # If an overrun takes the room between the two steps, it waits again, or is refused.
        try:
            kept = yield from acquire(share.parent, size, _ALLOTMENT, deadline=deadline)
        except BaseException as error:
            clear_left_frames(error)
            raise
        with kept:
            opened = yield Operation(share.gate, share.gate.allot, share, kept)


def _facts_of(tracker: Scope, demand: Demand, facts: CallFacts) -> dict[str, Any]:
    """The fields of an event that comes before the hold."""
    amount = demand.amount
    who = {"provider": facts.adapter, "model": facts.model, "labels": facts.labels}
    return {"path": tracker.path, "tokens": amount.tokens, "usd": amount.usd, **who}


class Operation:
    """Does an operation on a budget; for a coroutine, a store's worker does it."""

    __slots__ = ("arguments", "gate", "operation")

    def __init__(self, gate: Keeper, operation: Callable[..., Any], *arguments: Any) -> None:
        self.gate: Keeper = gate
        self.operation: Callable[..., Any] = operation
        self.arguments: tuple[Any, ...] = arguments

    def run(self) -> Any:
        return self.operation(*self.arguments)

    async def arun(self) -> Any:
        worker = self.gate.worker
        return self.run() if worker is None else await worker.run(self.operation, *self.arguments)


@dataclass(slots=True)
class MakeWaiter:
    """Makes a waiter for the caller, which has not joined the wait queue yet."""

    asked: tuple[BudgetFigures, Demand, CallFacts]
    details: dict[str, Any]

    def run(self) -> ThreadWaiter:
        return ThreadWaiter(*self.asked, **self.details)

    async def arun(self) -> LoopWaiter:
        return LoopWaiter(*self.asked, **self.details)


@dataclass(slots=True)
class Wait:
    """Waits until a waiter is admitted or refused, its wait is over, or a window opens for it."""

    gate: Gate
    waiter: CallerWaiter

    def seconds(self) -> float:
        """Admit waiters whose windows have moved, and return the seconds until it is worth looking again."""
        opens = self.gate.look(self.waiter.tracker) if self.gate.windowed else math.inf
        return min(opens, self.waiter.deadline - time.monotonic())

    def run(self) -> None:
        self.waiter.wait(self.seconds())  # type: ignore[union-attr]

    async def arun(self) -> None:
        # A store's worker watches windows for coroutines.
        seconds = self.seconds() if self.gate.worker is None else self.waiter.deadline - time.monotonic()
        await self.waiter.await_it(seconds)  # type: ignore[union-attr]


def clear_left_frames(error: BaseException) -> None:
    """Clear the variables of the functions that an interruption has left, so that they keep no hold.

    A hold that nobody refers to any more is lost, and the next operation ends it (`holds.py`). But an exception refers
    to its traceback, and that to the frames of all functions that it has left, with their variables. An interruption
    between a grant and the `return` to the caller would thus keep the hold as long as somebody keeps the exception: a
    notebook does until the next one (`sys.last_exc`), a future and a list of errors for longer.

    Functions that still run, such as the caller of this one, keep theirs. Our own errors come before a grant.
    """
    trace = None if isinstance(error, LLMError) else error.__traceback__
    while trace is not None:
        with suppress(RuntimeError):
            trace.tb_frame.clear()
        trace = trace.tb_next

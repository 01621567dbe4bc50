"""Waiting for budget, in a thread or in a task: the two drivers of admission."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, TypeVar

from llm_connect.core.callers import own_holds
from llm_connect.core.demand import CallFacts, Demand
from llm_connect.core.holds import Hold
from llm_connect.core.waiters import LoopWaiter, ThreadWaiter, Waiter

if TYPE_CHECKING:
    from llm_connect.core.budget import BudgetTracker

W = TypeVar("W", bound=Waiter)


def admit(
    tracker: BudgetTracker,
    demand: Demand,
    facts: CallFacts,
    *,
    deadline: float,
    arrival: int | None = None,
    replaces: Hold | None = None,
) -> Hold:
    """A hold for `demand`, waiting in this thread until `deadline` on the monotonic clock.

    It takes the place of the hold that it `replaces`, whether it has to wait or not.

    Raises LLMBudgetExceededError; at once in a thread whose event loop runs, since waiting would block those that
    free the budget.
    """
    hold = tracker.gate.admit(tracker, demand, facts, replaces)
    if hold is not None:
        return hold
    waiter = _line_up(ThreadWaiter, tracker, demand, facts, deadline, arrival, may_block=not _in_running_loop())
    try:
        if waiter.waiting:
            waiter.wait(deadline - time.monotonic())
    except BaseException:
        tracker.gate.abandon(waiter)
        raise
    return tracker.gate.take(waiter)


async def aadmit(
    tracker: BudgetTracker,
    demand: Demand,
    facts: CallFacts,
    *,
    deadline: float,
    arrival: int | None = None,
    replaces: Hold | None = None,
) -> Hold:
    """Like `admit`, waiting in this task; a cancelled wait leaves no trace."""
    hold = tracker.gate.admit(tracker, demand, facts, replaces)
    if hold is not None:
        return hold
    waiter = _line_up(LoopWaiter, tracker, demand, facts, deadline, arrival, may_block=True)
    try:
        if waiter.waiting:
            await waiter.wait(deadline - time.monotonic())
    except BaseException:
        tracker.gate.abandon(waiter)
        raise
    return tracker.gate.take(waiter)


def _line_up(
    kind: type[W],
    tracker: BudgetTracker,
    demand: Demand,
    facts: CallFacts,
    deadline: float,
    arrival: int | None,
    *,
    may_block: bool,
) -> W:
    number = tracker.gate.arrive() if arrival is None else arrival
    waiter = kind(tracker, demand, facts, arrival=number, deadline=deadline, own=own_holds())
    tracker.gate.queue(waiter, may_wait=may_block and deadline > time.monotonic())
    return waiter


def _in_running_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True

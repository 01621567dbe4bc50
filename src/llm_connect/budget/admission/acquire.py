"""Waiting for budget, in a thread or in a task: the two drivers of admission."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from llm_connect.budget.accounting.demands import CallFacts, Demand
from llm_connect.budget.admission.backend import BudgetGate
from llm_connect.budget.admission.callers import own_holds
from llm_connect.budget.admission.holds import Hold, Worker
from llm_connect.budget.admission.log import told_of_a_wait
from llm_connect.budget.admission.waiters import LoopWaiter, ThreadWaiter, Waiter

if TYPE_CHECKING:
    from llm_connect.budget.admission.figures import BudgetFigures

W = TypeVar("W", bound=Waiter)


def _nothing() -> None:
    """For a wait that nobody has to be told of."""


def admit(
    tracker: BudgetFigures,
    demand: Demand,
    facts: CallFacts,
    *,
    deadline: float,
    arrival: int | None = None,
    replaces: Hold | None = None,
    before_waiting: Callable[[], None] = _nothing,
) -> Hold:
    """A hold for `demand`, waiting in this thread until `deadline` on the monotonic clock.

    It takes the place of the hold that it `replaces`, whether it has to wait or not. `before_waiting` is called if it
    has to wait.

    Raises LLMBudgetExceededError; at once in a thread whose event loop runs, since waiting would block those that
    free the budget.
    """
    gate = tracker.gate
    gate.raise_owed()
    hold = gate.admit(tracker, demand, facts, replaces)
    if hold is not None:
        return hold
    with told_of_a_wait(tracker.path, gate.owed):
        waiter = _waiter(ThreadWaiter, tracker, demand, facts, deadline, arrival)
        leave = gate.notes.append
        try:
            gate.queue(waiter, may_wait=not in_running_loop() and deadline > time.monotonic())
            if waiter.waiting:
                before_waiting()
            while waiter.waiting and (seconds := gate.look(tracker)) < deadline - time.monotonic():
                waiter.wait(seconds)
            if waiter.waiting:
                waiter.wait(deadline - time.monotonic())
            hold = gate.take(waiter)
        except BaseException:
            # First of all, and by a function in C: whatever happens next, it is known that it leaves.
            leave(waiter)
            gate.work_off()
            raise
        return _granted(waiter, hold)


async def aadmit(
    tracker: BudgetFigures,
    demand: Demand,
    facts: CallFacts,
    *,
    deadline: float,
    arrival: int | None = None,
    replaces: Hold | None = None,
    before_waiting: Callable[[], None] = _nothing,
) -> Hold:
    """Like `admit`, waiting in this task; a cancelled wait leaves no trace."""
    gate, worker = tracker.gate, tracker.gate.worker
    gate.raise_owed()
    if worker is not None:
        return await _aadmit(gate, worker, tracker, demand, facts, deadline, arrival, replaces, before_waiting)
    hold = gate.admit(tracker, demand, facts, replaces)
    if hold is not None:
        return hold
    with told_of_a_wait(tracker.path, gate.owed):
        waiter = _waiter(LoopWaiter, tracker, demand, facts, deadline, arrival)
        leave = gate.notes.append
        try:
            gate.queue(waiter, may_wait=deadline > time.monotonic())
            if waiter.waiting:
                before_waiting()
            while waiter.waiting and (seconds := gate.look(tracker)) < deadline - time.monotonic():
                await waiter.wait(seconds)
            if waiter.waiting:
                await waiter.wait(deadline - time.monotonic())
            hold = gate.take(waiter)
        except BaseException:
            # First of all, and by a function in C: whatever happens next, it is known that it leaves.
            leave(waiter)
            gate.work_off()
            raise
        return _granted(waiter, hold)


async def _aadmit(
    gate: BudgetGate,
    worker: Worker,
    tracker: BudgetFigures,
    demand: Demand,
    facts: CallFacts,
    deadline: float,
    arrival: int | None,
    replaces: Hold | None,
    before_waiting: Callable[[], None],
) -> Hold:
    """The same, with each operation done by the worker of the gate, which looks after windows, too."""
    hold = await worker.run(gate.admit, tracker, demand, facts, replaces)
    if hold is not None:
        return hold
    with told_of_a_wait(tracker.path, gate.owed):
        waiter = _waiter(LoopWaiter, tracker, demand, facts, deadline, arrival)
        leave = gate.notes.append
        try:
            await worker.run(partial(gate.queue, waiter, may_wait=deadline > time.monotonic()))
            if waiter.waiting:
                before_waiting()
                await waiter.wait(deadline - time.monotonic())
            hold = await worker.run(gate.take, waiter)
        except BaseException:
            leave(waiter)
            gate.work_off()
            raise
        return _granted(waiter, hold)


def _granted(waiter: Waiter, hold: Hold | None) -> Hold:
    if hold is not None:
        return hold
    assert waiter.error is not None
    raise waiter.error


def _waiter(
    kind: type[W],
    tracker: BudgetFigures,
    demand: Demand,
    facts: CallFacts,
    deadline: float,
    arrival: int | None,
) -> W:
    number = tracker.gate.arrive() if arrival is None else arrival
    return kind(tracker, demand, facts, arrival=number, deadline=deadline, own=own_holds())


def in_running_loop() -> bool:
    """Whether this thread runs an event loop, which must not be blocked."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True

"""Waiters that leave, are woken late, or never take their grants leave nothing behind."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import math
import time
from typing import Any

import pytest

from llm_connect.budget.accounting.bounds import CallFacts, PlainDemand
from llm_connect.budget.admission import wait_queue
from llm_connect.budget.admission.holds import Hold
from llm_connect.budget.admission.wait_queue import LoopWaiter, ThreadWaiter, Waiter
from llm_connect.budget.tracker import BudgetTracker
from llm_connect.types.amounts import Amount
from tests.budget.budget_helpers import (
    WAIT,
    alone,
    at_rest,
    awaits,
    in_thread,
    inside,
    place,
    refused,
    taken,
    until,
    waits,
)


async def test_a_cancelled_waiter_leaves_no_trace() -> None:
    """A call that is cancelled while it waits has no entry, holds nothing and blocks no other call (BUDGET-6)."""
    tracker = BudgetTracker(100)
    hold = tracker.reserve(80)
    task = asyncio.create_task(tracker.areserve(50, max_wait_seconds=WAIT))
    await awaits(tracker, 1)
    small = asyncio.create_task(tracker.areserve(20, max_wait_seconds=WAIT))
    await awaits(tracker, 2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    (await small).release()
    hold.release()
    assert [entry.outcome for entry in tracker.ledger] == ["released", "released"]
    at_rest(tracker)


async def test_a_grant_that_came_with_the_cancellation_goes_back() -> None:
    """A waiter that is cancelled in the step of its grant gives the grant to the next one (BUDGET-6)."""
    tracker = BudgetTracker(100)
    hold = tracker.reserve(100)
    first = asyncio.create_task(tracker.areserve(100, max_wait_seconds=WAIT))
    await awaits(tracker, 1)
    second = asyncio.create_task(tracker.areserve(100, max_wait_seconds=WAIT))
    await awaits(tracker, 2)
    hold.release()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    (await second).release()
    assert [entry.outcome for entry in tracker.ledger] == ["released", "released"]
    at_rest(tracker)


def test_an_interrupted_thread_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in a waiting thread removes it from the queue (BUDGET-6)."""
    tracker = BudgetTracker(100)
    hold = tracker.reserve(100)

    def interrupt(self: Any, seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("llm_connect.budget.admission.wait_queue.ThreadWaiter.wait", interrupt)
    with pytest.raises(KeyboardInterrupt):
        contextvars.Context().run(lambda: tracker.reserve(10, max_wait_seconds=WAIT))
    assert tracker.snapshot().waiting == 0
    hold.release()
    at_rest(tracker)


class _ClosedLoop(Waiter):
    def wake(self) -> None:
        raise RuntimeError("Event loop is closed")


def test_a_dead_loops_waiter_is_dropped_and_the_settler_not_disturbed() -> None:
    """If a waiter cannot be woken, its grant goes to the next in the queue, and settle does not raise (BUDGET-6)."""
    tracker = BudgetTracker(10)
    hold = tracker.reserve(10)
    dead = _ClosedLoop(tracker, PlainDemand(10), CallFacts(), arrival=tracker.gate.arrive(), deadline=1e18, own=())
    tracker.gate.queue(dead, may_wait=True)
    alive = place(tracker, 10)
    hold.settle(0)
    assert alive.hold is not None
    taken(tracker, alive).release()
    at_rest(tracker)


def test_a_loop_that_ended_while_its_task_waited() -> None:
    """A real loop that was closed with a waiting task costs no budget, and settle does not raise (BUDGET-6)."""
    tracker = BudgetTracker(10)
    hold = tracker.reserve(10)
    loop = asyncio.new_event_loop()
    task = loop.create_task(tracker.areserve(10, max_wait_seconds=WAIT), context=contextvars.Context())
    loop.run_until_complete(awaits(tracker, 1))
    loop.close()
    hold.release()
    at_rest(tracker)
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    del task
    gc.collect()
    at_rest(tracker)


def test_a_late_wake_up_that_fails_takes_no_hold_away() -> None:
    """A hold that was taken stays with its owner, even if waking it fails afterwards (BUDGET-1)."""
    tracker = BudgetTracker(10)
    first = tracker.reserve(10)
    got: list[Hold] = []

    class Overtaken(Waiter):
        """A waiter whose timeout came first: it took the grant before it was woken, and its loop is closed."""

        def wake(self) -> None:
            got.append(taken(tracker, self))
            raise RuntimeError("Event loop is closed")

    waiter = Overtaken(tracker, PlainDemand(10), CallFacts(), arrival=tracker.gate.arrive(), deadline=1e18, own=())
    tracker.gate.queue(waiter, may_wait=True)
    first.release()
    until(lambda: bool(got))
    assert got[0].state == "reserved"
    assert tracker.held == 10
    got[0].release()


def test_an_untaken_grant_is_reclaimed_at_its_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """A grant that its caller does not take goes to the next one when the caller's wait is over (BUDGET-6)."""
    tracker = BudgetTracker(10)
    hold = tracker.reserve(10)
    blocked = place(tracker, 10, seconds=60)
    after = place(tracker, 10)
    hold.release()
    assert blocked.hold is not None
    now = time.monotonic()
    monkeypatch.setattr(wait_queue.time, "monotonic", lambda: now + 59)
    tracker.snapshot()
    assert blocked.hold is not None
    monkeypatch.setattr(wait_queue.time, "monotonic", lambda: now + 61)
    tracker.snapshot()
    assert after.hold is not None
    assert refused(lambda: taken(tracker, blocked)).reason == "wait_expired"
    taken(tracker, after).release()
    at_rest(tracker)


@pytest.mark.in_memory_only
def test_an_untaken_grant_outlives_an_interruption(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next operation finds the grants that are taken, and those that must be reclaimed one day (BUDGET-6)."""
    tracker = BudgetTracker(20)
    hold = tracker.reserve(20)
    one, other, waiting = place(tracker, 10, seconds=60), place(tracker, 10, seconds=60), place(tracker, 10)
    hold.release()
    gate: Any = tracker.gate
    gate._line.untaken.clear()
    gate._inside = True
    taken(tracker, one).release()
    assert other.hold is not None
    taken(tracker, waiting).release()
    now = time.monotonic()
    monkeypatch.setattr(wait_queue.time, "monotonic", lambda: now + 61)
    assert tracker.snapshot().held.tokens == 0
    assert refused(lambda: taken(tracker, other)).reason == "wait_expired"
    at_rest(tracker)


def test_a_grant_at_the_end_of_the_wait_can_still_be_taken() -> None:
    """A caller that was granted in time gets its hold, even if its thread runs a little late (BUDGET-2)."""
    tracker = BudgetTracker(10)
    hold = tracker.reserve(10)
    waiter = place(tracker, 10, seconds=0.001)
    hold.release()
    time.sleep(0.01)
    tracker.snapshot()
    taken(tracker, waiter).release()
    at_rest(tracker)


def test_a_caller_that_comes_for_its_grant_gets_it() -> None:
    """A caller that was granted in time gets its hold, even if the store then delays it for longer (BUDGET-2)."""
    tracker = BudgetTracker(100)
    held = contextvars.Context().run(tracker.reserve, 80)
    caller = in_thread(lambda: tracker.reserve(50, max_wait_seconds=WAIT))
    waits(tracker, 1)
    gate: Any = tracker.gate
    with alone(tracker):
        held.release()
        line = gate._line
        (waiter,) = line.untaken
        until(lambda: waiter.came)
        line.untaken[waiter] = line.due = 0.0
    caller.result(WAIT).release()
    at_rest(tracker)


def test_a_caller_that_comes_late_is_told_the_reason() -> None:
    """A wait for the caller's own holds ends with that reason, however long the store delays its end (BUDGET-9)."""
    tracker = BudgetTracker(100)

    def wants_more() -> str:
        with tracker.reserve(80):
            return refused(lambda: tracker.reserve(50, max_wait_seconds=WAIT)).reason

    caller = in_thread(wants_more)
    waits(tracker, 1)
    gate: Any = tracker.gate
    with alone(tracker):
        (waiter,) = gate._line._members
        waiter.deadline = 0.0
        waiter.wake()
        until(lambda: waiter.came)
    assert caller.result(WAIT) == "self_wait"
    at_rest(tracker)


def test_a_loop_that_stands_still_keeps_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """A waiter that does not leave long after its wait is over no longer blocks others (BUDGET-6)."""
    tracker = BudgetTracker(10)
    hold = tracker.reserve(5)
    stuck = place(tracker, 10, seconds=1)
    small = place(tracker, 5)
    assert small.waiting
    now = time.monotonic()
    monkeypatch.setattr(wait_queue.time, "monotonic", lambda: now + 5)
    taken(tracker, small).release()
    assert refused(lambda: taken(tracker, stuck)).reason == "wait_expired"
    hold.release()
    at_rest(tracker)


def test_a_finalizer_inside_the_lock_waits_for_the_next_operation() -> None:
    """A generator with an open hold that is collected during an operation neither hangs nor loses the hold
    (BUDGET-6).
    """
    tracker = BudgetTracker(100)

    def stream() -> Any:
        with tracker.reserve(10) as hold:
            hold.dispatch()
            yield

    abandoned = stream()
    next(abandoned)
    with inside(tracker):
        del abandoned
        gc.collect()
    assert tracker.snapshot().presumed == Amount(10, 1)
    at_rest(tracker)


@pytest.mark.in_memory_only
async def test_a_waiter_that_is_collected_inside_the_lock_leaves_no_trace() -> None:
    """A waiting coroutine that is collected during an operation is removed by the next one (BUDGET-6)."""
    tracker = BudgetTracker(100)
    hold = contextvars.Context().run(tracker.reserve, 100)
    waiting = tracker.areserve(10, max_wait_seconds=WAIT)
    waiting.send(None)
    assert tracker.snapshot().waiting == 1
    with inside(tracker):
        del waiting
        gc.collect()
    assert tracker.snapshot().waiting == 0
    hold.release()
    at_rest(tracker)


def test_a_waiter_may_be_woken_by_a_finalizer_in_its_own_thread() -> None:
    """Waking a thread takes no lock that this thread may have."""
    tracker = BudgetTracker(100)
    outer = tracker.reserve(100)

    def wait() -> Hold:
        return contextvars.Context().run(lambda: tracker.reserve(10, max_wait_seconds=WAIT))

    waiting = in_thread(wait)
    waits(tracker, 1)
    outer.release()
    waiting.result(WAIT).release()


def test_the_shortest_wait_ends() -> None:
    """Even if its time is over before the thread sleeps: `SimpleQueue.get` would then sleep for good."""
    tracker = BudgetTracker(10)
    details: dict[str, Any] = {"arrival": 1, "deadline": time.monotonic() + WAIT, "own": ()}
    waiters = [ThreadWaiter(tracker, PlainDemand(1), CallFacts(), **details) for _ in range(1_000)]

    def wait() -> None:
        for waiter in waiters:
            waiter.wait(1e-6)
            waiter.wait(-1)

    in_thread(wait).result(WAIT)
    waiters[0].wake()
    waiters[0].wake()
    waiters[0].wait(math.inf)


def test_a_wake_up_that_fails_for_want_of_frames_is_told() -> None:
    """It is no wake-up that has been given already: whoever wakes the caller has to try again."""

    class Lock:
        def release(self) -> None:
            raise RecursionError

    wakeup: Any = wait_queue.Wakeup()
    wakeup._lock = Lock()
    with pytest.raises(RecursionError):
        wakeup.give()


async def test_a_waiter_is_woken_once() -> None:
    """A second wake-up of a task changes nothing."""
    tracker = BudgetTracker(10)
    demand = PlainDemand(1)
    waiter = LoopWaiter(tracker, demand, CallFacts(), arrival=1, deadline=time.monotonic() + WAIT, own=())
    waiter.wake()
    waiter.wake()
    await waiter.await_it(WAIT)

"""Admission: which calls are admitted at once, which wait, and which are refused."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time

import pytest

from llm_connect.budget.accounting.bounds import CallFacts, PlainDemand
from llm_connect.budget.admission.holds import Hold
from llm_connect.budget.tracker import BudgetTracker
from llm_connect.errors import LLMBudgetExceededError
from llm_connect.interface.config import RunConfig
from llm_connect.testing.mock import MockLLMAdapter
from tests.budget.budget_helpers import (
    WAIT,
    aadmit,
    at_rest,
    auntil,
    awaits,
    in_thread,
    place,
    refused,
    taken,
    until,
    waits,
)


def test_a_call_that_fits_goes_at_once() -> None:
    """A call that fits is admitted without a wait, exactly up to the limit (BUDGET-2)."""
    tracker = BudgetTracker(100)
    with tracker.reserve(60), tracker.reserve(40):
        assert tracker.remaining() == 0
    at_rest(tracker)


def test_a_thread_waits_until_it_fits() -> None:
    """A call that does not fit at present is admitted when a hold ends (BUDGET-2)."""
    tracker = BudgetTracker(100)
    first = tracker.reserve(80)
    second = in_thread(lambda: tracker.reserve(50, max_wait_seconds=WAIT))
    waits(tracker, 1)
    first.dispatch()
    first.settle(50)
    second.result(WAIT).release()
    at_rest(tracker)


async def test_a_task_waits_until_it_fits() -> None:
    """A coroutine waits like a thread, and its loop goes on meanwhile (BUDGET-2)."""
    tracker = BudgetTracker(100)
    first = tracker.reserve(80)
    second = asyncio.create_task(tracker.areserve(50, max_wait_seconds=WAIT))
    await awaits(tracker, 1)
    first.release()
    (await second).release()
    at_rest(tracker)


async def test_threads_and_loops_wait_in_one_line() -> None:
    """A settle in a thread wakes a task, and a settle in a task wakes a thread."""
    tracker = BudgetTracker(10)
    first = tracker.reserve(10)
    task = asyncio.create_task(tracker.areserve(10, max_wait_seconds=WAIT))
    await awaits(tracker, 1)
    thread = in_thread(lambda: tracker.reserve(10, max_wait_seconds=WAIT))
    await awaits(tracker, 2)
    await asyncio.to_thread(first.release)
    (await task).release()
    (await asyncio.to_thread(thread.result, WAIT)).release()
    at_rest(tracker)


def test_what_never_fits_is_refused_at_once() -> None:
    """A bound that exceeds the remaining budget even without open holds does not wait."""
    tracker = BudgetTracker(100)
    tracker.record(60)
    started = time.monotonic()
    error = refused(lambda: tracker.reserve(41, max_wait_seconds=WAIT))
    assert time.monotonic() - started < WAIT / 2
    assert (error.reason, error.total, error.spent, error.held, error.requested) == ("never_fits", 100, 60, 0, 41)
    assert error.missing == 1
    assert "1 token," in str(error)


def test_a_waiter_that_can_no_longer_fit_is_told_at_once() -> None:
    """A waiter is refused as soon as other calls have spent the room that it needs."""
    tracker = BudgetTracker(100)
    first = tracker.reserve(80)
    second = in_thread(lambda: tracker.reserve(50, max_wait_seconds=WAIT))
    waits(tracker, 1)
    first.settle(80)
    error = second.exception(WAIT / 2)
    assert isinstance(error, LLMBudgetExceededError)
    assert error.reason == "never_fits"
    at_rest(tracker)


def test_a_wait_ends_at_its_deadline() -> None:
    """`wait_expired` means that the call would have fitted later; the error shows how much was missing."""
    tracker = BudgetTracker(100)
    first = tracker.reserve(80)
    error = in_thread(lambda: tracker.reserve(50, max_wait_seconds=0.2)).exception(WAIT)
    assert isinstance(error, LLMBudgetExceededError)
    assert (error.reason, error.held, error.missing) == ("wait_expired", 80, 30)
    first.release()
    at_rest(tracker)


async def test_a_task_waits_no_longer_than_it_said() -> None:
    """The deadline holds for a coroutine, too."""
    tracker = BudgetTracker(100)
    with tracker.reserve(80):
        task = asyncio.create_task(tracker.areserve(50, max_wait_seconds=0.1), context=contextvars.Context())
        with pytest.raises(LLMBudgetExceededError) as caught:
            await task
        assert caught.value.reason == "wait_expired"
    at_rest(tracker)


def test_a_wait_may_be_as_long_as_one_likes() -> None:
    """A wait may be longer than the longest timeout of a lock."""
    tracker = BudgetTracker(100)
    first = tracker.reserve(100)
    second = in_thread(lambda: tracker.reserve(50, max_wait_seconds=1e300))
    waits(tracker, 1)
    first.release()
    second.result(WAIT).release()


def test_a_manual_reserve_refuses_rather_than_waits() -> None:
    """Without `max_wait_seconds`, a reservation that does not fit at present is refused."""
    tracker = BudgetTracker(100)
    hold = contextvars.Context().run(tracker.reserve, 80)
    error = refused(lambda: tracker.reserve(50))
    assert (error.reason, error.missing) == ("refused", 30)
    hold.release()
    at_rest(tracker)


async def test_sync_in_a_running_loop_refuses_and_names_the_async_way() -> None:
    """A sync wait would block the loop that frees the budget, so it is refused at once (BUDGET-9)."""
    tracker = BudgetTracker(100)
    hold = contextvars.Context().run(tracker.reserve, 80)
    error = refused(lambda: tracker.reserve(50, max_wait_seconds=WAIT))
    assert error.reason == "refused"
    assert "areserve" in str(error)
    config = RunConfig(budget_tracker=tracker, max_tokens=20)
    error = refused(lambda: MockLLMAdapter().execute_prompt("x" * 50, config))
    assert error.reason == "refused"
    assert "async_execute_prompt" in str(error)
    hold.release()


async def test_waiting_costs_no_thread() -> None:
    """Two hundred coroutines that wait for budget need no thread; with a server, one thread listens for all of them."""
    tracker = BudgetTracker(10)
    hold = contextvars.Context().run(tracker.reserve, 10)
    threads = threading.active_count()

    async def call() -> None:
        (await tracker.areserve(10, max_wait_seconds=WAIT)).release()

    tasks = [asyncio.create_task(call()) for _ in range(200)]
    await awaits(tracker, 200)
    assert threading.active_count() <= threads + (tracker.gate.worker is not None)
    hold.release()
    await asyncio.gather(*tasks)
    at_rest(tracker)


def test_a_closed_budget_tells_those_that_wait() -> None:
    """Closing refuses all waiters at once, and every later call."""
    root = BudgetTracker(100)
    child = root.child("child", 50)
    hold = child.reserve(50)
    waiter = place(child.child("grandchild"), 10)
    assert waiter.waiting
    elsewhere = place(root, 60)
    child.close()
    assert waiter.error is not None
    assert waiter.error.reason == "closed"
    assert "parent" in str(refused(lambda: child.reserve(1)))
    assert elsewhere.waiting
    hold.release()
    taken(root, elsewhere).release()
    at_rest(root)


def test_a_raised_limit_lets_waiters_in() -> None:
    """A changed limit admits the waiters that fit it (BUDGET-2)."""
    tracker = BudgetTracker(10)
    hold = tracker.reserve(10)
    waiter = place(tracker, 5)
    tracker.set_limits(total=15)
    taken(tracker, waiter).release()
    hold.release()
    at_rest(tracker)


def test_a_lost_hold_makes_room_at_the_next_operation() -> None:
    """The next operation of any thread ends a lost hold and wakes the callers that waited for it (BUDGET-2)."""
    root = BudgetTracker(100)
    other = root.child("other")
    hold: Hold | None = root.reserve(80)
    waiting = in_thread(lambda: root.reserve(50, max_wait_seconds=WAIT))
    waits(root, 1)
    hold = None
    inner = other.reserve(0, calls=0)
    waiting.result(WAIT / 2).release()
    inner.release()
    assert hold is None
    at_rest(root)


async def test_what_fits_is_admitted_in_a_coroutine_without_a_step() -> None:
    """No task switch happens if no call has to wait."""
    tracker = BudgetTracker(10)
    switched = asyncio.get_running_loop().call_soon(lambda: pytest.fail("the loop went on"))
    hold = await aadmit(tracker, PlainDemand(10), CallFacts(), deadline=0)
    switched.cancel()
    hold.release()
    until(lambda: tracker.held == 0)
    await auntil(lambda: tracker.held == 0)

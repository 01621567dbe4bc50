"""Waits for the caller's own holds: they are no reason for a refusal before the wait ends, and the error then says
so.
"""

from __future__ import annotations

import asyncio
import contextvars
import gc

from llm_connect.budget.admission.holds import own_holds
from llm_connect.budget.tracker import BudgetTracker
from tests.budget.budget_helpers import WAIT, arefused, at_rest, awaits, in_thread, place, refused, taken, waits


def test_a_hold_that_another_thread_ends_is_waited_for() -> None:
    """A caller waits for any hold, even its own, because another thread may end it. (BUDGET-2, BUDGET-9)"""
    tracker = BudgetTracker(100)
    context = contextvars.copy_context()
    own = context.run(tracker.reserve, 80)
    waiting = in_thread(lambda: context.run(tracker.reserve, 50, max_wait_seconds=WAIT))
    waits(tracker, 1)
    own.release()
    waiting.result(WAIT).release()
    at_rest(tracker)


async def test_a_hold_that_another_task_ends_is_waited_for() -> None:
    """A caller waits for any hold, even its own, because another task may end it. (BUDGET-2, BUDGET-9)"""
    tracker = BudgetTracker(100)
    own = await tracker.areserve(80)

    async def end() -> None:
        await awaits(tracker, 1)
        own.release()

    ending = asyncio.create_task(end())
    (await tracker.areserve(50, max_wait_seconds=WAIT)).release()
    await ending
    at_rest(tracker)


def test_a_wait_for_nothing_but_ones_own_hold_is_told_when_it_is_over() -> None:
    """The error at the end of the wait has the remedy; a call that must not wait is refused like any other.
    (BUDGET-9)
    """
    tracker = BudgetTracker(100)
    with tracker.reserve(60), tracker.reserve(10):
        error = refused(lambda: tracker.reserve(60, max_wait_seconds=0.2))
        assert error.reason == "self_wait"
        assert "metered = False" in str(error)
        for _ in range(100):
            tracker.reserve(1).release()
        assert refused(lambda: tracker.reserve(60, max_wait_seconds=0.2)).reason == "self_wait"
        assert refused(lambda: tracker.reserve(60)).reason == "refused"
    at_rest(tracker)


async def test_a_task_is_told_too() -> None:
    """The same holds for a task; another task that inherits its context is a different caller. (BUDGET-9)"""
    tracker = BudgetTracker(100)
    with await tracker.areserve(60):
        assert (await arefused(tracker.areserve(60, max_wait_seconds=0.2))).reason == "self_wait"
        other = asyncio.create_task(arefused(tracker.areserve(60, max_wait_seconds=0.2)))
        assert (await other).reason == "wait_expired"
        in_a_thread = asyncio.to_thread(refused, lambda: tracker.reserve(60, max_wait_seconds=0.2))
        assert (await in_a_thread).reason == "wait_expired"
    at_rest(tracker)


def test_a_wait_that_others_stand_in_the_way_of_has_just_expired() -> None:
    """If a part of the short limit is held by others, the reason is `wait_expired`. (BUDGET-9)"""
    tracker = BudgetTracker(100)
    other, own = tracker.reserve(30), tracker.reserve(40)
    waiter = place(tracker, 50, own=(own,), seconds=0)
    assert refused(lambda: taken(tracker, waiter)).reason == "wait_expired"
    waiter = place(tracker, 50, own=(own,))
    other.settle(30)
    assert waiter.waiting
    assert refused(lambda: taken(tracker, waiter)).reason == "self_wait"
    own.release()
    at_rest(tracker)


def test_a_wait_for_the_rest_of_an_allotment_has_just_expired() -> None:
    """If a part of the short limit is set aside for an allotment, the reason is `wait_expired`. (BUDGET-9)"""
    tracker = BudgetTracker(100)
    own = tracker.reserve(10)
    with tracker.allot("s", 60):
        waiter = place(tracker, 60, own=(own,))
        assert refused(lambda: taken(tracker, waiter)).reason == "wait_expired"
    own.release()
    at_rest(tracker)


def test_nested_holds_do_not_deadlock() -> None:
    """A caller with an open hold overtakes a waiter that waits for that hold. (BUDGET-9)"""
    tracker = BudgetTracker(100)
    outer = tracker.reserve(20)
    large = place(tracker, 100)
    inner = place(tracker, 30, own=(outer,))
    assert inner.hold is not None
    taken(tracker, inner).release()
    outer.release()
    taken(tracker, large).release()
    at_rest(tracker)


def test_callers_that_wait_for_each_others_holds_end_at_the_first_deadline() -> None:
    """No caller is refused earlier; the one that gives up its hold lets the other one in. (BUDGET-9)"""
    tracker = BudgetTracker(100)
    holds = [tracker.reserve(40), tracker.reserve(40)]
    first, second = (place(tracker, 40, own=(hold,)) for hold in holds)
    assert first.waiting
    assert second.waiting
    assert refused(lambda: taken(tracker, second)).reason == "wait_expired"
    holds[1].release()
    taken(tracker, first).release()
    holds[0].release()
    at_rest(tracker)


async def test_a_task_in_the_place_of_a_dead_one_is_another_caller() -> None:
    """A task is a new caller even if it has the id and the context of a dead one. (BUDGET-2, BUDGET-9)"""
    tracker = BudgetTracker(100)
    left: list[object] = []

    async def prepare() -> tuple[int, contextvars.Context]:
        left.append(await tracker.areserve(80))
        assert len(own_holds()) == 1
        return id(asyncio.current_task()), contextvars.copy_context()

    number, context = await asyncio.create_task(prepare())
    gc.collect()

    async def own() -> tuple[bool, int]:
        return id(asyncio.current_task()) == number, len(own_holds())

    for _ in range(20):
        tasks = [asyncio.create_task(own(), context=context) for _ in range(500)]
        found = [count for same, count in await asyncio.gather(*tasks) if same]
        if found:
            break
    assert found in ([], [0])
    left.clear()
    tracker.reserve(100).release()
    at_rest(tracker)

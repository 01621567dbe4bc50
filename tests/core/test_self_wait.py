"""Nobody waits for its own holds, nor do callers wait for each other's for ever."""

from __future__ import annotations

import asyncio
import contextvars

from llm_connect.core.budget import BudgetTracker
from tests.core.budget_helpers import WAIT, arefused, at_rest, awaits, in_thread, place, refused, waits


def test_a_caller_does_not_wait_for_itself() -> None:
    """A wait that only the caller's own hold could end is refused at once as `self_wait` (BUDGET-9)."""
    tracker = BudgetTracker(100)
    with tracker.reserve(60):
        error = refused(lambda: tracker.reserve(60, max_wait_seconds=WAIT))
        assert error.reason == "self_wait"
        assert "metered = False" in str(error)
    tracker.reserve(60).release()


def test_all_holds_of_a_caller_are_its_own() -> None:
    """Not the last one alone, and however many it has taken and ended since (BUDGET-9)."""
    tracker = BudgetTracker(100)
    with tracker.reserve(60), tracker.reserve(10):
        assert refused(lambda: tracker.reserve(60, max_wait_seconds=0.01)).reason == "self_wait"
        for _ in range(100):
            tracker.reserve(1).release()
        assert refused(lambda: tracker.reserve(60, max_wait_seconds=0.01)).reason == "self_wait"
    at_rest(tracker)


def test_a_thread_with_the_context_of_another_is_another_caller() -> None:
    """As `asyncio.to_thread` starts it: the one that it was started from may end its hold meanwhile (BUDGET-9)."""
    tracker = BudgetTracker(100)
    with tracker.reserve(60):
        context = contextvars.copy_context()
        other = in_thread(lambda: context.run(tracker.reserve, 60, max_wait_seconds=WAIT))
        waits(tracker, 1)
    other.result(WAIT).release()
    at_rest(tracker)


async def test_a_task_does_not_wait_for_itself() -> None:
    """What holds for a thread holds for a task; another task's hold is waited for (BUDGET-9)."""
    tracker = BudgetTracker(100)
    with await tracker.areserve(60):
        assert (await arefused(tracker.areserve(60, max_wait_seconds=WAIT))).reason == "self_wait"
        other = asyncio.create_task(tracker.areserve(60, max_wait_seconds=WAIT))
        await awaits(tracker, 1)
    (await other).release()


def test_a_wait_that_becomes_one_for_oneself_is_refused_then() -> None:
    """When others have spent so much that only the caller's own hold is in the way, it is told (BUDGET-9)."""
    tracker = BudgetTracker(100)
    other = tracker.reserve(30)
    own = tracker.reserve(40)
    waiter = place(tracker, 50, own=(own,))
    assert waiter.waiting
    other.settle(30)
    assert waiter.error is not None
    assert waiter.error.reason == "self_wait"
    own.release()
    at_rest(tracker)


def test_nested_holds_do_not_deadlock() -> None:
    """A caller with an open hold passes one that waits for just that hold (BUDGET-9)."""
    tracker = BudgetTracker(100)
    outer = tracker.reserve(20)
    large = place(tracker, 100)
    inner = place(tracker, 30, own=(outer,))
    assert inner.hold is not None
    tracker.gate.take(inner).release()
    outer.release()
    tracker.gate.take(large).release()
    at_rest(tracker)


def test_callers_that_wait_for_each_others_holds_do_not_hang() -> None:
    """When all that is held belongs to callers that wait, the last of them is refused (BUDGET-9)."""
    tracker = BudgetTracker(100)
    holds = [tracker.reserve(40), tracker.reserve(40)]
    first = place(tracker, 40, own=(holds[0],))
    assert first.waiting
    second = place(tracker, 40, own=(holds[1],))
    assert second.error is not None
    assert second.error.reason == "self_wait"
    holds[1].release()
    tracker.gate.take(first).release()
    holds[0].release()
    at_rest(tracker)


def test_of_a_circle_of_three_the_last_is_refused() -> None:
    """One that makes way is enough: the two before it keep waiting, and get what they wait for (BUDGET-9)."""
    tracker = BudgetTracker(100)
    holds = [tracker.reserve(30) for _ in range(3)]
    first, second, third = (place(tracker, 30, own=(hold,)) for hold in holds)
    assert third.error is not None
    assert third.error.reason == "self_wait"
    assert first.waiting
    assert second.waiting
    holds[2].release()
    for waiter, own in ((first, holds[0]), (second, holds[1])):
        tracker.gate.take(waiter).release()
        own.release()
    at_rest(tracker)


def test_a_hold_that_has_ended_is_in_nobodys_way() -> None:
    """Whoever has given its own hold back meanwhile waits like anybody else (BUDGET-9)."""
    tracker = BudgetTracker(100)
    own, other = tracker.reserve(20), tracker.reserve(80)
    waiter = place(tracker, 50, own=(own,))
    own.release()
    tracker.set_limits(total=65)
    assert waiter.waiting
    other.release()
    tracker.gate.take(waiter).release()
    at_rest(tracker)


def test_holds_that_have_ended_keep_nobody_in_a_circle() -> None:
    """What a waiting caller has given back meanwhile is not counted as kept by it (BUDGET-9)."""
    tracker = BudgetTracker(100)
    given_back, kept, other = tracker.reserve(40), tracker.reserve(30), tracker.reserve(30)
    first = place(tracker, 50, own=(given_back,))
    given_back.release()
    second = place(tracker, 41, own=(kept,))
    assert first.waiting
    assert second.waiting
    other.release()
    tracker.gate.take(first).release()
    tracker.gate.take(second).release()
    kept.release()
    at_rest(tracker)


def test_one_who_waits_for_itself_is_refused_before_those_who_wait_for_it() -> None:
    """Of two callers with holds, the one that is in its own way goes, though the other one came later (BUDGET-9)."""
    tracker = BudgetTracker(200)
    holds = [tracker.reserve(40), tracker.reserve(40)]
    other = tracker.reserve(110)
    in_its_own_way = place(tracker, 90, own=(holds[0],))
    behind = place(tracker, 50, own=(holds[1],))
    tracker.set_limits(total=125)
    assert in_its_own_way.error is not None
    assert in_its_own_way.error.reason == "self_wait"
    assert behind.waiting
    other.release()
    holds[0].release()
    tracker.gate.take(behind).release()
    holds[1].release()
    at_rest(tracker)

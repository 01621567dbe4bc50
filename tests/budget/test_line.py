"""The wait queue: the order of admission, and the calls that a waiter blocks."""

from __future__ import annotations

import asyncio
import contextvars
import time

from llm_connect.budget.accounting.bounds import CallFacts, PlainDemand
from llm_connect.budget.tracker import BudgetTracker
from tests.budget.budget_helpers import (
    WAIT,
    aadmit,
    admit,
    at_rest,
    awaits,
    in_thread,
    leave,
    place,
    refused,
    taken,
    waits,
)


def test_first_come_first_served() -> None:
    """Equal calls are admitted in order of arrival (BUDGET-5)."""
    tracker = BudgetTracker(10)
    hold = tracker.reserve(10)
    line = [place(tracker, 10) for _ in range(5)]
    order = []
    for _ in line:
        hold.release()
        (granted,) = [waiter for waiter in line if waiter.hold is not None]
        order.append(line.index(granted))
        hold = taken(tracker, granted)
    assert order == [0, 1, 2, 3, 4]
    hold.release()
    at_rest(tracker)


def test_a_large_call_is_not_starved_by_small_ones() -> None:
    """Later small calls wait behind a large one, although they would fit (BUDGET-5)."""
    tracker = BudgetTracker(100)
    first = tracker.reserve(50)
    large = place(tracker, 100)
    assert contextvars.Context().run(refused, lambda: tracker.reserve(1)).reason == "refused"
    small = place(tracker, 1)
    assert small.waiting
    first.release()
    assert large.hold is not None
    assert small.waiting
    taken(tracker, large).release()
    taken(tracker, small).release()
    at_rest(tracker)


def test_a_waiter_blocks_only_what_it_is_short_of() -> None:
    """A call that is short of one child's budget blocks no call of a sibling or of the parent (BUDGET-5)."""
    root = BudgetTracker(100)
    one, two = root.child("one", 10), root.child("two", 10)
    hold = one.reserve(10)
    waiter = place(one, 10)
    assert waiter.waiting
    two.reserve(10).release()
    root.reserve(90).release()
    assert place(one, 1).waiting
    hold.release()
    tracker_hold = taken(root, waiter)
    tracker_hold.release()


def test_a_waiter_blocks_only_the_unit_it_is_short_of() -> None:
    """A call that waits for tokens does not block one that only needs calls (BUDGET-5)."""
    tracker = BudgetTracker(10, total_calls=10)
    hold = tracker.reserve(10)
    waiter = place(tracker, 10)
    tracker.reserve(0, calls=5).release()
    hold.release()
    leave(tracker, waiter)
    at_rest(tracker)


def test_one_behind_another_blocks_what_it_is_short_of() -> None:
    """A later waiter that is also short of calls is not overtaken on calls (BUDGET-5)."""
    tracker = BudgetTracker(10, total_calls=3)
    hold = contextvars.Context().run(tracker.reserve, 10)
    first, second = place(tracker, 10, calls=1), place(tracker, 10, calls=3)
    assert refused(lambda: tracker.reserve(0, calls=1)).reason == "refused"
    fourth = place(tracker, 10, calls=1)
    third = place(tracker, 0, calls=1)
    assert third.waiting
    leave(tracker, second)
    leave(tracker, fourth)
    taken(tracker, third).release()
    hold.release()
    taken(tracker, first).release()
    at_rest(tracker)


def test_one_who_may_pass_and_does_not_wait_is_let_in() -> None:
    """While others wait elsewhere, a call that fits is admitted even if it must not wait (BUDGET-2)."""
    root = BudgetTracker(1_000)
    one = root.child("one", 10)
    hold = one.reserve(10)
    waiter = place(one, 10)
    for _ in range(100):
        root.consume(1)
        root.reserve(5).release()
    leave(root, waiter)
    hold.release()
    assert root.spent == 100
    at_rest(root)


def test_the_arrival_number_is_kept_for_retries() -> None:
    """A call that returns with its number is ahead of the calls that arrived after it (BUDGET-5)."""
    tracker = BudgetTracker(10)
    number = tracker.gate.arrive()
    hold = tracker.reserve(10)
    later = place(tracker, 10)
    context = contextvars.Context()
    again = in_thread(
        lambda: context.run(
            admit, tracker, PlainDemand(10), CallFacts(), deadline=time.monotonic() + WAIT, arrival=number
        )
    )
    waits(tracker, 2)
    hold.release()
    again.result(WAIT).release()
    taken(tracker, later).release()
    at_rest(tracker)


async def test_a_task_keeps_its_arrival_number_for_retries() -> None:
    """The same holds for a task (BUDGET-5)."""
    tracker = BudgetTracker(10)
    number = tracker.gate.arrive()
    hold = in_thread(lambda: tracker.reserve(10)).result(WAIT)
    later = place(tracker, 10)
    deadline = time.monotonic() + WAIT
    again = asyncio.create_task(aadmit(tracker, PlainDemand(10), CallFacts(), deadline=deadline, arrival=number))
    await awaits(tracker, 2)
    hold.release()
    (await again).release()
    taken(tracker, later).release()
    at_rest(tracker)


def test_a_thousand_waiters_are_served_in_order() -> None:
    """A long queue costs no more for each caller than a short one, and keeps its order (BUDGET-5)."""
    tracker = BudgetTracker(10)
    hold = tracker.reserve(10)
    line = [place(tracker, 10) for _ in range(1_000)]
    for waiter in line:
        hold.release()
        hold = taken(tracker, waiter)
    hold.release()
    at_rest(tracker)

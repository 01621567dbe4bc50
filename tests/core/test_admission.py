"""Who is let in, who waits and who is refused."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
import time
from typing import Any

import pytest

from llm_connect.core import line
from llm_connect.core.budget import BudgetTracker
from llm_connect.core.demand import CallFacts, PlainDemand
from llm_connect.core.exceptions import LLMBudgetExceededError
from llm_connect.core.holds import Hold
from llm_connect.core.units import Amount
from llm_connect.core.waiters import LoopWaiter, Waiter
from llm_connect.core.waiting import aadmit, admit
from tests.core.budget_helpers import (
    PATIENCE,
    arefused,
    at_rest,
    auntil,
    awaits,
    in_thread,
    refused,
    until,
    waits,
)

WAIT = PATIENCE


def place(
    tracker: BudgetTracker, tokens: int, *, calls: int = 0, own: tuple[Hold, ...] = (), seconds: float = 1_000.0
) -> Waiter:
    """A caller in line, without a thread."""
    deadline = time.monotonic() + seconds
    demand = PlainDemand(tokens, calls)
    waiter = Waiter(tracker, demand, CallFacts(), arrival=tracker.gate.arrive(), deadline=deadline, own=own)
    tracker.gate.queue(waiter, may_wait=True)
    return waiter


def test_a_call_that_fits_goes_at_once() -> None:
    """What fits is let in without a wait, exactly up to the limit (BUDGET-2)."""
    tracker = BudgetTracker(100)
    with tracker.reserve(60), tracker.reserve(40):
        assert tracker.remaining() == 0
    at_rest(tracker)


def test_a_thread_waits_until_it_fits() -> None:
    """A call that does not fit now is let in when a hold ends (BUDGET-2)."""
    tracker = BudgetTracker(100)
    first = tracker.reserve(80)
    second = in_thread(lambda: tracker.reserve(50, max_wait_seconds=WAIT))
    waits(tracker, 1)
    first.dispatch()
    first.settle(50)
    second.result(WAIT).release()
    at_rest(tracker)


async def test_a_task_waits_until_it_fits() -> None:
    """A coroutine waits as a thread does, and its loop goes on meanwhile (BUDGET-2)."""
    tracker = BudgetTracker(100)
    first = tracker.reserve(80)
    second = asyncio.create_task(tracker.areserve(50, max_wait_seconds=WAIT))
    await awaits(tracker, 1)
    first.release()
    (await second).release()
    at_rest(tracker)


async def test_threads_and_loops_wait_in_one_line() -> None:
    """A thread's settle wakes a task, and a task's settle a thread."""
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
    """A bound over what is left even without open holds is not waited for."""
    tracker = BudgetTracker(100)
    tracker.record(60)
    started = time.monotonic()
    error = refused(lambda: tracker.reserve(41, max_wait_seconds=WAIT))
    assert time.monotonic() - started < WAIT / 2
    assert (error.reason, error.total, error.spent, error.held, error.requested) == ("never_fits", 100, 60, 0, 41)
    assert error.missing == 1
    assert "1 token," in str(error)


def test_a_waiter_that_can_no_longer_fit_is_told_at_once() -> None:
    """A waiter learns it as soon as what others spent leaves no room for it."""
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
    """`wait_expired` says that it would have fitted later, and by how much it was short."""
    tracker = BudgetTracker(100)
    first = tracker.reserve(80)
    error = in_thread(lambda: tracker.reserve(50, max_wait_seconds=0.02)).exception(WAIT)
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
    """A wait longer than a lock's longest timeout is a wait."""
    tracker = BudgetTracker(100)
    first = tracker.reserve(100)
    second = in_thread(lambda: tracker.reserve(50, max_wait_seconds=1e300))
    waits(tracker, 1)
    first.release()
    second.result(WAIT).release()


def test_a_manual_reserve_refuses_rather_than_waits() -> None:
    """Without `max_wait_seconds`, a reserve that does not fit now is refused."""
    tracker = BudgetTracker(100)
    hold = contextvars.Context().run(tracker.reserve, 80)
    error = refused(lambda: tracker.reserve(50))
    assert (error.reason, error.missing) == ("refused", 30)
    hold.release()
    at_rest(tracker)


async def test_sync_in_a_running_loop_refuses_and_names_the_async_way() -> None:
    """A sync wait would block the loop that frees the budget: it is refused at once (BUDGET-9)."""
    tracker = BudgetTracker(100)
    hold = contextvars.Context().run(tracker.reserve, 80)
    error = refused(lambda: tracker.reserve(50, max_wait_seconds=WAIT))
    assert error.reason == "refused"
    assert "areserve" in str(error)
    assert "async_execute_prompt" in str(error)
    hold.release()


def test_first_come_first_served() -> None:
    """Equal calls are let in in the order in which they came (BUDGET-5)."""
    tracker = BudgetTracker(10)
    hold = tracker.reserve(10)
    line = [place(tracker, 10) for _ in range(5)]
    order = []
    for _ in line:
        hold.release()
        (granted,) = [waiter for waiter in line if waiter.hold is not None]
        order.append(line.index(granted))
        hold = tracker.gate.take(granted)
    assert order == [0, 1, 2, 3, 4]
    hold.release()
    at_rest(tracker)


def test_a_large_call_is_not_starved_by_small_ones() -> None:
    """Small calls that come later wait behind a large one, though they would fit (BUDGET-5)."""
    tracker = BudgetTracker(100)
    first = tracker.reserve(50)
    large = place(tracker, 100)
    assert contextvars.Context().run(refused, lambda: tracker.reserve(1)).reason == "refused"
    small = place(tracker, 1)
    assert small.waiting
    first.release()
    assert large.hold is not None
    assert small.waiting
    tracker.gate.take(large).release()
    tracker.gate.take(small).release()
    at_rest(tracker)


def test_a_waiter_blocks_only_what_it_is_short_of() -> None:
    """A call short of one child's budget keeps nobody waiting in a sibling, nor in the parent (BUDGET-5)."""
    root = BudgetTracker(100)
    one, two = root.child("one", 10), root.child("two", 10)
    hold = one.reserve(10)
    waiter = place(one, 10)
    assert waiter.waiting
    two.reserve(10).release()
    root.reserve(90).release()
    assert place(one, 1).waiting
    hold.release()
    tracker_hold = root.gate.take(waiter)
    tracker_hold.release()


def test_a_waiter_blocks_only_the_unit_it_is_short_of() -> None:
    """A call that waits for tokens does not stop one that needs calls only (BUDGET-5)."""
    tracker = BudgetTracker(10, total_calls=10)
    hold = tracker.reserve(10)
    waiter = place(tracker, 10)
    tracker.reserve(0, calls=5).release()
    hold.release()
    tracker.gate.abandon(waiter)
    at_rest(tracker)


def test_one_behind_another_blocks_what_it_is_short_of() -> None:
    """A later one in line that is short of calls, too, is not overtaken on calls (BUDGET-5)."""
    tracker = BudgetTracker(10, total_calls=3)
    hold = contextvars.Context().run(tracker.reserve, 10)
    first, second = place(tracker, 10, calls=1), place(tracker, 10, calls=3)
    assert refused(lambda: tracker.reserve(0, calls=1)).reason == "refused"
    fourth = place(tracker, 10, calls=1)
    third = place(tracker, 0, calls=1)
    assert third.waiting
    tracker.gate.abandon(second)
    tracker.gate.abandon(fourth)
    tracker.gate.take(third).release()
    hold.release()
    tracker.gate.take(first).release()
    at_rest(tracker)


def test_one_who_may_pass_and_does_not_wait_is_let_in() -> None:
    """While others wait elsewhere, a call without patience that fits is let in, always (BUDGET-2)."""
    root = BudgetTracker(1_000)
    one = root.child("one", 10)
    hold = one.reserve(10)
    waiter = place(one, 10)
    for _ in range(100):
        root.consume(1)
        root.reserve(5).release()
    root.gate.abandon(waiter)
    hold.release()
    assert root.spent == 100
    at_rest(root)


def test_the_arrival_number_is_kept_for_retries() -> None:
    """A call that comes back with its number stands before those that came after it (BUDGET-5)."""
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
    tracker.gate.take(later).release()
    at_rest(tracker)


async def test_a_task_keeps_its_arrival_number_for_retries() -> None:
    """What holds for a thread that comes back holds for a task (BUDGET-5)."""
    tracker = BudgetTracker(10)
    number = tracker.gate.arrive()
    hold = in_thread(lambda: tracker.reserve(10)).result(WAIT)
    later = place(tracker, 10)
    deadline = time.monotonic() + WAIT
    again = asyncio.create_task(aadmit(tracker, PlainDemand(10), CallFacts(), deadline=deadline, arrival=number))
    await awaits(tracker, 2)
    hold.release()
    (await again).release()
    tracker.gate.take(later).release()
    at_rest(tracker)


async def test_a_cancelled_waiter_leaves_no_trace() -> None:
    """Cancelled while it waits, a call has no entry, holds nothing and stops nobody (BUDGET-6)."""
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
    """A waiter cancelled in the same step in which it was granted gives the grant to the next (BUDGET-6)."""
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
    """Ctrl-C while a thread waits takes it out of the line (BUDGET-6)."""
    tracker = BudgetTracker(100)
    hold = tracker.reserve(100)

    def interrupt(self: Any, seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("llm_connect.core.waiters.ThreadWaiter.wait", interrupt)
    with pytest.raises(KeyboardInterrupt):
        contextvars.Context().run(lambda: tracker.reserve(10, max_wait_seconds=WAIT))
    assert tracker.snapshot().waiting == 0
    hold.release()
    at_rest(tracker)


class _ClosedLoop(Waiter):
    def wake(self) -> None:
        raise RuntimeError("Event loop is closed")


def test_a_dead_loops_waiter_is_dropped_and_the_settler_not_disturbed() -> None:
    """A waiter that cannot be woken loses its grant to the next in line, and settle does not raise (BUDGET-6)."""
    tracker = BudgetTracker(10)
    hold = tracker.reserve(10)
    dead = _ClosedLoop(tracker, PlainDemand(10), CallFacts(), arrival=tracker.gate.arrive(), deadline=1e18, own=())
    tracker.gate.queue(dead, may_wait=True)
    alive = place(tracker, 10)
    hold.settle(0)
    assert alive.hold is not None
    tracker.gate.take(alive).release()
    at_rest(tracker)


def test_a_loop_that_ended_while_its_task_waited() -> None:
    """A real loop, closed with a task waiting in it, costs neither budget nor the settler's peace (BUDGET-6)."""
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
    """A hold that was taken stays with its owner, though waking it fails afterwards (BUDGET-1)."""
    tracker = BudgetTracker(10)
    first = tracker.reserve(10)
    taken: list[Hold] = []

    class Overtaken(Waiter):
        """Its own timeout came first: it has taken the grant before it is woken, and its loop is closed by now."""

        def wake(self) -> None:
            taken.append(tracker.gate.take(self))
            raise RuntimeError("Event loop is closed")

    waiter = Overtaken(tracker, PlainDemand(10), CallFacts(), arrival=tracker.gate.arrive(), deadline=1e18, own=())
    tracker.gate.queue(waiter, may_wait=True)
    first.release()
    until(lambda: bool(taken))
    assert taken[0].state == "reserved"
    assert tracker.held == 10
    taken[0].release()


def test_an_untaken_grant_is_reclaimed_at_its_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """A grant to a caller that does not come for it goes to the next when the caller's wait is over (BUDGET-6)."""
    tracker = BudgetTracker(10)
    hold = tracker.reserve(10)
    blocked = place(tracker, 10, seconds=60)
    after = place(tracker, 10)
    hold.release()
    assert blocked.hold is not None
    now = time.monotonic()
    monkeypatch.setattr(line.time, "monotonic", lambda: now + 59)
    tracker.snapshot()
    assert blocked.hold is not None
    monkeypatch.setattr(line.time, "monotonic", lambda: now + 61)
    tracker.snapshot()
    assert after.hold is not None
    assert refused(lambda: tracker.gate.take(blocked)).reason == "wait_expired"
    tracker.gate.take(after).release()
    at_rest(tracker)


def test_a_grant_at_the_end_of_the_wait_can_still_be_taken() -> None:
    """A caller that was granted in time gets its hold, though its thread runs a little late (BUDGET-2)."""
    tracker = BudgetTracker(10)
    hold = tracker.reserve(10)
    waiter = place(tracker, 10, seconds=0.001)
    hold.release()
    time.sleep(0.01)
    tracker.snapshot()
    tracker.gate.take(waiter).release()
    at_rest(tracker)


def test_a_loop_that_stands_still_keeps_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """A waiter whose wait is long over, and that does not leave, is passed by (BUDGET-6)."""
    tracker = BudgetTracker(10)
    hold = tracker.reserve(5)
    stuck = place(tracker, 10, seconds=1)
    small = place(tracker, 5)
    assert small.waiting
    now = time.monotonic()
    monkeypatch.setattr(line.time, "monotonic", lambda: now + 5)
    tracker.gate.take(small).release()
    assert refused(lambda: tracker.gate.take(stuck)).reason == "wait_expired"
    hold.release()
    at_rest(tracker)


async def test_waiting_costs_no_thread() -> None:
    """Two hundred coroutines that wait for budget need no thread; for all of them, a server needs one that listens."""
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


def test_a_closed_budget_tells_those_that_wait() -> None:
    """Closing refuses waiters at once, and everybody afterwards."""
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
    root.gate.take(elsewhere).release()
    at_rest(root)


def test_a_raised_limit_lets_waiters_in() -> None:
    """Waiting calls are looked at anew when a limit changes (BUDGET-2)."""
    tracker = BudgetTracker(10)
    hold = tracker.reserve(10)
    waiter = place(tracker, 5)
    tracker.set_limits(total=15)
    tracker.gate.take(waiter).release()
    hold.release()
    at_rest(tracker)


def test_a_lost_hold_makes_room_at_the_next_operation() -> None:
    """The next operation of anybody ends a lost hold and wakes those that waited for it (BUDGET-2)."""
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


def test_a_thousand_waiters_are_served_in_order() -> None:
    """A long line costs no more for each than a short one, and keeps its order (BUDGET-5)."""
    tracker = BudgetTracker(10)
    hold = tracker.reserve(10)
    line = [place(tracker, 10) for _ in range(1_000)]
    for waiter in line:
        hold.release()
        hold = tracker.gate.take(waiter)
    hold.release()
    at_rest(tracker)


def test_a_finalizer_inside_the_lock_waits_for_the_next_operation() -> None:
    """A generator with an open hold, collected in the midst of an operation, neither hangs nor loses it (BUDGET-6)."""
    tracker = BudgetTracker(100)

    def stream() -> Any:
        with tracker.reserve(10) as hold:
            hold.dispatch()
            yield

    abandoned = stream()
    next(abandoned)
    with tracker.gate._lock:
        del abandoned
        gc.collect()
    assert tracker.snapshot().presumed == Amount(10, 1)
    at_rest(tracker)


@pytest.mark.in_memory_only
async def test_a_waiter_that_is_collected_inside_the_lock_leaves_no_trace() -> None:
    """A coroutine that waits, collected in the midst of an operation, is gone with the next one (BUDGET-6)."""
    tracker = BudgetTracker(100)
    hold = contextvars.Context().run(tracker.reserve, 100)
    waiting = tracker.areserve(10, max_wait_seconds=WAIT)
    waiting.send(None)
    assert tracker.snapshot().waiting == 1
    with tracker.gate._lock:
        del waiting
        gc.collect()
    assert tracker.snapshot().waiting == 0
    hold.release()
    at_rest(tracker)


def test_a_waiter_may_be_woken_by_a_finalizer_in_its_own_thread() -> None:
    """To wake a thread takes no lock that this very thread may have."""
    tracker = BudgetTracker(100)
    outer = tracker.reserve(100)

    def wait() -> Hold:
        return contextvars.Context().run(lambda: tracker.reserve(10, max_wait_seconds=WAIT))

    waiting = in_thread(wait)
    waits(tracker, 1)
    outer.release()
    waiting.result(WAIT).release()


async def test_a_waiter_is_woken_once() -> None:
    """A second wake-up of a task changes nothing."""
    tracker = BudgetTracker(10)
    demand = PlainDemand(1)
    waiter = LoopWaiter(tracker, demand, CallFacts(), arrival=1, deadline=time.monotonic() + WAIT, own=())
    waiter.wake()
    waiter.wake()
    await waiter.wait(WAIT)


async def test_what_fits_is_admitted_in_a_coroutine_without_a_step() -> None:
    """No task switch happens when nobody has to wait."""
    tracker = BudgetTracker(10)
    switched = asyncio.get_running_loop().call_soon(lambda: pytest.fail("the loop went on"))
    hold = await aadmit(tracker, PlainDemand(10), CallFacts(), deadline=0)
    switched.cancel()
    hold.release()
    until(lambda: tracker.held == 0)
    await auntil(lambda: tracker.held == 0)

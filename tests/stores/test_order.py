"""The order in which waiting callers of several processes are admitted."""

from __future__ import annotations

import contextvars
import signal
import time
from concurrent.futures import Future
from contextlib import closing
from functools import partial
from threading import Barrier
from typing import Any

from llm_connect.budget.admission.holds import Hold
from llm_connect.budget.tracker import BudgetTracker
from llm_connect.errors import LLMBudgetExceededError
from llm_connect.interface.config import RunConfig
from llm_connect.stores.opening import open_budget
from llm_connect.testing.mock import MockLLMAdapter
from tests.budget.budget_helpers import at_rest, in_thread, refused, until, waits
from tests.stores.crew import crew
from tests.stores.looking import alone, end_leases, let_wait, second, session_of, stop, stored, told

#: Long enough for a busy test machine: a store may be busy for a sixth of it.
LEASE = 1.5


def reserve(tracker: BudgetTracker, tokens: int, **details: Any) -> Hold:
    """Reserve a hold that does not belong to the next caller."""
    return contextvars.Context().run(lambda: tracker.reserve(tokens, **details))


def waiting(tracker: BudgetTracker, tokens: int, **details: Any) -> Future[Hold]:
    """Start a caller in another thread, and return when it waits."""
    before = tracker.snapshot().waiting
    future = in_thread(lambda: reserve(tracker, tokens, max_wait_seconds=20, **details))
    waits(tracker, before + 1)
    return future


def test_a_large_call_is_let_in_among_small_ones_of_other_processes(url: str) -> None:
    """Two processes that reserve small amounts without pause cannot starve a large call (STORE-14)."""
    budget = open_budget(url, total=100)
    with crew(2, "crowd", url, 20, 3) as processes:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for _ in range(3):
            with budget.reserve(100, max_wait_seconds=10) as hold:
                assert hold.bound.tokens == 100
    until(lambda: stored(budget, "leases") == 0 or expire(budget))


def expire(budget: BudgetTracker) -> bool:
    """Make the leases of killed processes expire."""
    end_leases(budget)
    budget.snapshot()
    return False


def test_who_comes_later_waits_behind_one_of_another_process(url: str) -> None:
    """A later caller waits if it uses the tracker and unit that the earlier one lacks; others pass (STORE-14)."""
    budget = open_budget(url, total=100, total_usd=1)
    other = second(budget)
    held = reserve(budget, 50, usd=0)
    large = waiting(other, 80, usd=0)
    assert refused(lambda: budget.reserve(10, usd=0)).reason == "refused"
    budget.reserve(usd="0.5").release()
    small = waiting(budget, 30, usd=0)
    held.release()
    assert (large.result(10).bound.tokens, small.done()) == (80, False)
    large.result().release()
    small.result(10).release()
    assert told(budget) == []
    at_rest(budget)
    session_of(other).shut()


def test_who_fits_beside_one_that_is_about_to_be_let_in_passes(url: str) -> None:
    """Only the amount that a caller of another process will get is kept for it (STORE-14)."""
    budget = open_budget(url, total=100)
    let_wait(budget, 80, LEASE)
    with closing(second(budget)) as other:
        reserve(other, 20).release()
        assert refused(lambda: other.reserve(21)).reason == "refused"
        assert other.snapshot().waiting == 0
        assert other.held == 0
        # The caller that should be admitted never comes: its process has died.
        late = in_thread(lambda: reserve(other, 21, max_wait_seconds=20))
        assert late.result(10).bound.tokens == 21
        late.result().release()


def test_a_caller_passes_one_that_waits_for_its_own_hold(url: str) -> None:
    """A caller may overtake one that its own hold blocks; behind it, both would wait in vain (STORE-14)."""
    budget = open_budget(url, total=100)
    other = second(budget)
    with budget.reserve(50) as outer:
        large = waiting(other, 80)
        with budget.reserve(20) as inner:
            assert inner.bound.tokens == 20
        outer.release()
    assert large.result(10).bound.tokens == 80
    large.result().release()
    session_of(other).shut()


def test_who_waits_for_each_other_ends_at_the_deadline(url: str) -> None:
    """If two processes each hold the budget that the other needs, one is refused in time and the other admitted."""
    budget = open_budget(url, total=100)
    other = second(budget)
    begin = Barrier(2)

    def wants_more(tracker: BudgetTracker, seconds: float) -> str:
        with tracker.reserve(50):
            begin.wait(20)
            try:
                tracker.reserve(20, max_wait_seconds=seconds).release()
            except LLMBudgetExceededError as error:
                return error.reason
        return "let in"

    found = [in_thread(partial(wants_more, budget, 0.3)), in_thread(partial(wants_more, other, 20))]
    assert [future.result(10) for future in found] == ["wait_expired", "let in"]
    at_rest(budget)
    session_of(other).shut()


def test_who_waits_in_a_process_that_is_gone_blocks_no_longer_than_its_lease(url: str) -> None:
    """A caller of a killed process stops blocking, although nobody writes to the store (STORE-14)."""
    budget = open_budget(url, total=100, lease_seconds=LEASE)
    held = reserve(budget, 50)
    with crew(1, "waiter", url, 80, LEASE) as (process,):
        until(lambda: told(budget) == [(80,)])
        process.send_signal(signal.SIGKILL)
        small = waiting(budget, 30)
        assert small.result(10).bound.tokens == 30
        small.result().release()
        held.release()
    until(lambda: told(budget) == [])
    at_rest(budget)


def test_a_stopped_one_that_goes_on_has_its_place_again(url: str) -> None:
    """Others have forgotten the caller; its process writes it to the store again (STORE-14)."""
    budget = open_budget(url, total=100, lease_seconds=LEASE)
    held = reserve(budget, 50)
    with crew(1, "waiter", url, 80, LEASE) as (process,):
        until(lambda: told(budget) == [(80,)])
        stop(process, budget)
        until(lambda: told(budget) == [])
        process.send_signal(signal.SIGCONT)
        until(lambda: told(budget) == [(80,)])
        assert refused(lambda: budget.reserve(10)).reason == "refused"
    held.release()


def test_one_that_waits_long_keeps_its_place(url: str) -> None:
    """Its process renews the row of the caller as long as it waits (STORE-14)."""
    budget = open_budget(url, total=100, lease_seconds=LEASE)
    other = second(budget)
    held = reserve(budget, 50)
    large = waiting(other, 80)
    end = time.monotonic() + 2.5 * LEASE
    while time.monotonic() < end:
        assert refused(lambda: budget.reserve(10)).reason == "refused"
        time.sleep(0.05)
    held.release()
    large.result(10).release()
    session_of(other).shut()


def test_the_first_on_each_tracker_is_told(url: str) -> None:
    """A caller that waits on a child does not hide one that waits on the budget (STORE-14)."""
    budget = open_budget(url, total=100)
    other = second(budget)
    child = other.child("child", 10)
    held = [reserve(budget, 50), reserve(child, 10)]
    callers = [waiting(child, 5), waiting(child, 6), waiting(other, 80), waiting(other, 81)]
    assert told(budget) == [(5,), (80,)]
    assert refused(lambda: budget.reserve(10)).reason == "refused"
    for hold in held:
        hold.release()
    for caller in callers:
        caller.result(10).release()
    assert told(budget) == []
    at_rest(budget)
    session_of(other).shut()


def test_one_that_can_never_fit_blocks_nobody(url: str) -> None:
    """A caller that can never fit blocks nobody, even if its own process has not noticed yet."""
    budget = open_budget(url, total=100)
    other = second(budget)
    held = reserve(budget, 50)
    large = waiting(other, 80)
    with alone(session_of(other)):
        budget.set_limits(total=70)
        reserve(budget, 10).release()
    assert refused(lambda: large.result(10)).reason == "never_fits"
    held.release()
    session_of(other).shut()


def test_what_was_learned_of_one_that_waits_is_told(url: str) -> None:
    """After an overrun, a waiting caller asks for more, and other processes know the new amount (STORE-14)."""
    budget = open_budget(url, total=1_000)
    other = second(budget)
    held = reserve(budget, 900)
    overrunning = MockLLMAdapter("x", prompt_tokens=50, completion_tokens=4, delay_seconds=0.3)
    slow = in_thread(lambda: overrunning.execute_prompt("hello", RunConfig(budget_tracker=budget, max_tokens=20)))
    until(lambda: len(overrunning.calls) == 1)
    adapter = MockLLMAdapter("x", prompt_tokens=3, completion_tokens=4)
    call = in_thread(lambda: adapter.execute_prompt("hello", RunConfig(budget_tracker=other, max_tokens=200)))
    waits(other, 1)
    ((before,),) = told(budget)
    assert slow.result(10).usage.prompt_tokens == 50
    until(lambda: told(budget) > [(before,)])
    held.release()
    assert call.result(10).content == "x"
    session_of(other).shut()


def test_what_another_thread_has_seen_of_others_wakes_those_that_wait(url: str) -> None:
    """Reading the figures does not hide from waiting callers that another process has freed budget (STORE-7)."""
    budget = open_budget(url, total=100)
    other = second(budget)
    held = reserve(other, 80)
    small = waiting(budget, 50)
    with alone(session_of(budget)):
        held.release()
        assert budget.snapshot().held.tokens == 0
    assert small.result(10).bound.tokens == 50
    small.result().release()
    session_of(other).shut()


def test_who_waits_in_a_process_that_ends_blocks_nobody(url: str) -> None:
    """At its end, a process removes its waiting callers from the store (STORE-14)."""
    budget = open_budget(url, total=100)
    other = second(budget)
    held = reserve(budget, 50)
    large = in_thread(lambda: reserve(other, 80, max_wait_seconds=2))
    waits(other, 1)
    assert told(budget) == [(80,)]
    session_of(other).shut()
    assert told(budget) == []
    reserve(budget, 30).release()
    assert refused(lambda: large.result(10)).reason == "wait_expired"
    held.release()
    session_of(other).shut()
    at_rest(budget)

"""One budget in tasks, threads, pickles, forks and pools."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import multiprocessing
import os
import pickle
import sqlite3
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from llm_connect.budget.accounting.prices import Price
from llm_connect.budget.tracker import BudgetTracker
from llm_connect.errors import LLMBudgetExceededError, LLMConfigurationError
from llm_connect.interface.config import RunConfig
from llm_connect.stores.opening import aopen_budget, open_budget
from llm_connect.testing.mock import MockLLMAdapter
from llm_connect.types.amounts import NOTHING
from tests.budget.budget_helpers import at_rest, auntil, in_thread, learned, outcomes, refused, until
from tests.stores.looking import alone, second, session_of


class Busy:
    """Another program that keeps the write lock of a file."""

    def __init__(self, url: str) -> None:
        self._connection = sqlite3.connect(
            url.removeprefix("sqlite:///"), isolation_level=None, check_same_thread=False
        )

    def __enter__(self) -> None:
        self._connection.execute("BEGIN IMMEDIATE")

    def __exit__(self, *_: object) -> None:
        self._connection.execute("ROLLBACK")
        self._connection.close()


async def test_an_end_is_in_the_store_once_it_is_booked(url: str) -> None:
    """A coroutine may wait for the worker without awaiting it, and then every tracker of the budget has the spend.
    (STORE-5)
    """
    budget = open_budget(url, total=100)
    other = second(budget)
    hold = await budget.areserve(10)
    await hold.adispatch()
    hold.settle(4)
    hold.booked()
    assert ((await other.asnapshot()).spent.tokens, outcomes(budget)) == (4, ["settled"])
    at_rest(budget)
    session_of(other).shut()


def test_an_operation_that_was_interrupted_is_rolled_back(url: str) -> None:
    """The next one finds the books of the store, and is done itself. (BUDGET-70)"""
    budget = open_budget(url, total=100)
    budget.consume(5)
    budget.own_accounts[0].held = 50
    budget.gate._inside = True  # type: ignore[attr-defined]
    with budget.reserve(95) as hold:
        hold.dispatch()
    assert (budget.spent, outcomes(budget)) == (100, ["settled", "presumed"])
    at_rest(budget)


async def ticks_while(url: str, work: Any) -> int:
    """The number of turns of the loop while `work` waits for a busy file."""
    with Busy(url):
        task = asyncio.ensure_future(work)
        ticks = 0
        for _ in range(20):
            await asyncio.sleep(0.005)
            ticks += 1
        assert not task.done()
    await task
    return ticks


async def test_no_operation_of_a_coroutine_blocks_its_loop(url: str) -> None:
    """While the file is busy, the loop runs on: reserving, dispatching, settling and reading wait in the worker.

    (STORE-5)
    """
    budget = await aopen_budget(url, total=1_000)
    assert await ticks_while(url, budget.areserve(10)) == 20
    hold = await budget.areserve(10)
    assert await ticks_while(url, hold.adispatch()) == 20
    with Busy(url):
        started = time.monotonic()
        hold.settle(5)
        assert (budget.held, str(budget)) != (None, "")
        assert time.monotonic() - started < 3
    await hold.abooked()
    assert await ticks_while(url, budget.asnapshot()) == 20
    assert (await budget.asnapshot()).spent.tokens == 5
    gc.collect()
    await auntil(lambda: budget.held == 0)
    at_rest(budget)


async def test_an_adapter_in_a_coroutine_waits_in_the_worker(url: str) -> None:
    """A metered call does not block its loop on the store, and is booked when it returns (STORE-5)."""
    budget = await aopen_budget(url, total=1_000)
    adapter = MockLLMAdapter("x", prompt_tokens=3, completion_tokens=4)
    config = RunConfig(budget_tracker=budget, max_tokens=20)
    assert await ticks_while(url, adapter.async_execute_prompt("hello", config)) == 20
    assert budget.spent == 7
    at_rest(budget)


@pytest.mark.parametrize("when", ["admission", "sent"])
async def test_what_a_cancelled_call_comes_to_is_not_lost(url: str, when: str) -> None:
    """A call that is cancelled while the file is busy leaves no hold, and is presumed if it was sent (STORE-5)."""
    budget = await aopen_budget(url, total=1_000)
    adapter = MockLLMAdapter("x", prompt_tokens=3, completion_tokens=4, delay_seconds=30)
    config = RunConfig(budget_tracker=budget, max_tokens=20)
    if when == "admission":
        with Busy(url):
            task = asyncio.create_task(adapter.async_execute_prompt("hello", config))
            await asyncio.sleep(0.02)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
    else:
        task = asyncio.create_task(adapter.async_execute_prompt("hello", config))
        await auntil(lambda: len(adapter.calls) == 1)
        with Busy(url):
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled()
    await auntil(lambda: budget.snapshot().held.tokens == 0)
    assert (await budget.asnapshot()).presumed.tokens == (0 if when == "admission" else 25)
    at_rest(budget)


def test_a_loop_that_ends_with_its_calls_leaves_no_hold(url: str) -> None:
    """When `asyncio.run` returns, all open holds have ended (STORE-5)."""
    budget = open_budget(url, total=1_000)
    adapter = MockLLMAdapter("x", delay_seconds=30)
    config = RunConfig(budget_tracker=budget, max_tokens=20)

    async def main() -> None:
        tasks = [asyncio.create_task(adapter.async_execute_prompt("hello", config)) for _ in range(10)]
        await auntil(lambda: len(adapter.calls) == 10)
        assert not any(task.done() for task in tasks)

    asyncio.run(main())
    until(lambda: budget.snapshot().held.tokens == 0)
    assert budget.snapshot().presumed.tokens == 250
    at_rest(budget)


def test_a_pickled_tracker_is_the_same_budget(url: str) -> None:
    """A pickled tracker is the same budget, also in a config, as a child, and with prices (STORE-6)."""
    budget = open_budget(url, total=1_000, prices={"m": Price(prompt=1, completion=2)})
    child = budget.child("child", 100)
    again, config = pickle.loads(pickle.dumps((child, RunConfig(budget_tracker=budget))))
    assert again is child
    assert config.budget_tracker is budget
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(budget.reserve(1))


def spend(tracker: BudgetTracker, tokens: int) -> tuple[str, int]:
    """Spend, as the job of a pool's worker."""
    with tracker.reserve(tokens, max_wait_seconds=20) as hold:
        hold.dispatch()
        hold.settle(tokens)
    return tracker.path, len(tracker.prices)


@pytest.mark.parametrize("method", ["spawn", "forkserver", "fork"])
@pytest.mark.filterwarnings("ignore:This process.*multi-threaded:DeprecationWarning")
def test_the_workers_of_a_pool_share_the_budget(url: str, method: str) -> None:
    """However the workers of a pool start, their tracker is the same budget (STORE-6)."""
    budget = open_budget(url, total=1_000, prices={"m": Price(prompt=1, completion=2)})
    child = budget.child("child", 500)
    with budget.reserve(10), ProcessPoolExecutor(2, multiprocessing.get_context(method)) as pool:
        jobs = [pool.submit(spend, tracker, 10) for tracker in (budget, child) * 5]
        assert {job.result(30) for job in jobs} == {("budget", 1), ("budget/child", 1)}
    assert (budget.snapshot().spent.tokens, child.snapshot().spent.tokens) == (100, 50)
    at_rest(budget)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no os.fork here")
@pytest.mark.filterwarnings("ignore:This process.*multi-threaded:DeprecationWarning")
def test_a_fork_goes_on_with_the_budget(url: str) -> None:
    """A fork uses the budget as a separate process; earlier holds belong to its parent (STORE-6)."""
    budget = open_budget(url, total=100)
    held, lost = contextvars.Context().run(budget.reserve, 10), [contextvars.Context().run(budget.reserve, 10)]
    with alone(session_of(budget)):
        child = os.fork()
        if child == 0:
            os._exit(in_the_fork(budget, held, lost))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert (budget.snapshot().held.tokens, budget.snapshot().spent.tokens) == (20, 30)
    held.dispatch()
    held.settle(10)
    lost.clear()
    at_rest(budget)
    assert budget.snapshot().spent.tokens == 40


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no os.fork here")
@pytest.mark.filterwarnings("ignore:This process.*multi-threaded:DeprecationWarning")
def test_a_fork_leaves_what_its_parent_had(url: str) -> None:
    """A fork drops the lock, notes, waiters, lease and connection of its parent (STORE-6)."""
    budget = open_budget(url, total=100)
    budget.consume(5)
    session = session_of(budget)
    lock, worker = session.gate._lock, session.worker
    session.gate.notes.append(lambda: budget.record(50))
    session.leave_to_parent()
    assert (session.gate._lock is lock, budget.gate.worker is worker, list(session.gate.notes)) == (False, False, [])
    budget.consume(7)
    assert budget.snapshot().spent.tokens == 12
    at_rest(budget)


def test_a_fork_in_the_midst_of_a_callback_makes_its_own(url: str) -> None:
    """A callback that runs in a thread of the parent does not block the callbacks of the fork (STORE-6)."""
    parent, entered, over = os.getpid(), threading.Event(), threading.Event()
    told: list[int] = []

    def sink(entry: Any) -> None:
        told.append(entry.amount.tokens)
        if os.getpid() == parent:
            entered.set()
            over.wait()

    budget = open_budget(url, total=100, sink=sink)
    recorded = in_thread(lambda: budget.record(1))
    entered.wait()
    child = os.fork()
    if child == 0:
        budget.record(2)
        os._exit(0 if told == [1, 2] else 1)
    over.set()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    recorded.result(20)
    assert told == [1]
    at_rest(budget)


def in_the_fork(budget: BudgetTracker, held: Any, lost: list[Any]) -> int:
    """Return 0 if the fork has the expected state."""
    try:
        lost.clear()
        gc.collect()
        with budget.reserve(30) as hold:
            hold.dispatch()
            hold.settle(30)
        assert (budget.snapshot().held.tokens, budget.snapshot().spent.tokens) == (20, 30)
        assert refused(lambda: budget.reserve(80)).reason == "never_fits"
        for use in (held.dispatch, held.release, held.settle):
            with pytest.raises(LLMConfigurationError, match="belongs to the parent process"):
                use()
        asyncio.run(spend_async(budget))
    except BaseException as error:
        print(repr(error), flush=True)
        return 1
    return 0


async def spend_async(budget: BudgetTracker) -> None:
    (await budget.areserve(1)).release()
    await budget.asnapshot()


def test_a_waiter_is_let_in_by_what_another_process_frees(url: str) -> None:
    """A waiting caller looks again when another process has written (STORE-7)."""
    budget = open_budget(url, total=100)
    other = second(budget)
    first = other.reserve(80)
    done = threading.Event()

    def wait() -> None:
        with budget.reserve(50, max_wait_seconds=20):
            done.set()

    thread = threading.Thread(target=wait)
    thread.start()
    until(lambda: budget.snapshot().waiting == 1)
    assert not done.wait(0.05)
    first.release()
    assert done.wait(10)
    thread.join()
    other.gate.session.shut()  # type: ignore[attr-defined]
    at_rest(budget)


def test_what_one_process_learns_the_others_know(url: str) -> None:
    """An overrun raises the next bounds in all processes, also those of waiting callers (STORE-1)."""
    budget = open_budget(url, total=1_000)
    other = second(budget)
    config = RunConfig(budget_tracker=budget, max_tokens=20)
    elsewhere = RunConfig(budget_tracker=other, max_tokens=20)
    generous = MockLLMAdapter("x", prompt_tokens=5, completion_tokens=30)
    blocker = contextvars.Context().run(other.reserve, 950)
    waiting = in_thread(lambda: generous.execute_prompt("12345", elsewhere))
    until(lambda: other.snapshot().waiting == 0 and len(generous.calls) == 1)
    waiting.result(10)
    assert budget.fits(generous, "12345", config) == 0
    assert learned(budget) == learned(other) != {}
    blocker.release()
    assert budget.fits(generous, "12345", config) == 27
    other.gate.session.shut()  # type: ignore[attr-defined]
    at_rest(budget)


async def test_a_hold_that_was_given_back_says_why_in_a_coroutine_too(url: str) -> None:
    """`adispatch` raises the same error as `dispatch`."""
    budget = await aopen_budget(url, total=100)
    hold = await budget.areserve(30)
    budget.record(110)
    with pytest.raises(LLMBudgetExceededError) as caught:
        await hold.adispatch()
    assert caught.value.reason == "never_fits"
    at_rest(budget)


def test_a_settled_entry_is_corrected_once_by_whoever(url: str) -> None:
    """The correction counts once, on the tracker of the entry, even if another one has the same path (STORE-8)."""
    budget = open_budget(url, total=1_000)
    other = second(budget)
    first = budget.child("agent", 100)
    hold = first.reserve(30, model="m", labels={"job": "a"})
    hold.dispatch()
    hold.request_id = "r1"
    hold.settle(20)
    first.close()
    again = budget.child("agent", 100)
    again.consume(5)
    assert first.path == again.path
    entry = other.correct(hold.entry_id, 12)
    assert (entry.outcome, entry.amount, entry.corrects) == ("corrected", (-8, 0, 0), hold.entry_id)
    assert (entry.tracker, entry.model, entry.labels, entry.request_id) == (first.path, "m", {"job": "a"}, "r1")
    for tracker in (other, budget):
        with pytest.raises(LLMConfigurationError, match="is already corrected"):
            tracker.correct(hold.entry_id, 1)
    spent = [tracker.snapshot().spent.tokens for tracker in (first, again, budget, other)]
    assert spent == [12, 5, 17, 17]
    assert [each.id for each in budget.ledger] == [1, 2, 3]
    assert other.correct(2, calls=3).amount == (0, 3, 0)
    at_rest(budget)


def test_what_is_neither_settled_nor_there_is_not_corrected(url: str) -> None:
    """Recorded and released entries, corrections and unknown ids cannot be corrected (STORE-8)."""
    budget = open_budget(url, total=1_000)
    budget.reserve(10).release()
    budget.record(5)
    budget.consume(5)
    budget.correct(3, 4)
    for number in (0, 1, 2, 4, 5, 2**53, 2**63 - 1):
        with pytest.raises(LLMConfigurationError, match="cannot be corrected: it is neither"):
            budget.correct(number, 1)
    wrong: list[Any] = [-1, 2**63, 10**5_000, "3", True, None]
    for number in wrong:
        with pytest.raises(LLMConfigurationError, match="entry_id must be"):
            budget.correct(number, 1)
    assert (budget.snapshot().spent.tokens, outcomes(budget)) == (9, ["released", "recorded", "settled", "corrected"])
    at_rest(budget)


def test_of_many_who_correct_an_entry_at_once_one_does(url: str) -> None:
    """One correction counts; the others are refused because the entry is already corrected (STORE-8)."""
    budget = open_budget(url, total=1_000)
    for _ in range(5):
        budget.consume(50)
    places = [budget, second(budget), second(budget)]

    def correct(tracker: BudgetTracker) -> list[int]:
        done = []
        for number in range(1, 6):
            with suppress(LLMConfigurationError):
                tracker.correct(number, 20)
                done.append(number)
        return done

    found = [future.result(20) for future in [in_thread(partial(correct, place)) for place in places]]
    assert sorted(chain(*found)) == [1, 2, 3, 4, 5]
    assert budget.snapshot().spent.tokens == 100
    at_rest(budget)


def test_closing_a_budget_ends_its_use_here_only(url: str) -> None:
    """After one process has closed a budget, others continue, and it can be opened again (STORE-6)."""
    with open_budget(url, total=100) as budget:
        budget.consume(10)
    assert refused(lambda: budget.reserve(1)).reason == "closed"
    again = open_budget(url, total=100)
    assert again is not budget
    again.consume(90)
    assert budget.snapshot().spent.tokens == 100
    at_rest(again)


def test_a_closed_child_is_closed_for_all(url: str) -> None:
    """A child that one process has closed is closed for all (STORE-6)."""
    budget = open_budget(url, total=100)
    other = second(budget)
    with budget.child("shared", 50, join=True) as mine:
        pass
    theirs = other.child("shared", join=True)
    assert (theirs.number, theirs.total) == (mine.number, 50)
    mine.consume(30)
    assert theirs.snapshot().spent.tokens == 30
    theirs.close()
    assert refused(lambda: mine.reserve(1)).reason == "closed"
    assert budget.child("shared", 20, join=True) is not mine
    session_of(other).shut()


def test_outcomes_of_all_processes_are_in_one_ledger(url: str, folder: Path) -> None:
    """The store numbers the entries of all processes in the order of booking (STORE-8)."""
    budget = open_budget(url, total=100)
    other = second(budget)
    for tracker in (budget, other, budget, other):
        tracker.record(1, labels={"by": tracker.path})
    with other.reserve(5) as hold:
        hold.dispatch()
    assert [entry.id for entry in budget.ledger] == [1, 2, 3, 4, 5]
    assert outcomes(budget) == [*["recorded"] * 4, "presumed"]
    budget.correct(5, 2)
    with pytest.raises(LLMConfigurationError, match="is already corrected"):
        other.correct(5, 2)
    assert other.snapshot().spent.tokens == 6
    other.gate.session.shut()  # type: ignore[attr-defined]
    at_rest(budget)


async def test_an_allotment_of_a_store_is_entered_and_left_in_a_task(url: str) -> None:
    """A task opens and closes an allotment through the worker; one that stops waiting leaves no trace. (BUDGET-40)"""
    budget = open_budget(url, total=100)
    async with budget.allot("s", 60) as share:
        assert (budget.allotted, share.closed) == (60, False)
        given_up = asyncio.create_task(budget.areserve(50, max_wait_seconds=30))
        await auntil(lambda: budget.snapshot().waiting == 1)
        given_up.cancel()
        with pytest.raises(asyncio.CancelledError):
            await given_up
        assert (await budget.asnapshot()).waiting == 0
    assert (budget.allotted, share.closed) == (0, True)
    at_rest(budget)


@pytest.mark.parametrize("opened", [False, True], ids=["before it opens", "after it has opened"])
async def test_a_task_that_is_cancelled_while_its_allotment_opens_leaves_none(
    url: str, monkeypatch: pytest.MonkeyPatch, opened: bool
) -> None:
    """The share returns, even if the worker is opening it when the task gives up. (BUDGET-6, BUDGET-40)"""
    budget = open_budget(url, total=100)
    allot, reached, cancelled = budget.gate.allot, threading.Event(), threading.Event()

    def slowly(*asked: Any) -> bool:
        result = opened and allot(*asked)
        reached.set()
        assert cancelled.wait(10)
        return result or allot(*asked)

    monkeypatch.setattr(budget.gate, "allot", slowly)
    entering = asyncio.create_task(budget.allot("s", 60).__aenter__())
    await auntil(reached.is_set)
    entering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await entering
    cancelled.set()
    found = await budget.asnapshot()
    assert (found.held, found.allotted) == (NOTHING, NOTHING)
    at_rest(budget)


async def test_a_task_that_is_cancelled_as_it_leaves_returns_its_allotment(url: str) -> None:
    """The worker returns the share, even if the task does not wait for it. (BUDGET-6, BUDGET-40)"""
    budget = open_budget(url, total=100)
    left, cancelled = asyncio.Event(), threading.Event()

    async def use() -> None:
        async with budget.allot("s", 60):
            budget.gate.worker.put(partial(cancelled.wait, 10))  # type: ignore[union-attr]
            asyncio.get_running_loop().call_soon(left.set)

    using = asyncio.create_task(use())
    await left.wait()
    using.cancel()
    with pytest.raises(asyncio.CancelledError):
        await using
    cancelled.set()
    assert (await budget.asnapshot()).allotted == NOTHING
    at_rest(budget)

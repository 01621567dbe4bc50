"""The worker of a store survives every failure, and no caller waits for a dead worker."""

from __future__ import annotations

import asyncio
import ctypes
import enum
import logging
import threading
from decimal import Decimal
from typing import Any

import pytest

from llm_connect.budget.admission.holds import Ending
from llm_connect.budget.tracker import BudgetTracker
from llm_connect.interface.adapter import LLMAdapter
from llm_connect.interface.config import RunConfig
from llm_connect.stores.opening import open_budget
from llm_connect.stores.worker import Jobs
from llm_connect.testing.mock import MockLLMAdapter
from llm_connect.types.amounts import MOST, Amount
from llm_connect.types.response import LLMResponse
from llm_connect.types.usage import Usage
from tests.budget.budget_helpers import WAIT, at_rest, in_thread, outcomes, until
from tests.stores.looking import leases_end, session_of

pytestmark = pytest.mark.slow

LEASE = 1.5
CONFIG: dict[str, Any] = {"max_tokens": 50, "timeout_seconds": 20, "max_wait_seconds": 10}


async def answered(budget: BudgetTracker, **usage: int) -> str:
    """The answer to a call with this usage."""
    adapter = MockLLMAdapter("done", **(usage or {"prompt_tokens": 4, "completion_tokens": 2}))
    response = await adapter.async_execute_prompt("hello", RunConfig(budget_tracker=budget, **CONFIG))
    return response.content


@pytest.mark.parametrize("tokens", [MOST + 1, 2**53, 2**63 - 1, 2**63, 10**400])
async def test_a_figure_that_nobody_can_count_is_presumed(
    url: str, tokens: int, caplog: pytest.LogCaptureFixture
) -> None:
    """The call returns its answer, its bound is booked and logged, and later calls work (STORE-19)."""
    budget = open_budget(url, total=100_000)
    assert await answered(budget, prompt_tokens=tokens, completion_tokens=1) == "done"
    assert "its bound of 55 tokens is booked" in caplog.text
    (entry,) = budget.ledger
    assert (entry.outcome, entry.amount) == ("presumed", entry.bound)
    assert await answered(budget) == "done"
    budget.correct(entry.id, 7)
    assert (await budget.asnapshot()).spent.tokens == 13
    at_rest(budget)


@pytest.mark.parametrize("odd", ["half \ud800", "\x00", 5, b"bytes", object()])
async def test_an_odd_request_id_is_written_as_text(url: str, odd: Any) -> None:
    """A call with any request id is booked (STORE-19)."""
    budget = open_budget(url, total=1_000)
    hold = await budget.areserve(10)
    await hold.adispatch()
    hold.request_id = odd
    hold.settle(4)
    await hold.abooked()
    (entry,) = budget.ledger
    assert (entry.amount.tokens, type(entry.request_id)) == (4, str)
    assert await answered(budget) == "done"
    at_rest(budget)


@pytest.mark.parametrize("kind", [GeneratorExit, RecursionError, MemoryError, SystemExit, KeyboardInterrupt])
async def test_callbacks_do_not_end_it(url: str, kind: type[BaseException], caplog: pytest.LogCaptureFixture) -> None:
    """An exception of a sink or threshold is logged, and disturbs no call (STORE-19)."""
    caplog.set_level(logging.CRITICAL, "llm_connect")

    def fail(_: object) -> None:
        raise kind

    budget = open_budget(url, total=1_000, sink=fail)
    budget.on_threshold(0.001, fail)
    for _ in range(3):
        assert await answered(budget) == "done"
        # The next call raises an exception that would end the program.
        session_of(budget).outbox.owed.clear()
    assert outcomes(budget) == ["settled"] * 3
    at_rest(budget)


@pytest.mark.parametrize("kind", ["sink", "threshold"])
async def test_a_callback_that_never_returns_keeps_nobody(
    url: str, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Coroutines, threads and the lease continue without it, the log names it, and the books are exact (STORE-32)."""
    over, told = threading.Event(), list[Any]()

    def never_returns(about: Any) -> None:
        over.wait()
        told.append(about)

    budget = open_budget(url, total=1_000, lease_seconds=LEASE, sink=never_returns if kind == "sink" else None)
    kept = await budget.areserve(10)
    await kept.adispatch()
    if kind == "threshold":
        budget.on_threshold(0.001, never_returns)
    for _ in range(3):
        assert await asyncio.wait_for(answered(budget), 20) == "done"
    await asyncio.wait_for(asyncio.to_thread(budget.set_limits, total=900), 20)
    before = await asyncio.to_thread(leases_end, budget)
    await asyncio.to_thread(until, lambda: leases_end(budget) > before)
    kept.settle(4)
    await kept.abooked()
    assert (kept.ended, (await budget.asnapshot()).held.tokens) == (True, 0)
    assert len([each for each in caplog.records if "never_returns" in each.getMessage()]) == 1
    over.set()
    await asyncio.to_thread(until, lambda: len(told) == (4 if kind == "sink" else 1))
    if kind == "sink":
        assert [entry.id for entry in told] == [entry.id for entry in budget.ledger]
    assert outcomes(budget) == ["settled"] * 4
    at_rest(budget)


async def test_a_callback_may_wait_for_a_coroutine_of_the_budget(url: str) -> None:
    """A threshold callback that uses the budget in its own event loop gets an answer (STORE-32)."""
    seen: list[int] = []
    budget = open_budget(url, total=1_000, lease_seconds=LEASE)
    budget.on_threshold(0.001, lambda _: seen.append(asyncio.run(budget.asnapshot()).spent.tokens))
    assert await asyncio.wait_for(answered(budget), 20) == "done"
    await asyncio.to_thread(until, lambda: seen == [6])
    at_rest(budget)


async def test_a_quick_callback_comes_before_its_answer(url: str) -> None:
    """When a call returns, the sink has received its entry (STORE-32)."""
    told: list[int] = []
    budget = open_budget(url, total=1_000, sink=lambda entry: told.append(entry.id))
    for number in range(1, 6):
        assert await answered(budget) == "done"
        assert len(told) == number
    at_rest(budget)


async def test_a_note_that_always_fails_stops_nobody(url: str, caplog: pytest.LogCaptureFixture) -> None:
    """A note that can never be written runs in a step of its own: others are booked, and calls continue (STORE-19)."""
    caplog.set_level(logging.CRITICAL, "llm_connect")
    budget = open_budget(url, total=1_000)
    good, odd = await budget.areserve(10), await budget.areserve(20)
    for hold in (good, odd):
        await hold.adispatch()
    good.settle(6)
    session_of(budget).gate.lose(odd, odd.ending._replace(outcome="settled", amount=(object(), 1, 0)))
    assert await answered(budget) == "done"
    await asyncio.to_thread(until, lambda: budget.snapshot().held.tokens == 0)
    assert sorted(outcomes(budget)) == ["presumed", "settled", "settled"]
    at_rest(budget)


@pytest.mark.parametrize("odd", [object(), ["x"], "half \ud800", 2**70, {}])
async def test_an_ending_that_cannot_be_written_is_presumed(
    url: str, odd: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """A value that no store accepts is no outage: it is not retried, and nothing stays held (STORE-19)."""
    budget = open_budget(url, total=1_000)
    hold = await budget.areserve(10)
    await hold.adispatch()
    hold.keeper.end(hold, Ending("settled", Amount(4, 1, 0), cost_source=odd))
    await hold.abooked()
    assert await answered(budget) == "done"
    await asyncio.to_thread(until, lambda: budget.snapshot().held.tokens == 0)
    assert set(outcomes(budget)) <= {"presumed", "settled"}
    assert budget.snapshot().spent.tokens in (10, 16)
    assert len([each for each in caplog.records if "cannot be booked" in each.getMessage()]) <= 1
    at_rest(budget)


class Source(enum.Enum):
    BILL = 1


@pytest.mark.parametrize("odd", [Source.BILL, "half \ud800", b"x", [], Decimal(1)])
async def test_a_response_with_an_odd_source_of_its_cost(url: str, odd: Any) -> None:
    """The call returns its answer, and is booked at the cost in it (STORE-19)."""

    class Odd(LLMAdapter):
        def execute_prompt(self, prompt: Any, config: RunConfig | None = None) -> LLMResponse:
            usage = Usage(prompt_tokens=4, completion_tokens=2)
            return LLMResponse(content="done", model="m", usage=usage, cost=Decimal("0.01"), cost_source=odd)

    budget = open_budget(url, total=1_000)
    config = RunConfig(budget_tracker=budget, **CONFIG)
    assert (await Odd().async_execute_prompt("hello", config)).content == "done"
    (entry,) = budget.ledger
    assert (entry.outcome, entry.amount.tokens, type(entry.cost_source)) == ("settled", 6, str)
    assert await answered(budget) == "done"
    at_rest(budget)


async def test_a_thread_that_has_died_is_started_again(url: str, caplog: pytest.LogCaptureFixture) -> None:
    """A waiting caller starts a new thread, which does the queued jobs (STORE-19)."""
    caplog.set_level(logging.CRITICAL, "llm_connect")
    budget = open_budget(url, total=1_000)
    assert await answered(budget) == "done"
    worker = session_of(budget).worker
    thread = worker._thread
    worker._jobs.put(None)
    call = asyncio.create_task(answered(budget))
    await asyncio.to_thread(thread.join, 20)
    assert await asyncio.wait_for(call, 20) == "done"
    assert worker._thread is not thread
    at_rest(budget)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_an_exception_that_another_thread_throws_into_it(url: str, caplog: pytest.LogCaptureFixture) -> None:
    """After an exception from another thread, as of a soft time limit, the worker or a new one continues (STORE-19)."""
    caplog.set_level(logging.CRITICAL, "llm_connect")
    budget = open_budget(url, total=1_000)
    for _ in range(20):
        assert await answered(budget) == "done"
        (thread,) = [each for each in threading.enumerate() if each is session_of(budget).worker._thread]
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(SystemExit))
    assert await asyncio.wait_for(answered(budget), 20) == "done"


def test_a_worker_wakes_from_the_shortest_sleep() -> None:
    """Even if its pause is over before its thread sleeps, it looks for the next job."""

    def work() -> bool:
        return all(Jobs().do_next(1e-6) for _ in range(30_000))

    assert in_thread(work).result(WAIT)

"""The booking of a metered call that ends with an answer, an error or a cancellation."""

from __future__ import annotations

import asyncio
import contextvars
import dataclasses
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import pytest

from llm_connect.budget.tracker import BudgetTracker
from llm_connect.errors import LLMAPIError, LLMConfigurationError, LLMError, LLMRateLimitError, LLMTimeoutError
from llm_connect.interface.config import RunConfig
from llm_connect.testing.mock import ErrorLLMAdapter
from llm_connect.types.response import LLMResponse
from llm_connect.types.usage import Usage
from tests.budget.budget_helpers import PATIENCE, at_rest, auntil, awaits, outcomes, refused
from tests.budget.metered_adapters import PROMPT, Both, Does, Provider, Sync, answer, config_of, gather

RAISED: list[tuple[BaseException, str, int]] = [
    (LLMTimeoutError("late"), "presumed", 100),
    (LLMAPIError("broken", status_code=502), "presumed", 100),
    (LLMRateLimitError("slow down", status_code=429), "released", 0),
    (LLMConfigurationError("no such model"), "released", 0),
    (LLMError("known", maybe_billed=False), "released", 0),
    (LLMError("paid", response=answer(40)), "settled", 40),
    (LLMError("paid, about", response=answer(40, estimated=True)), "presumed", 100),
    (ValueError("a bug"), "presumed", 100),
    (KeyboardInterrupt(), "presumed", 100),
]


@pytest.mark.parametrize(("error", "outcome", "spent"), RAISED, ids=lambda value: str(value)[:20])
def test_an_exception_ends_the_hold_by_what_is_known(error: BaseException, outcome: str, spent: int) -> None:
    """The hold is released only if nothing can have been billed, settled if the error has the answer, and else presumed
    (BUDGET-3).
    """

    def fail(_: RunConfig) -> LLMResponse:
        raise error.with_traceback(None)

    tracker = BudgetTracker(1_000)
    with pytest.raises(type(error)) as caught:
        Does(fail).execute_prompt(PROMPT, config_of(tracker))
    assert caught.value is error
    assert outcomes(tracker) == [outcome]
    assert tracker.spent == spent
    at_rest(tracker)


@pytest.mark.parametrize(
    "usage",
    [
        Usage(prompt_tokens=5, completion_tokens=5, estimated=True),
        Usage(prompt_tokens=-1_000, completion_tokens=5),
        Usage(prompt_tokens=5.5, completion_tokens=5),  # type: ignore[arg-type]
        Usage(prompt_tokens=None, completion_tokens=5),  # type: ignore[arg-type]
        None,
    ],
    ids=str,
)
def test_usage_that_cannot_be_booked_is_presumed(usage: Any) -> None:
    """Estimated or invalid usage books the bound; the paid answer is returned (BUDGET-3)."""
    tracker = BudgetTracker(1_000)
    paid = dataclasses.replace(answer(), usage=usage)
    assert Does(lambda _: paid).execute_prompt(PROMPT, config_of(tracker)) is paid
    assert outcomes(tracker) == ["presumed"]
    assert tracker.spent == 100
    at_rest(tracker)


def test_a_cost_that_is_none_is_presumed() -> None:
    """A cost below 0 loses neither the answer nor its possible cost (BUDGET-3)."""
    tracker = BudgetTracker(1_000)
    Does(lambda _: answer(cost=Decimal(-1))).execute_prompt(PROMPT, config_of(tracker))
    assert outcomes(tracker) == ["presumed"]


def test_a_known_cost_is_booked() -> None:
    """The cost of the response is spent in USD, with its source."""
    tracker = BudgetTracker()
    Does(lambda _: answer(cost=Decimal("0.02"))).execute_prompt(PROMPT, config_of(tracker))
    (entry,) = tracker.ledger
    assert (tracker.spent_usd, entry.cost, entry.cost_source) == (Decimal("0.02"), Decimal("0.02"), "provider")


@pytest.mark.parametrize("kind", [Sync, Both])
async def test_cancelled_while_it_waits_books_nothing(kind: type[Sync]) -> None:
    """A call that is cancelled before it is admitted has no entry and sends nothing (BUDGET-6)."""
    tracker, provider = BudgetTracker(100), Provider()
    hold = contextvars.Context().run(tracker.reserve, 50)
    task = asyncio.create_task(kind(provider).async_execute_prompt(PROMPT, config_of(tracker)))
    await awaits(tracker, 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    hold.release()
    assert (provider.billed, outcomes(tracker)) == (0, ["released"])
    at_rest(tracker)


async def test_cancelled_while_the_provider_works_presumes() -> None:
    """A coroutine cancelled after dispatch books the bound (BUDGET-3)."""
    tracker, entered = BudgetTracker(1_000), asyncio.Event()

    class Slow(Both):
        async def async_execute_prompt(self, prompt: str, config: RunConfig | None = None) -> LLMResponse:
            entered.set()
            await asyncio.sleep(PATIENCE)
            return answer()

    task = asyncio.create_task(Slow(Provider()).async_execute_prompt(PROMPT, config_of(tracker)))
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert outcomes(tracker) == ["presumed"]
    at_rest(tracker)


async def test_cancelled_before_its_thread_starts_releases() -> None:
    """If all worker threads are busy, a cancelled call is released and never sent (BUDGET-3)."""
    tracker, provider, go = BudgetTracker(1_000), Provider(), threading.Event()
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(1))
    busy = loop.run_in_executor(None, go.wait, PATIENCE)
    task = asyncio.create_task(Sync(provider).async_execute_prompt(PROMPT, config_of(tracker)))
    await auntil(lambda: tracker.held == 100)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    # A store's worker may grant the hold after the cancellation, and gives it back a moment later.
    await auntil(lambda: not tracker.snapshot().held.tokens)
    at_rest(tracker)
    go.set()
    await busy
    await asyncio.to_thread(lambda: None)
    assert (provider.billed, outcomes(tracker)) == (0, ["released"])


async def test_a_thread_that_starts_after_the_cancellation_sends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker thread that starts after its caller has gone makes no call (BUDGET-3)."""
    tracker, provider = BudgetTracker(1_000), Provider()
    kept: list[Callable[[], Any]] = []

    async def late(work: Callable[[], Any]) -> Any:
        kept.append(work)
        raise asyncio.CancelledError

    monkeypatch.setattr(asyncio, "to_thread", late)
    with pytest.raises(asyncio.CancelledError):
        await Sync(provider).async_execute_prompt(PROMPT, config_of(tracker))
    with pytest.raises(asyncio.CancelledError):
        kept[0]()
    assert (provider.billed, outcomes(tracker)) == (0, ["released"])
    at_rest(tracker)


async def test_cancelled_while_the_thread_works_the_thread_settles() -> None:
    """A worker thread that has started books the call itself, by its actual usage (BUDGET-3)."""
    tracker, entered, go = BudgetTracker(1_000), threading.Event(), threading.Event()

    def slow(_: RunConfig) -> LLMResponse:
        entered.set()
        go.wait(PATIENCE)
        return answer(60)

    task = asyncio.create_task(Does(slow).async_execute_prompt(PROMPT, config_of(tracker)))
    await auntil(entered.is_set)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert tracker.held == 100
    go.set()
    await auntil(lambda: tracker.held == 0)
    assert (tracker.spent, outcomes(tracker)) == (60, ["settled"])


def test_an_overrun_is_booked_and_its_answer_comes_back() -> None:
    """If a provider ignores the limit, the usage is booked in full, the answer returned, and nothing more sent
    (BUDGET-10).
    """
    tracker, provider = BudgetTracker(150), Provider(tokens=400)
    adapter = Sync(provider)
    assert adapter.execute_prompt(PROMPT, config_of(tracker)).content == "yes"
    assert (tracker.spent, tracker.breached) == (400, True)
    refused(lambda: adapter.execute_prompt(PROMPT, config_of(tracker)))
    assert provider.billed == 400


def test_errors_of_the_error_adapter_are_metered() -> None:
    """ErrorLLMAdapter ends its holds like any adapter (BUDGET-3)."""
    tracker = BudgetTracker(1_000)
    adapter = ErrorLLMAdapter(LLMRateLimitError("slow down", status_code=429))
    with pytest.raises(LLMRateLimitError):
        adapter.execute_prompt(PROMPT, config_of(tracker))
    at_rest(tracker)


async def test_the_error_adapter_in_a_crowd_raises_its_error() -> None:
    """Its async form calls the sync one, and no call is refused because of that (BUDGET-2)."""
    tracker = BudgetTracker(100)
    results = await gather(ErrorLLMAdapter(LLMRateLimitError("slow down", status_code=429)), config_of(tracker), 50)
    assert {type(result) for result in results} == {LLMRateLimitError}
    at_rest(tracker)

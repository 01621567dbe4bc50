"""An adapter cannot pass the cap by forgetting it."""

from __future__ import annotations

import asyncio
import contextvars
import dataclasses
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any, ClassVar

import pytest

from llm_connect.core.adapter import DEFAULT_MAX_TOKENS, LLMAdapter
from llm_connect.core.bounds import Bound
from llm_connect.core.budget import BudgetTracker
from llm_connect.core.exceptions import (
    LLMAPIError,
    LLMBudgetExceededError,
    LLMConfigurationError,
    LLMError,
    LLMRateLimitError,
    LLMTimeoutError,
)
from llm_connect.core.holds import Hold
from llm_connect.core.mock import ErrorLLMAdapter, MockLLMAdapter
from llm_connect.core.models import LLMResponse, RunConfig, Usage
from llm_connect.core.units import Amount
from tests.core.budget_helpers import PATIENCE, arefused, at_rest, auntil, awaits, outcomes, refused, run_all

#: 5 bytes of prompt and 95 of output are 100 tokens.
PROMPT = "12345"


class Provider:
    """Bills on arrival, and counts."""

    def __init__(self, *, tokens: int = 100, seconds: float = 0.0) -> None:
        self.tokens = tokens
        self.seconds = seconds
        self.limits: list[int | None] = []
        self.billed = 0
        self._lock = threading.Lock()

    def bill(self, config: RunConfig) -> LLMResponse:
        with self._lock:
            self.limits.append(config.max_tokens)
            self.billed += self.tokens
        return answer(self.tokens)


def answer(tokens: int = 100, *, estimated: bool = False, cost: Decimal | None = None) -> LLMResponse:
    usage = Usage(prompt_tokens=5, completion_tokens=tokens - 5, estimated=estimated)
    return LLMResponse(content="yes", model="tiny-1", usage=usage, cost=cost, cost_source=cost and "provider")


class Sync(LLMAdapter):
    """Writes `execute_prompt` and nothing else."""

    def __init__(self, provider: Provider) -> None:
        self.provider = provider

    def execute_prompt(self, prompt: str, config: RunConfig | None = None) -> LLMResponse:
        time.sleep(self.provider.seconds)
        return self.provider.bill(config or RunConfig())


class Both(Sync):
    """Writes the async form, too."""

    async def async_execute_prompt(self, prompt: str, config: RunConfig | None = None) -> LLMResponse:
        await asyncio.sleep(self.provider.seconds)
        return self.provider.bill(config or RunConfig())


class Wrapper(LLMAdapter):
    """Only hands on to another adapter, and says so."""

    metered = False

    def __init__(self, inner: LLMAdapter) -> None:
        self.inner = inner

    def execute_prompt(self, prompt: str, config: RunConfig | None = None) -> LLMResponse:
        return self.inner.execute_prompt(prompt, config)


class AsyncWrapper(Wrapper):
    metered = False

    async def async_execute_prompt(self, prompt: str, config: RunConfig | None = None) -> LLMResponse:
        return await self.inner.async_execute_prompt(prompt, config)


class Does(LLMAdapter):
    """Calls a function, and gets its config."""

    def __init__(self, function: Callable[[RunConfig], LLMResponse]) -> None:
        self.function = function

    def execute_prompt(self, prompt: str, config: RunConfig | None = None) -> LLMResponse:
        assert config is not None
        return self.function(config)


def config_of(tracker: BudgetTracker, **fields: Any) -> RunConfig:
    return RunConfig(**{"budget_tracker": tracker, "max_tokens": 95, "timeout_seconds": 2 * PATIENCE, **fields})


async def gather(adapter: LLMAdapter, config: RunConfig, number: int = 200) -> list[Any]:
    calls = (adapter.async_execute_prompt(PROMPT, config) for _ in range(number))
    return await asyncio.gather(*calls, return_exceptions=True)


@pytest.mark.parametrize("kind", [Sync, Both, lambda provider: Wrapper(Sync(provider))])
async def test_two_hundred_coroutines_keep_the_cap(kind: Callable[[Provider], LLMAdapter]) -> None:
    """200 calls in one gather against a budget for 20: 20 are sent, 180 refused, nothing lost (BUDGET-1, BUDGET-2)."""
    tracker, provider = BudgetTracker(2_000), Provider()
    results = await gather(kind(provider), config_of(tracker))
    assert provider.billed == tracker.spent == 2_000
    assert sum(isinstance(result, LLMResponse) for result in results) == 20
    assert sum(isinstance(result, LLMBudgetExceededError) for result in results) == 180
    at_rest(tracker)


def test_thirty_two_threads_keep_the_cap() -> None:
    """200 calls of 32 threads against a budget for 20: 20 are sent (BUDGET-1, BUDGET-2)."""
    tracker, provider = BudgetTracker(2_000), Provider(seconds=0.001)
    adapter, config = Sync(provider), config_of(tracker)

    def call(_: int) -> Any:
        try:
            return adapter.execute_prompt(PROMPT, config)
        except LLMBudgetExceededError as error:
            return error

    with ThreadPoolExecutor(32) as pool:
        results = list(pool.map(call, range(200)))
    assert provider.billed == tracker.spent == 2_000
    assert sum(isinstance(result, LLMResponse) for result in results) == 20
    at_rest(tracker)


async def test_calls_that_use_less_make_room_for_others() -> None:
    """What a call does not use of its bound is free again: 40 calls of half their bound fit (BUDGET-2)."""
    tracker, provider = BudgetTracker(2_000), Provider(tokens=50)
    results = await gather(Both(provider), config_of(tracker))
    answers = sum(isinstance(result, LLMResponse) for result in results)
    assert answers == 39
    assert provider.billed == tracker.spent == 1_950
    at_rest(tracker)


def test_the_method_gets_the_limit_that_is_held() -> None:
    """With a budget and no `max_tokens`, the adapter's default is held and given to the method (BUDGET-8)."""
    tracker, provider = BudgetTracker(10_000), Provider()
    Sync(provider).execute_prompt(PROMPT, config_of(tracker, max_tokens=None))
    assert provider.limits == [DEFAULT_MAX_TOKENS]
    assert next(iter(tracker.ledger)).bound == Amount(DEFAULT_MAX_TOKENS + 5, 1)


def test_what_is_free_is_the_limit_when_that_is_less() -> None:
    """With no `max_tokens`, what is free becomes the output limit (BUDGET-8)."""
    tracker, provider = BudgetTracker(705), Provider()
    Sync(provider).execute_prompt(PROMPT, config_of(tracker, max_tokens=None))
    assert provider.limits == [700]


def test_without_a_tracker_nothing_is_changed() -> None:
    """Without a budget the method gets the config as it was given."""
    seen: list[RunConfig] = []

    def look(config: RunConfig) -> LLMResponse:
        seen.append(config)
        return answer()

    config = RunConfig()
    Does(look).execute_prompt(PROMPT, config)
    assert seen[0] is config


async def test_without_a_tracker_async_works_as_well() -> None:
    """Without a budget neither async form meters."""
    assert (await Sync(Provider()).async_execute_prompt(PROMPT)).content == "yes"
    assert (await Both(Provider()).async_execute_prompt(PROMPT)).content == "yes"


def test_the_adapters_own_tracker_is_the_default() -> None:
    """A budget of the adapter counts calls whose config has none; the config's comes first."""
    own, given = BudgetTracker(1_000), BudgetTracker(1_000)
    adapter = Sync(Provider())
    adapter.budget_tracker = own
    adapter.execute_prompt(PROMPT)
    adapter.execute_prompt(PROMPT, config_of(given))
    assert (own.spent, given.spent) == (100, 100)
    mock = MockLLMAdapter(budget_tracker=own)
    mock.execute_prompt(PROMPT, RunConfig(max_tokens=20))
    assert own.spent == 120


def test_the_ledger_names_adapter_model_and_labels() -> None:
    """An entry says who called what for whom."""
    tracker = BudgetTracker(1_000)
    Sync(Provider()).execute_prompt(PROMPT, config_of(tracker, model_name="tiny", labels={"task": "t1"}))
    (entry,) = tracker.ledger
    assert (entry.adapter, entry.model, entry.labels) == ("Sync", "tiny-1", {"task": "t1"})
    assert (entry.outcome, entry.grade, entry.usage and entry.usage.total_tokens) == ("settled", "estimated", 100)


def test_a_wrapper_that_says_so_is_not_counted() -> None:
    """With `metered = False` the inner adapter alone counts (BUDGET-7)."""
    tracker, provider = BudgetTracker(100), Provider()
    Wrapper(Wrapper(Sync(provider))).execute_prompt(PROMPT, config_of(tracker))
    assert tracker.spent == provider.billed == 100
    assert outcomes(tracker) == ["settled"]


async def test_an_async_wrapper_that_says_so_is_not_counted() -> None:
    """Nor is it in a coroutine (BUDGET-7)."""
    tracker, provider = BudgetTracker(100), Provider()
    await AsyncWrapper(Both(provider)).async_execute_prompt(PROMPT, config_of(tracker))
    assert tracker.spent == provider.billed == 100


async def test_a_wrapper_that_says_so_is_not_asked_for_a_bound() -> None:
    """A strict budget judges the bound of the adapter that sends, in both forms, not that of its wrapper (BUDGET-7)."""

    class Proven(Sync):
        def bound(self, prompt: str, config: RunConfig) -> Bound:
            return Bound(prompt_tokens=5, max_tokens=95, grade="proven")

    tracker, provider = BudgetTracker(200, strict=True), Provider()
    adapter = Wrapper(Proven(provider))
    adapter.execute_prompt(PROMPT, config_of(tracker))
    await adapter.async_execute_prompt(PROMPT, config_of(tracker))
    assert tracker.spent == provider.billed == 200


class Forgetful(LLMAdapter):
    """A wrapper that forgot `metered = False`."""

    def __init__(self, inner: LLMAdapter) -> None:
        self.inner = inner

    def execute_prompt(self, prompt: str, config: RunConfig | None = None) -> LLMResponse:
        return self.inner.execute_prompt(prompt, config)


def test_a_wrapper_that_forgot_to_say_so_is_told() -> None:
    """Waiting for the wrapper's own hold would be for ever: it is an error with the remedy in it (BUDGET-9)."""
    tracker, provider = BudgetTracker(150), Provider()
    error = refused(lambda: Forgetful(Sync(provider)).execute_prompt(PROMPT, config_of(tracker)))
    assert error.reason == "self_wait"
    assert "metered = False" in str(error)
    assert provider.billed == 0
    at_rest(tracker)


async def test_a_wrapper_that_forgot_is_told_in_a_coroutine() -> None:
    """The same through the worker thread of the async form (BUDGET-9)."""
    tracker, provider = BudgetTracker(150), Provider()
    call = Forgetful(Sync(provider)).async_execute_prompt(PROMPT, config_of(tracker))
    assert (await arefused(call)).reason == "self_wait"
    at_rest(tracker)


class Polite(Both):
    """Adds something and calls its base, in both forms."""

    def execute_prompt(self, prompt: str, config: RunConfig | None = None) -> LLMResponse:
        return super().execute_prompt(prompt, config)

    async def async_execute_prompt(self, prompt: str, config: RunConfig | None = None) -> LLMResponse:
        return await super().async_execute_prompt(prompt, config)


class VeryPolite(Polite):
    def execute_prompt(self, prompt: str, config: RunConfig | None = None) -> LLMResponse:
        return super().execute_prompt(prompt, config)


class PoliteSync(Sync):
    """Writes the sync form alone, over that of its base."""

    def execute_prompt(self, prompt: str, config: RunConfig | None = None) -> LLMResponse:
        return super().execute_prompt(prompt, config)


class InLoop(Sync):
    """Its async form calls the sync one in the loop."""

    async def async_execute_prompt(self, prompt: str, config: RunConfig | None = None) -> LLMResponse:
        return self.execute_prompt(prompt, config)


class InThread(Sync):
    """Its async form calls the sync one in a thread."""

    async def async_execute_prompt(self, prompt: str, config: RunConfig | None = None) -> LLMResponse:
        return await asyncio.to_thread(self.execute_prompt, prompt, config)


class FromLoop(Both):
    """Its sync form runs the async one."""

    def execute_prompt(self, prompt: str, config: RunConfig | None = None) -> LLMResponse:
        return asyncio.run(self.async_execute_prompt(prompt, config))


@pytest.mark.parametrize("kind", [Polite, VeryPolite, PoliteSync, FromLoop])
def test_a_chain_of_forms_counts_once(kind: type[Sync]) -> None:
    """However many methods of one adapter a call goes through, it is counted once, and fits once (BUDGET-7)."""
    tracker, provider = BudgetTracker(200), Provider()
    for _ in range(2):
        kind(provider).execute_prompt(PROMPT, config_of(tracker))
    assert tracker.spent == provider.billed == 200
    assert outcomes(tracker) == ["settled", "settled"]
    at_rest(tracker)


@pytest.mark.parametrize("kind", [Polite, VeryPolite, PoliteSync, InLoop, InThread, FromLoop])
async def test_an_async_chain_of_forms_counts_once(kind: type[Sync]) -> None:
    """In a crowd, too: a call that was let in stays in when one form hands on to the other (BUDGET-2, BUDGET-7)."""
    tracker, provider = BudgetTracker(2_000), Provider()
    results = await gather(kind(provider), config_of(tracker))
    assert tracker.spent == provider.billed == 2_000
    assert sum(isinstance(result, LLMResponse) for result in results) == 20
    assert {result.reason for result in results if isinstance(result, LLMBudgetExceededError)} == {"never_fits"}
    at_rest(tracker)


def test_a_form_that_calls_its_base_twice_counts_both() -> None:
    """Each inner call is counted, the outer one not (BUDGET-7)."""

    class Twice(Sync):
        def execute_prompt(self, prompt: str, config: RunConfig | None = None) -> LLMResponse:
            super().execute_prompt(prompt, config)
            return super().execute_prompt(prompt, config)

    tracker, provider = BudgetTracker(200), Provider()
    Twice(provider).execute_prompt(PROMPT, config_of(tracker))
    assert tracker.spent == provider.billed == 200
    at_rest(tracker)


def test_a_base_called_without_the_budget_is_still_counted() -> None:
    """When the inner call has no budget, the outer one counts (BUDGET-7)."""

    class Fresh(Sync):
        def execute_prompt(self, prompt: str, config: RunConfig | None = None) -> LLMResponse:
            return super().execute_prompt(prompt, RunConfig(max_tokens=95))

    tracker, provider = BudgetTracker(200), Provider()
    Fresh(provider).execute_prompt(PROMPT, config_of(tracker))
    assert tracker.spent == provider.billed == 100


def test_a_base_called_with_another_budget_counts_on_both() -> None:
    """When the inner call spends from a budget elsewhere, the outer one counts on its own (BUDGET-7)."""
    tracker, other, provider = BudgetTracker(200), BudgetTracker(200), Provider()

    class Elsewhere(Sync):
        def execute_prompt(self, prompt: str, config: RunConfig | None = None) -> LLMResponse:
            return super().execute_prompt(prompt, config_of(other))

    Elsewhere(provider).execute_prompt(PROMPT, config_of(tracker))
    assert (tracker.spent, other.spent) == (100, 100)


def test_a_base_called_with_a_larger_bound_may_be_refused() -> None:
    """An inner call that needs more than the outer one holds is admitted anew (BUDGET-1)."""

    class Greedy(Sync):
        def execute_prompt(self, prompt: str, config: RunConfig | None = None) -> LLMResponse:
            assert config is not None
            return super().execute_prompt(prompt, dataclasses.replace(config, max_tokens=1_000))

    tracker, provider = BudgetTracker(200), Provider()
    assert refused(lambda: Greedy(provider).execute_prompt(PROMPT, config_of(tracker))).reason == "never_fits"
    assert provider.billed == 0
    at_rest(tracker)


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
    """Released only where nothing can have been billed, settled where the answer came, else presumed (BUDGET-3)."""

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
    """Estimated usage, and usage that is none, books the bound; the answer that was paid for comes back (BUDGET-3)."""
    tracker = BudgetTracker(1_000)
    paid = dataclasses.replace(answer(), usage=usage)
    assert Does(lambda _: paid).execute_prompt(PROMPT, config_of(tracker)) is paid
    assert outcomes(tracker) == ["presumed"]
    assert tracker.spent == 100
    at_rest(tracker)


def test_a_cost_that_is_none_is_presumed() -> None:
    """A cost below 0 loses neither the answer nor what it may have cost (BUDGET-3)."""
    tracker = BudgetTracker(1_000)
    Does(lambda _: answer(cost=Decimal(-1))).execute_prompt(PROMPT, config_of(tracker))
    assert outcomes(tracker) == ["presumed"]


def test_a_known_cost_is_booked() -> None:
    """The cost of the response is spent in USD, with its source."""
    tracker = BudgetTracker()
    Does(lambda _: answer(cost=Decimal("0.02"))).execute_prompt(PROMPT, config_of(tracker))
    (entry,) = tracker.ledger
    assert (tracker.spent_usd, entry.cost, entry.cost_source) == (Decimal("0.02"), Decimal("0.02"), "provider")


@pytest.mark.parametrize("figure", [-1, 1.5, True, None])
def test_a_bound_that_is_no_bound_is_refused(figure: Any) -> None:
    """An adapter's bound of a fraction, or below 0, is an error and never becomes a hold (BUDGET-1)."""

    class Careless(Sync):
        def bound(self, prompt: str, config: RunConfig) -> Bound:
            return Bound(prompt_tokens=figure, max_tokens=10)

    tracker, provider = BudgetTracker(1_000), Provider()
    with pytest.raises(LLMConfigurationError):
        Careless(provider).execute_prompt(PROMPT, config_of(tracker))
    assert provider.billed == 0
    at_rest(tracker)


def test_a_prompt_that_no_adapter_takes_holds_nothing() -> None:
    """A prompt of another kind is refused before anything is held."""
    tracker = BudgetTracker(1_000)
    with pytest.raises(LLMConfigurationError):
        Sync(Provider()).execute_prompt(["hello"], config_of(tracker))  # type: ignore[arg-type]
    at_rest(tracker)


@pytest.mark.parametrize("kind", [Sync, Both])
async def test_cancelled_while_it_waits_books_nothing(kind: type[Sync]) -> None:
    """A call cancelled before it was let in has no entry and sends nothing (BUDGET-6)."""
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
    """While all worker threads are busy, a cancelled call is released, and never sent (BUDGET-3)."""
    tracker, provider, go = BudgetTracker(1_000), Provider(), threading.Event()
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(1))
    busy = loop.run_in_executor(None, go.wait, PATIENCE)
    task = asyncio.create_task(Sync(provider).async_execute_prompt(PROMPT, config_of(tracker)))
    await auntil(lambda: tracker.held == 100)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    # What a store's worker was about to grant, it gives back a moment later.
    await auntil(lambda: not tracker.snapshot().held.tokens)
    at_rest(tracker)
    go.set()
    await busy
    await asyncio.to_thread(lambda: None)
    assert (provider.billed, outcomes(tracker)) == (0, ["released"])


async def test_a_thread_that_starts_after_the_cancellation_sends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker thread that comes to the call after its caller has gone does not begin (BUDGET-3)."""
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
    """What a worker thread has begun it books itself, by its real usage (BUDGET-3)."""
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


async def test_waiting_async_callers_of_a_sync_adapter_cost_no_thread() -> None:
    """Only calls that were let in go to a worker thread."""
    tracker, provider = BudgetTracker(100), Provider(tokens=10)
    hold = contextvars.Context().run(tracker.reserve, 100)
    threads = threading.active_count()
    tasks = [
        asyncio.create_task(Sync(provider).async_execute_prompt(PROMPT, config_of(tracker, max_tokens=5)))
        for _ in range(10)
    ]
    await awaits(tracker, 10)
    assert threading.active_count() <= threads + (tracker.gate.worker is not None)
    hold.release()
    await asyncio.gather(*tasks)
    assert tracker.spent == 100
    at_rest(tracker)


def test_an_overrun_is_booked_and_its_answer_comes_back() -> None:
    """A provider that ignores the limit: all is booked, the answer returned, nothing more sent (BUDGET-10)."""
    tracker, provider = BudgetTracker(150), Provider(tokens=400)
    adapter = Sync(provider)
    assert adapter.execute_prompt(PROMPT, config_of(tracker)).content == "yes"
    assert (tracker.spent, tracker.breached) == (400, True)
    refused(lambda: adapter.execute_prompt(PROMPT, config_of(tracker)))
    assert provider.billed == 400


def test_errors_of_the_error_adapter_are_metered() -> None:
    """ErrorLLMAdapter ends its holds as any adapter does (BUDGET-3)."""
    tracker = BudgetTracker(1_000)
    adapter = ErrorLLMAdapter(LLMRateLimitError("slow down", status_code=429))
    with pytest.raises(LLMRateLimitError):
        adapter.execute_prompt(PROMPT, config_of(tracker))
    at_rest(tracker)


async def test_the_error_adapter_in_a_crowd_raises_its_error() -> None:
    """Its async form calls the sync one, and no call is refused for that (BUDGET-2)."""
    tracker = BudgetTracker(100)
    results = await gather(ErrorLLMAdapter(LLMRateLimitError("slow down", status_code=429)), config_of(tracker), 50)
    assert {type(result) for result in results} == {LLMRateLimitError}
    at_rest(tracker)


def test_metered_is_said_by_the_class_that_writes_the_method() -> None:
    """`metered = False` is not inherited: a subclass that writes the method anew is metered."""

    class Own(Wrapper):
        metered: ClassVar[bool] = True

        def execute_prompt(self, prompt: str, config: RunConfig | None = None) -> LLMResponse:
            return answer()

    tracker = BudgetTracker(1_000)
    Own(Sync(Provider())).execute_prompt(PROMPT, config_of(tracker))
    assert tracker.spent == 100


def test_an_abstract_method_stays_abstract() -> None:
    """A class between, which leaves the method abstract, cannot be made."""
    from abc import abstractmethod

    class Between(LLMAdapter):
        @abstractmethod
        def execute_prompt(self, prompt: str, config: RunConfig | None = None) -> LLMResponse: ...

    with pytest.raises(TypeError):
        Between()  # type: ignore[abstract]


def test_threads_wait_for_each_other() -> None:
    """Threads that do not fit now wait and are let in (BUDGET-2)."""
    tracker, provider = BudgetTracker(1_000), Provider(tokens=20, seconds=0.002)
    adapter = Sync(provider)
    results = run_all(lambda: adapter.execute_prompt(PROMPT, config_of(tracker)) for _ in range(40))
    assert all(isinstance(result, LLMResponse) for result in results)
    assert tracker.spent == provider.billed == 800
    at_rest(tracker)


def give_back_first(monkeypatch: pytest.MonkeyPatch, times: int) -> list[Hold]:
    """Let the first holds be given back before they are sent, as after an overrun."""
    try_dispatch, given_back = Hold.try_dispatch, []

    def dispatch(hold: Hold) -> bool:
        if len(given_back) == times:
            return try_dispatch(hold)
        given_back.append(hold)
        hold.release()
        return False

    monkeypatch.setattr(Hold, "try_dispatch", dispatch)
    return given_back


def test_a_hold_that_was_given_back_is_reserved_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call goes on with a new hold when what it was granted does not cover it any more (BUDGET-41)."""
    given_back = give_back_first(monkeypatch, 2)
    tracker, adapter = BudgetTracker(1_000), MockLLMAdapter()
    adapter.execute_prompt("hello", RunConfig(budget_tracker=tracker))
    assert (len(given_back), outcomes(tracker)) == (2, ["released", "released", "settled"])
    at_rest(tracker)


@pytest.mark.parametrize("kind", [Sync, Both])
async def test_so_is_that_of_an_async_call(kind: type[Sync], monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when the async form runs the sync one in a thread (BUDGET-41)."""
    given_back = give_back_first(monkeypatch, 2)
    tracker = BudgetTracker(1_000)
    await kind(Provider()).async_execute_prompt("hello", RunConfig(budget_tracker=tracker))
    assert (len(given_back), outcomes(tracker)) == (2, ["released", "released", "settled"])
    at_rest(tracker)

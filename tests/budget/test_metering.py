"""Metering: an adapter cannot bypass the cap by forgetting it."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from llm_connect.budget.accounting.bounds import Bound
from llm_connect.budget.admission.controller import Gate
from llm_connect.budget.admission.holds import Hold
from llm_connect.budget.tracker import BudgetTracker
from llm_connect.errors import LLMBudgetExceededError, LLMConfigurationError
from llm_connect.interface.adapter import DEFAULT_MAX_TOKENS, LLMAdapter
from llm_connect.interface.config import RunConfig
from llm_connect.testing.mock import MockLLMAdapter
from llm_connect.types.amounts import Amount
from llm_connect.types.response import LLMResponse
from tests.budget.budget_helpers import at_rest, awaits, outcomes, run_all
from tests.budget.metered_adapters import PROMPT, Both, Does, Provider, Sync, Wrapper, answer, config_of, gather


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
    """200 calls in 32 threads against a budget for 20: 20 are sent (BUDGET-1, BUDGET-2)."""
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
    """The unused part of a bound is free again: 40 calls that use half of their bound fit (BUDGET-2)."""
    tracker, provider = BudgetTracker(2_000), Provider(tokens=50)
    results = await gather(Both(provider), config_of(tracker))
    answers = sum(isinstance(result, LLMResponse) for result in results)
    assert answers == 39
    assert provider.billed == tracker.spent == 1_950
    at_rest(tracker)


def test_the_method_gets_the_limit_that_is_held() -> None:
    """With a budget and no `max_tokens`, the adapter's default is held and passed to the method (BUDGET-8)."""
    tracker, provider = BudgetTracker(10_000), Provider()
    Sync(provider).execute_prompt(PROMPT, config_of(tracker, max_tokens=None))
    assert provider.limits == [DEFAULT_MAX_TOKENS]
    assert next(iter(tracker.ledger)).bound == Amount(DEFAULT_MAX_TOKENS + 5, 1)


def test_what_is_free_is_the_limit_when_that_is_less() -> None:
    """Without `max_tokens` the free budget becomes the output limit (BUDGET-8)."""
    tracker, provider = BudgetTracker(705), Provider()
    Sync(provider).execute_prompt(PROMPT, config_of(tracker, max_tokens=None))
    assert provider.limits == [700]


def test_without_a_tracker_nothing_is_changed() -> None:
    """Without a budget the method gets the unchanged config."""
    seen: list[RunConfig] = []

    def look(config: RunConfig) -> LLMResponse:
        seen.append(config)
        return answer()

    config = RunConfig()
    Does(look).execute_prompt(PROMPT, config)
    assert seen[0] is config


async def test_without_a_tracker_async_works_as_well() -> None:
    """Neither async form meters without a budget."""
    assert (await Sync(Provider()).async_execute_prompt(PROMPT)).content == "yes"
    assert (await Both(Provider()).async_execute_prompt(PROMPT)).content == "yes"


def test_the_adapters_own_tracker_is_the_default() -> None:
    """The adapter's budget counts calls whose config has none; a config's own budget takes precedence."""
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
    """An entry names the adapter, the model and the labels of the call."""
    tracker = BudgetTracker(1_000)
    Sync(Provider()).execute_prompt(PROMPT, config_of(tracker, model_name="tiny", labels={"task": "t1"}))
    (entry,) = tracker.ledger
    assert (entry.adapter, entry.model, entry.labels) == ("Sync", "tiny-1", {"task": "t1"})
    assert (entry.outcome, entry.grade, entry.usage and entry.usage.total_tokens) == ("settled", "estimated", 100)


@pytest.mark.parametrize("figure", [-1, 1.5, True, None])
def test_a_bound_that_is_no_bound_is_refused(figure: Any) -> None:
    """A fractional or negative bound of an adapter is an error and never becomes a hold (BUDGET-1)."""

    class Careless(Sync):
        def bound(self, prompt: str, config: RunConfig) -> Bound:
            return Bound(prompt_tokens=figure, max_tokens=10)

    tracker, provider = BudgetTracker(1_000), Provider()
    with pytest.raises(LLMConfigurationError):
        Careless(provider).execute_prompt(PROMPT, config_of(tracker))
    assert provider.billed == 0
    at_rest(tracker)


def test_a_prompt_that_no_adapter_takes_holds_nothing() -> None:
    """A prompt of a wrong type is refused before anything is held."""
    tracker = BudgetTracker(1_000)
    with pytest.raises(LLMConfigurationError):
        Sync(Provider()).execute_prompt(["hello"], config_of(tracker))  # type: ignore[arg-type]
    at_rest(tracker)


async def test_waiting_async_callers_of_a_sync_adapter_cost_no_thread() -> None:
    """Only admitted calls get a worker thread."""
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


def test_an_abstract_method_stays_abstract() -> None:
    """A subclass that leaves the method abstract cannot be instantiated."""
    from abc import abstractmethod

    class Between(LLMAdapter):
        @abstractmethod
        def execute_prompt(self, prompt: str, config: RunConfig | None = None) -> LLMResponse: ...

    with pytest.raises(TypeError):
        Between()  # type: ignore[abstract]


def test_threads_wait_for_each_other() -> None:
    """Threads whose calls do not fit at present wait and are admitted (BUDGET-2)."""
    tracker, provider = BudgetTracker(1_000), Provider(tokens=20, seconds=0.002)
    adapter = Sync(provider)
    results = run_all(lambda: adapter.execute_prompt(PROMPT, config_of(tracker)) for _ in range(40))
    assert all(isinstance(result, LLMResponse) for result in results)
    assert tracker.spent == provider.billed == 800
    at_rest(tracker)


def give_back_first(monkeypatch: pytest.MonkeyPatch, times: int) -> list[Hold]:
    """Make the gate revoke the first holds before they are sent, as after an overrun."""
    decide, given_back = Gate.dispatch, []

    def dispatch(gate: Gate, hold: Hold) -> bool:
        if len(given_back) == times:
            return decide(gate, hold)
        given_back.append(hold)
        hold.release()
        return False

    monkeypatch.setattr(Gate, "dispatch", dispatch)
    return given_back


def test_a_revoked_hold_is_reserved_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call goes on with a new hold if the granted one no longer covers it (BUDGET-41)."""
    given_back = give_back_first(monkeypatch, 2)
    tracker, adapter = BudgetTracker(1_000), MockLLMAdapter()
    adapter.execute_prompt("hello", RunConfig(budget_tracker=tracker))
    assert (len(given_back), outcomes(tracker)) == (2, ["released", "released", "settled"])
    at_rest(tracker)


@pytest.mark.parametrize("kind", [Sync, Both])
async def test_so_is_that_of_an_async_call(kind: type[Sync], monkeypatch: pytest.MonkeyPatch) -> None:
    """The same holds for an async form that runs the sync one in a thread (BUDGET-41)."""
    given_back = give_back_first(monkeypatch, 2)
    tracker = BudgetTracker(1_000)
    await kind(Provider()).async_execute_prompt("hello", RunConfig(budget_tracker=tracker))
    assert (len(given_back), outcomes(tracker)) == (2, ["released", "released", "settled"])
    at_rest(tracker)

"""A call counts once, however many adapters and methods it passes."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import ClassVar

import pytest

from llm_connect.budget.accounting.bounds import Bound
from llm_connect.budget.tracker import BudgetTracker
from llm_connect.errors import LLMBudgetExceededError
from llm_connect.interface.adapter import LLMAdapter
from llm_connect.interface.config import RunConfig
from llm_connect.types.response import LLMResponse
from tests.budget.budget_helpers import arefused, at_rest, outcomes, refused
from tests.budget.metered_adapters import PROMPT, Both, Provider, Sync, Wrapper, answer, config_of, gather


class AsyncWrapper(Wrapper):
    metered = False

    async def async_execute_prompt(self, prompt: str, config: RunConfig | None = None) -> LLMResponse:
        return await self.inner.async_execute_prompt(prompt, config)


def test_a_wrapper_that_says_so_is_not_counted() -> None:
    """With `metered = False` only the inner adapter counts (BUDGET-7)."""
    tracker, provider = BudgetTracker(100), Provider()
    Wrapper(Wrapper(Sync(provider))).execute_prompt(PROMPT, config_of(tracker))
    assert tracker.spent == provider.billed == 100
    assert outcomes(tracker) == ["settled"]


async def test_an_async_wrapper_that_says_so_is_not_counted() -> None:
    """The same holds in a coroutine (BUDGET-7)."""
    tracker, provider = BudgetTracker(100), Provider()
    await AsyncWrapper(Both(provider)).async_execute_prompt(PROMPT, config_of(tracker))
    assert tracker.spent == provider.billed == 100


async def test_a_wrapper_that_says_so_is_not_asked_for_a_bound() -> None:
    """A strict budget checks the bound of the adapter that sends, not of its wrapper, in both forms (BUDGET-7)."""

    class Proven(Sync):
        def bound(self, prompt: str, config: RunConfig) -> Bound:
            return Bound(prompt_tokens=5, max_tokens=95, grade="proven")

    tracker, provider = BudgetTracker(200, strict=True), Provider()
    adapter = Wrapper(Proven(provider))
    adapter.execute_prompt(PROMPT, config_of(tracker))
    await adapter.async_execute_prompt(PROMPT, config_of(tracker))
    assert tracker.spent == provider.billed == 200


class Forgetful(LLMAdapter):
    """A wrapper that forgot to set `metered = False`."""

    def __init__(self, inner: LLMAdapter) -> None:
        self.inner = inner

    def execute_prompt(self, prompt: str, config: RunConfig | None = None) -> LLMResponse:
        return self.inner.execute_prompt(prompt, config)


def test_a_wrapper_that_forgot_to_say_so_is_told() -> None:
    """A call that waited only for the wrapper's own hold raises an error with the remedy (BUDGET-9)."""
    tracker, provider = BudgetTracker(150), Provider()
    config = dataclasses.replace(config_of(tracker), max_wait_seconds=0.2)
    error = refused(lambda: Forgetful(Sync(provider)).execute_prompt(PROMPT, config))
    assert error.reason == "self_wait"
    assert "metered = False" in str(error)
    assert provider.billed == 0
    at_rest(tracker)


async def test_a_wrapper_that_forgot_is_told_in_a_coroutine() -> None:
    """The same holds for the worker thread of the async form (BUDGET-9)."""
    tracker, provider = BudgetTracker(150), Provider()
    config = dataclasses.replace(config_of(tracker), max_wait_seconds=0.2)
    call = Forgetful(Sync(provider)).async_execute_prompt(PROMPT, config)
    assert (await arefused(call)).reason == "self_wait"
    at_rest(tracker)


class Polite(Both):
    """An adapter that changes the prompt and calls its base class, in both forms."""

    def execute_prompt(self, prompt: str, config: RunConfig | None = None) -> LLMResponse:
        return super().execute_prompt(prompt, config)

    async def async_execute_prompt(self, prompt: str, config: RunConfig | None = None) -> LLMResponse:
        return await super().async_execute_prompt(prompt, config)


class VeryPolite(Polite):
    def execute_prompt(self, prompt: str, config: RunConfig | None = None) -> LLMResponse:
        return super().execute_prompt(prompt, config)


class PoliteSync(Sync):
    """An adapter that overrides only the sync form of its base class."""

    def execute_prompt(self, prompt: str, config: RunConfig | None = None) -> LLMResponse:
        return super().execute_prompt(prompt, config)


class InLoop(Sync):
    """An adapter whose async form calls the sync one in the loop."""

    async def async_execute_prompt(self, prompt: str, config: RunConfig | None = None) -> LLMResponse:
        return self.execute_prompt(prompt, config)


class InThread(Sync):
    """An adapter whose async form calls the sync one in a thread."""

    async def async_execute_prompt(self, prompt: str, config: RunConfig | None = None) -> LLMResponse:
        return await asyncio.to_thread(self.execute_prompt, prompt, config)


class FromLoop(Both):
    """An adapter whose sync form runs the async one."""

    def execute_prompt(self, prompt: str, config: RunConfig | None = None) -> LLMResponse:
        return asyncio.run(self.async_execute_prompt(prompt, config))


@pytest.mark.parametrize("kind", [Polite, VeryPolite, PoliteSync, FromLoop])
def test_a_chain_of_forms_counts_once(kind: type[Sync]) -> None:
    """A call through several methods of one adapter counts once, and must fit once (BUDGET-7)."""
    tracker, provider = BudgetTracker(200), Provider()
    for _ in range(2):
        kind(provider).execute_prompt(PROMPT, config_of(tracker))
    assert tracker.spent == provider.billed == 200
    assert outcomes(tracker) == ["settled", "settled"]
    at_rest(tracker)


@pytest.mark.parametrize("kind", [Polite, VeryPolite, PoliteSync, InLoop, InThread, FromLoop])
async def test_an_async_chain_of_forms_counts_once(kind: type[Sync]) -> None:
    """With many calls at once, an admitted call keeps its budget when one form passes on to the other (BUDGET-2,
    BUDGET-7).
    """
    tracker, provider = BudgetTracker(2_000), Provider()
    results = await gather(kind(provider), config_of(tracker))
    assert tracker.spent == provider.billed == 2_000
    assert sum(isinstance(result, LLMResponse) for result in results) == 20
    assert {result.reason for result in results if isinstance(result, LLMBudgetExceededError)} == {"never_fits"}
    at_rest(tracker)


def test_a_form_that_calls_its_base_twice_counts_both() -> None:
    """Each inner call counts, and the outer one does not (BUDGET-7)."""

    class Twice(Sync):
        def execute_prompt(self, prompt: str, config: RunConfig | None = None) -> LLMResponse:
            super().execute_prompt(prompt, config)
            return super().execute_prompt(prompt, config)

    tracker, provider = BudgetTracker(200), Provider()
    Twice(provider).execute_prompt(PROMPT, config_of(tracker))
    assert tracker.spent == provider.billed == 200
    at_rest(tracker)


def test_a_base_called_without_the_budget_is_still_counted() -> None:
    """If the inner call has no budget, the outer one counts (BUDGET-7)."""

    class Fresh(Sync):
        def execute_prompt(self, prompt: str, config: RunConfig | None = None) -> LLMResponse:
            return super().execute_prompt(prompt, RunConfig(max_tokens=95))

    tracker, provider = BudgetTracker(200), Provider()
    Fresh(provider).execute_prompt(PROMPT, config_of(tracker))
    assert tracker.spent == provider.billed == 100


def test_a_base_called_with_another_budget_counts_on_both() -> None:
    """If the inner call spends from an unrelated budget, the outer one counts on its own (BUDGET-7)."""
    tracker, other, provider = BudgetTracker(200), BudgetTracker(200), Provider()

    class Elsewhere(Sync):
        def execute_prompt(self, prompt: str, config: RunConfig | None = None) -> LLMResponse:
            return super().execute_prompt(prompt, config_of(other))

    Elsewhere(provider).execute_prompt(PROMPT, config_of(tracker))
    assert (tracker.spent, other.spent) == (100, 100)


def test_a_base_called_with_a_larger_bound_may_be_refused() -> None:
    """An inner call that needs more than the outer hold must be admitted again (BUDGET-1)."""

    class Greedy(Sync):
        def execute_prompt(self, prompt: str, config: RunConfig | None = None) -> LLMResponse:
            assert config is not None
            return super().execute_prompt(prompt, dataclasses.replace(config, max_tokens=1_000))

    tracker, provider = BudgetTracker(200), Provider()
    assert refused(lambda: Greedy(provider).execute_prompt(PROMPT, config_of(tracker))).reason == "never_fits"
    assert provider.billed == 0
    at_rest(tracker)


def test_metered_is_said_by_the_class_that_writes_the_method() -> None:
    """Subclasses do not inherit `metered = False`: a subclass that overrides the method is metered."""

    class Own(Wrapper):
        metered: ClassVar[bool] = True

        def execute_prompt(self, prompt: str, config: RunConfig | None = None) -> LLMResponse:
            return answer()

    tracker = BudgetTracker(1_000)
    Own(Sync(Provider())).execute_prompt(PROMPT, config_of(tracker))
    assert tracker.spent == 100

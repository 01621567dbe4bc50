"""The cap in USD at the server's meter: 200 calls attempted, money for 20, real SDKs over loopback.

The server bills 1.25 USD for a million prompt tokens and 10 for completion tokens, as the snapshot says of the models
that are asked for. A prompt of 425 characters is 100 tokens, and the output limit of 400 is used in full.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from decimal import Decimal

import pytest

from llm_connect import (
    BudgetTracker,
    GeminiAdapter,
    LLMResponse,
    OpenAIAdapter,
    OpenRouterAdapter,
    Price,
    RunConfig,
)
from llm_connect.testing import Behaviour, EmbeddedProvider, Tariff
from tests.e2e.attempts import ATTEMPTS, CALLS, aattempt, attempt, in_threads

COST = Decimal("0.004125")
CAP = CALLS * COST
NANO = Decimal("1e-9")
LIST = Price(prompt="1.25", completion=10)

Adapter = OpenAIAdapter | GeminiAdapter | OpenRouterAdapter
#: The loopback provider is none of theirs, so it is said here whose list prices count.
LISTS = {OpenAIAdapter: "openai", GeminiAdapter: "google", OpenRouterAdapter: "openrouter"}
ADAPTERS: dict[str, Callable[[EmbeddedProvider], Adapter]] = {
    "openai": lambda provider: OpenAIAdapter(api_key="any-key", base_url=provider.openai_url, model="gpt-5"),
    "responses": lambda provider: OpenAIAdapter(
        api_key="any-key", base_url=provider.openai_url, model="gpt-5", api="responses"
    ),
    "gemini": lambda provider: GeminiAdapter(api_key="any-key", base_url=provider.gemini_url, model="gemini-2.5-pro"),
    "openrouter": lambda provider: OpenRouterAdapter(
        api_key="any-key", base_url=provider.openrouter_url, model="openai/gpt-5"
    ),
}


@pytest.fixture
def provider() -> Iterator[EmbeddedProvider]:
    with EmbeddedProvider(reply_tokens="limit") as provider:
        provider.script(Behaviour(delay=0.02))
        yield provider


@pytest.fixture(params=ADAPTERS)
def adapter(request: pytest.FixtureRequest, provider: EmbeddedProvider) -> Iterator[Adapter]:
    with ADAPTERS[request.param](provider) as adapter:
        yield adapter


@pytest.fixture(params=["listed", "adapter", "budget"])
def tracker(request: pytest.FixtureRequest, adapter: Adapter, monkeypatch: pytest.MonkeyPatch) -> BudgetTracker:
    """A budget for 20 calls, and the price from each source: the snapshot, the adapter, the budget."""
    if request.param == "listed":
        monkeypatch.setattr(type(adapter), "price_list", LISTS[type(adapter)])
    if request.param == "adapter":
        adapter.price = LIST
    return BudgetTracker(total_usd=CAP, prices={adapter.model: LIST} if request.param == "budget" else None)


def judge(provider: EmbeddedProvider, tracker: BudgetTracker, answers: list[LLMResponse | None]) -> None:
    """At the server: never above the cap and at least 19 calls through; no answer lost; the books are the bill."""
    through = [answer for answer in answers if answer is not None]
    assert len(answers) == ATTEMPTS
    assert provider.meter.cost <= CAP
    assert 19 <= provider.meter.calls == len(through) <= CALLS
    assert abs(tracker.spent_usd - provider.meter.cost) <= len(through) * NANO
    assert all(answer.cost is not None and abs(answer.cost - COST) <= NANO for answer in through)
    assert tracker.spent_usd == sum(entry.amount.usd for entry in tracker.ledger)
    assert {entry.cost_source for entry in tracker.ledger} == {answer.cost_source for answer in through}
    assert tracker.held_usd == tracker.held == 0


async def test_one_gather(provider: EmbeddedProvider, adapter: Adapter, tracker: BudgetTracker) -> None:
    """200 calls in one gather stay under a cap in USD for 20, whoever knows the price. (BUDGET-1, BUDGET-12)"""
    config = RunConfig(budget_tracker=tracker, max_tokens=400)
    judge(provider, tracker, await asyncio.gather(*(aattempt(adapter, config) for _ in range(ATTEMPTS))))


def test_threads(provider: EmbeddedProvider) -> None:
    """32 threads with 200 calls between them, over three providers, stay under one cap in USD. (BUDGET-1, BUDGET-12)"""
    prices = {"gpt-5": LIST, "gemini-2.5-pro": LIST, "openai/gpt-5": LIST}
    tracker = BudgetTracker(total_usd=CAP, prices=prices)
    config = RunConfig(budget_tracker=tracker, max_tokens=400)
    adapters = [make(provider) for make in ADAPTERS.values()]
    answers = in_threads(lambda turn: attempt(adapters[turn % len(adapters)], config))
    for adapter in adapters:
        adapter.close()
    judge(provider, tracker, answers)


async def test_calls_whose_cost_nobody_tells(
    provider: EmbeddedProvider, adapter: Adapter, tracker: BudgetTracker
) -> None:
    """Without usage in the replies the bound is booked, so the bill stays under the cap. (BUDGET-1, BUDGET-12)"""
    provider.script(Behaviour(usage="missing"))
    config = RunConfig(budget_tracker=tracker, max_tokens=400)
    answers = await asyncio.gather(*(aattempt(adapter, config) for _ in range(ATTEMPTS)))
    assert 0 < provider.meter.cost <= tracker.spent_usd <= CAP
    assert {answer.cost for answer in answers if answer is not None} == {None}
    assert tracker.held_usd == 0


async def test_a_long_prompt_is_held_at_its_own_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Long prompts, billed at the dearer rates of their length, stay under the cap. (BUDGET-1, BUDGET-20)"""
    monkeypatch.setattr(GeminiAdapter, "price_list", LISTS[GeminiAdapter])
    above = Tariff(prompt_usd_per_million=Decimal("2.50"), completion_usd_per_million=Decimal(15), count_tokens=len)
    cap = Decimal(3)
    with EmbeddedProvider(reply_tokens="limit", tariff=above) as provider:
        tracker = BudgetTracker(total_usd=cap)
        config = RunConfig(budget_tracker=tracker, max_tokens=400)
        async with GeminiAdapter(api_key="any-key", base_url=provider.gemini_url, model="gemini-2.5-pro") as adapter:
            calls = (adapter.async_execute_prompt("x" * 200_001, config) for _ in range(12))
            answers = await asyncio.gather(*calls, return_exceptions=True)
        assert provider.meter.calls == sum(isinstance(answer, LLMResponse) for answer in answers) == 5
        assert abs(tracker.spent_usd - provider.meter.cost) <= 5 * NANO
        assert provider.meter.cost <= cap


async def test_openrouter_with_a_key_of_the_users_own(
    provider: EmbeddedProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With OpenRouter's fee on top of the provider's price no more than the cap is spent. (BUDGET-1, BUDGET-12)"""
    monkeypatch.setattr(OpenRouterAdapter, "price_list", LISTS[OpenRouterAdapter])
    provider.script(Behaviour(byok=True, delay=0.02))
    tracker = BudgetTracker(total_usd=CAP)
    config = RunConfig(budget_tracker=tracker, max_tokens=400)
    async with ADAPTERS["openrouter"](provider) as adapter:
        answers = await asyncio.gather(*(aattempt(adapter, config) for _ in range(ATTEMPTS)))
    with_fee = provider.meter.cost * Decimal("1.05")
    assert abs(tracker.spent_usd - with_fee) <= provider.meter.calls * NANO
    assert with_fee <= CAP
    assert 17 <= provider.meter.calls == sum(answer is not None for answer in answers)

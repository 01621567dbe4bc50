"""The promise at the server's meter: 200 calls attempted, a cap for 20, real SDKs over loopback.

A prompt of 425 ASCII characters is billed as 100 tokens, and the output limit of 400 is used in full.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import pytest

from llm_connect import (
    BudgetTracker,
    GeminiAdapter,
    LLMAdapter,
    LLMResponse,
    OpenAIAdapter,
    OpenRouterAdapter,
    RunConfig,
)
from llm_connect.testing import Behaviour, EmbeddedProvider
from tests.e2e.attempts import ATTEMPTS, CALLS, PROMPT, aattempt, attempt, in_threads

TOKENS_A_CALL = 500
CAP = CALLS * TOKENS_A_CALL

Make = Callable[[EmbeddedProvider], LLMAdapter]
ADAPTERS: dict[str, Make] = {
    "openai": lambda provider: OpenAIAdapter(api_key="any-key", base_url=provider.openai_url),
    "gemini": lambda provider: GeminiAdapter(api_key="any-key", base_url=provider.gemini_url),
    "openrouter": lambda provider: OpenRouterAdapter(api_key="any-key", base_url=provider.openrouter_url),
}


@pytest.fixture
def provider() -> Iterator[EmbeddedProvider]:
    with EmbeddedProvider(reply_tokens="limit") as provider:
        provider.script(Behaviour(delay=0.02))
        yield provider


@pytest.fixture(params=ADAPTERS)
def adapter(request: pytest.FixtureRequest, provider: EmbeddedProvider) -> Iterator[LLMAdapter]:
    with ADAPTERS[request.param](provider) as adapter:  # type: ignore[attr-defined]
        yield adapter


def judge(provider: EmbeddedProvider, tracker: BudgetTracker, answers: list[LLMResponse | None]) -> None:
    """At the server: never above the cap and at least 19 calls through; no answer lost; the books are the bill."""
    through = [answer for answer in answers if answer is not None]
    assert len(answers) == ATTEMPTS
    assert provider.meter.total_tokens <= CAP
    assert 19 <= provider.meter.calls <= CALLS
    assert len(through) == provider.meter.calls
    assert tracker.spent == provider.meter.total_tokens == sum(answer.usage.total_tokens for answer in through)
    assert tracker.held == 0
    assert sum(entry.amount.tokens for entry in tracker.ledger) == tracker.spent


def test_one_after_the_other(provider: EmbeddedProvider, adapter: LLMAdapter) -> None:
    """200 calls in a loop stay under a token cap for 20: nothing waits, and what cannot fit is refused. (BUDGET-1)"""
    tracker = BudgetTracker(total=CAP)
    config = RunConfig(budget_tracker=tracker, max_tokens=400)
    judge(provider, tracker, [attempt(adapter, config) for _ in range(ATTEMPTS)])


async def test_one_gather(provider: EmbeddedProvider, adapter: LLMAdapter) -> None:
    """200 calls in one gather stay under a token cap for 20, and at least 19 get through. (BUDGET-1)"""
    tracker = BudgetTracker(total=CAP)
    config = RunConfig(budget_tracker=tracker, max_tokens=400)
    judge(provider, tracker, await asyncio.gather(*(aattempt(adapter, config) for _ in range(ATTEMPTS))))


def test_threads(provider: EmbeddedProvider, adapter: LLMAdapter) -> None:
    """32 threads with 200 calls between them stay under a token cap for 20. (BUDGET-1)"""
    tracker = BudgetTracker(total=CAP)
    config = RunConfig(budget_tracker=tracker, max_tokens=400)
    judge(provider, tracker, in_threads(lambda _: attempt(adapter, config)))


async def test_chain_with_child_ceilings(provider: EmbeddedProvider) -> None:
    """A -> B -> C over three providers: the cap and the ceilings of both children hold at the server. (BUDGET-4)"""
    tracker = BudgetTracker(total=CAP)
    config_a = RunConfig(budget_tracker=tracker, max_tokens=400)
    config_b = config_a.delegate("b", total=6_000, max_tokens=400)
    config_c = config_b.delegate("c", total=3_000, max_tokens=400)
    async with (
        OpenAIAdapter(api_key="any-key", base_url=provider.openai_url) as a,
        GeminiAdapter(api_key="any-key", base_url=provider.gemini_url) as b,
        OpenRouterAdapter(api_key="any-key", base_url=provider.openrouter_url) as c,
    ):
        shares = ((a, config_a, 80), (b, config_b, 60), (c, config_c, 60))
        calls = [aattempt(adapter, config) for adapter, config, number in shares for _ in range(number)]
        answers = await asyncio.gather(*calls)
    judge(provider, tracker, list(answers))
    child_b, child_c = config_b.budget_tracker, config_c.budget_tracker
    assert child_b is not None
    assert child_c is not None
    assert child_c.spent <= 3_000
    assert child_b.spent <= 6_000
    assert child_c.spent == TOKENS_A_CALL * sum(r.wire_format == "openrouter" for r in provider.requests)
    assert child_b.spent == child_c.spent + TOKENS_A_CALL * sum(
        r.wire_format == "generate_content" for r in provider.requests
    )
    assert child_b.held == child_c.held == 0


async def test_cap_on_calls(provider: EmbeddedProvider, adapter: LLMAdapter) -> None:
    """A cap of 20 calls lets exactly 20 of 200 through. (BUDGET-1)"""
    tracker = BudgetTracker(total_calls=CALLS)
    config = RunConfig(budget_tracker=tracker, max_tokens=400)
    answers = await asyncio.gather(*(aattempt(adapter, config) for _ in range(ATTEMPTS)))
    assert provider.meter.calls == tracker.spent_calls == sum(answer is not None for answer in answers) == CALLS
    assert tracker.held_calls == 0


async def test_every_call_cancelled_in_flight(provider: EmbeddedProvider, adapter: LLMAdapter) -> None:
    """Calls that are cancelled after dispatch count as spent, so the cap holds at the server. (BUDGET-1)"""
    provider.script(Behaviour(stall="before_headers"))
    tracker = BudgetTracker(total=CAP)
    config = RunConfig(budget_tracker=tracker, max_tokens=400)
    for turn in range(4):
        tasks = [asyncio.create_task(aattempt(adapter, config)) for _ in range(ATTEMPTS // 4)]
        if turn == 0:
            # The first calls import the SDK, and are not to be cancelled before any of them has arrived.
            await asyncio.to_thread(provider.wait_for_requests, 1, timeout=20)
        await asyncio.sleep(0.3)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert provider.meter.calls > 0
    assert provider.meter.total_tokens <= tracker.spent <= CAP
    assert tracker.held == 0
    assert {entry.outcome for entry in tracker.ledger} <= {"presumed", "released"}


async def test_limit_ignored_by_the_provider(provider: EmbeddedProvider, adapter: LLMAdapter) -> None:
    """An overrun is booked to the token, answers are kept, and only what was in flight passes the cap. (BUDGET-41)"""
    provider.script(Behaviour(ignore_limit=1.5))
    tracker = BudgetTracker(total=CAP)
    config = RunConfig(budget_tracker=tracker, max_tokens=400)
    in_flight = tracker.fits(adapter, PROMPT, config)
    assert in_flight is not None
    answers = await asyncio.gather(*(aattempt(adapter, config) for _ in range(ATTEMPTS)))
    assert tracker.spent == provider.meter.total_tokens
    assert sum(answer is not None for answer in answers) == provider.meter.calls
    assert provider.meter.total_tokens <= CAP + in_flight * (600 - 400)
    assert tracker.held == 0


async def test_no_output_limit_given(provider: EmbeddedProvider, adapter: LLMAdapter) -> None:
    """Without `max_tokens` the limit that is held is the limit that is sent."""
    tracker = BudgetTracker(total=CAP)
    config = RunConfig(budget_tracker=tracker)
    await asyncio.gather(*(aattempt(adapter, config) for _ in range(ATTEMPTS)))
    limits = [request.output_limit for request in provider.requests]
    assert limits
    assert all(limit is not None and 256 <= limit <= 2_000 for limit in limits)
    assert provider.meter.total_tokens == tracker.spent <= CAP
    assert tracker.held == 0


async def test_prompt_that_is_not_english(provider: EmbeddedProvider, adapter: LLMAdapter) -> None:
    """A prompt of which each character is a token of its own stays under the cap. (BUDGET-1)"""
    tracker = BudgetTracker(total=CAP)
    config = RunConfig(budget_tracker=tracker, max_tokens=40)
    with EmbeddedProvider(reply_tokens="limit", count_tokens=lambda text: len(text.encode())) as dear:
        async with type(adapter)(api_key="any-key", base_url=_same_url(dear, adapter)) as same:  # type: ignore[call-arg]
            prompt = "预算不能超出" * 20
            calls = (same.async_execute_prompt(prompt, config) for _ in range(ATTEMPTS))
            await asyncio.gather(*calls, return_exceptions=True)
        assert dear.meter.calls > 0
        assert dear.meter.total_tokens == tracker.spent <= CAP
    assert tracker.held == 0


def _same_url(provider: EmbeddedProvider, adapter: LLMAdapter) -> str:
    name = adapter.provider
    return {"openai": provider.openai_url, "gemini": provider.gemini_url}.get(name, provider.openrouter_url)

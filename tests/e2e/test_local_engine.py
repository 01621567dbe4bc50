"""A real language model behind three adapters: limits, usage, JSON and the budget are real, its text is babble.

llama.cpp speaks the formats of OpenAI and Anthropic, so the `claude` command runs on it as well. The engine is asked
for what it counts and cuts, never for what it means.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

from examples.chain.local_engine import MODEL, LocalEngine
from llm_connect import (
    BudgetTracker,
    ClaudeCodeAdapter,
    LLMAdapter,
    LLMAPIError,
    LLMBudgetNeverFitsError,
    LLMResponse,
    OpenAIAdapter,
    OpenRouterAdapter,
    RunConfig,
)
from tests.providers.claude_binary import find_claude, needs_claude

pytestmark = pytest.mark.xdist_group("engine")

KEY = "key-0123456789"
#: A list that the model goes on with, whatever comes of it.
ENDLESS = "one, two, three, four, five, six, seven, eight, nine, ten, "
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 6},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}
PROMPTS = {
    "English": "The quick brown fox jumps over the lazy dog, and the budget is not exceeded.",
    "Chinese": "预算不能超出。敏捷的棕色狐狸跳过了懒狗。",
    "emoji": "😀🚀👩‍👩‍👧‍👦🏳️‍🌈🤷🏽‍♀️",
    "code": "def f(x: int) -> list[int]:\n    return [x ** i for i in range(10)]  # !@#$%\n",
}
ADAPTERS = ["openai", "openrouter", pytest.param("claude-code", marks=needs_claude)]


@pytest.fixture(params=ADAPTERS)
def adapter(request: pytest.FixtureRequest, engine: LocalEngine) -> Iterator[LLMAdapter]:
    """Each adapter whose format the engine speaks, in turn."""
    with adapter_of(request.param, engine) as made:  # type: ignore[attr-defined]
        yield made


def adapter_of(name: str, engine: LocalEngine) -> LLMAdapter:
    if name == "openai":
        return OpenAIAdapter(model=MODEL, api_key=KEY, base_url=engine.openai_url)
    if name == "openrouter":
        return OpenRouterAdapter(model=MODEL, api_key=KEY, base_url=engine.openai_url)
    return ClaudeCodeAdapter(model=MODEL, api_key=KEY, base_url=engine.url, cli_path=find_claude())


def judge(tracker: BudgetTracker, responses: list[LLMResponse]) -> None:
    """Every answer is in the books, to the token, and nothing is held any more."""
    for response in responses:
        usage = response.usage
        assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
        assert (usage.estimated, usage.prompt_tokens > 0) == (False, True)
    assert tracker.spent == sum(response.usage.total_tokens for response in responses)
    assert [entry.outcome for entry in tracker.ledger] == ["settled"] * len(responses)
    assert (tracker.held, tracker.held_calls) == (0, 0)


async def test_output_limits_hold_exactly(adapter: LLMAdapter) -> None:
    """A model that would go on is cut at 1, 5 and 20 tokens, and each of them is billed. (BUDGET-1)"""
    tracker = BudgetTracker(total=10_000)
    limits = (1, 5, 20)
    configs = (RunConfig(max_tokens=limit, budget_tracker=tracker, max_retries=0) for limit in limits)
    responses = await asyncio.gather(*(adapter.async_execute_prompt(ENDLESS, config) for config in configs))
    assert [response.usage.completion_tokens for response in responses] == list(limits)
    assert [response.finish_reason for response in responses] == ["length"] * 3
    judge(tracker, responses)


async def test_the_bound_of_a_prompt_is_one(adapter: LLMAdapter) -> None:
    """Whatever the text, a real tokenizer counts no more than the bound of its prompt, and the hold covers the bill."""
    tracker = BudgetTracker(total=10_000)
    configs = {
        prompt: RunConfig(max_tokens=1, system_prompt=prompt, budget_tracker=tracker, max_retries=0)
        for prompt in PROMPTS.values()
    }
    calls = (adapter.async_execute_prompt(prompt, config) for prompt, config in configs.items())
    responses = await asyncio.gather(*calls)
    for response, (prompt, config) in zip(responses, configs.items(), strict=True):
        assert response.usage.prompt_tokens <= adapter.bound(prompt, config).prompt_tokens
    assert all(entry.amount.tokens <= entry.bound.tokens for entry in tracker.ledger)
    judge(tracker, responses)


@pytest.mark.parametrize("name", ["openai", "openrouter"])
def test_a_json_schema_is_obeyed(engine: LocalEngine, name: str) -> None:
    """The answer by a schema is JSON with its fields, within their limits. (WIRE-4)"""
    tracker = BudgetTracker(total=10_000)
    params = {"json_schema": SCHEMA}
    config = RunConfig(max_tokens=400, temperature=0, model_params=params, budget_tracker=tracker, max_retries=0)
    with adapter_of(name, engine) as adapter:  # type: ignore[attr-defined]
        response = adapter.execute_prompt(
            'Ann is 5 years old, which as JSON is {"name":"Ann","age":5}. Bob is 7 years old, which as JSON is:', config
        )
    value = json.loads(response.content)
    assert value.keys() == {"name", "age"}
    assert len(value["name"]) <= 6
    assert 0 <= value["age"] <= 120
    assert response.finish_reason == "stop"
    judge(tracker, [response])


async def test_ten_calls_at_once_under_one_cap(adapter: LLMAdapter) -> None:
    """Ten calls share a cap for six, of which four fit at a time: six answer, the others are refused. (BUDGET-1)"""
    bound = adapter.bound(ENDLESS, RunConfig(max_tokens=4)).total_tokens
    tracker = BudgetTracker(total=4 * bound, total_calls=6)
    config = RunConfig(max_tokens=4, budget_tracker=tracker, timeout_seconds=250)
    calls = (adapter.async_execute_prompt(ENDLESS, config) for _ in range(10))
    results = await asyncio.gather(*calls, return_exceptions=True)
    answers = [result for result in results if isinstance(result, LLMResponse)]
    assert [type(result) for result in results if result not in answers] == [LLMBudgetNeverFitsError] * 4
    assert {answer.usage.completion_tokens for answer in answers} == {4}
    assert tracker.spent <= 4 * bound
    judge(tracker, answers)


def test_a_prompt_beyond_the_context_is_refused_by_the_engine(adapter: LLMAdapter) -> None:
    """It is an API error that says so, after one request, and costs nothing."""
    tracker = BudgetTracker(total=100_000)
    config = RunConfig(max_tokens=4, budget_tracker=tracker, max_retries=2)
    with pytest.raises(LLMAPIError, match="exceeds the available context size") as caught:
        adapter.execute_prompt("word " * 9_000, config)
    assert type(caught.value) is LLMAPIError
    assert (caught.value.status_code, caught.value.attempts, caught.value.maybe_billed) == (400, 1, False)
    assert [entry.outcome for entry in tracker.ledger] == ["released"]
    assert (tracker.spent, tracker.held) == (0, 0)


@needs_claude
async def test_three_adapters_share_one_cap(engine: LocalEngine) -> None:
    """Three formats at one real model and under one tracker: the parts come to the whole."""
    tracker = BudgetTracker(total=20_000)
    config = RunConfig(max_tokens=6, budget_tracker=tracker, max_retries=0)
    made = [adapter_of(name, engine) for name in ("openai", "openrouter", "claude-code")]
    responses = await asyncio.gather(*(adapter.async_execute_prompt(ENDLESS, config) for adapter in made))
    judge(tracker, list(responses))
    assert {entry.adapter for entry in tracker.ledger} == {"openai", "openrouter", "claude-code"}
    for adapter in made:
        await adapter.aclose()  # type: ignore[attr-defined]

"""Which output limit goes over the wire, and what an answer says that it has cut."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable
from itertools import permutations
from typing import Any

import pytest

from llm_connect import (
    BudgetTracker,
    ClaudeCodeAdapter,
    GeminiAdapter,
    LLMAdapter,
    LLMResponse,
    OpenAIAdapter,
    OpenRouterAdapter,
    RunConfig,
)
from llm_connect.testing import Behaviour, EmbeddedProvider
from tests.budget.budget_helpers import learned

SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
ADAPTERS: dict[str, Callable[[str], LLMAdapter]] = {
    "chat": lambda url: OpenAIAdapter(model="gpt-4.1-mini", api_key="k" * 20, base_url=f"{url}/v1"),
    "responses": lambda url: OpenAIAdapter(
        model="gpt-4.1-mini", api_key="k" * 20, base_url=f"{url}/v1", api="responses"
    ),
    "gemini": lambda url: GeminiAdapter(model="gemini-2.5-flash", api_key="k" * 20, base_url=url),
    "openrouter": lambda url: OpenRouterAdapter(
        model="openai/gpt-4.1-mini", api_key="k" * 20, base_url=f"{url}/api/v1"
    ),
}


def sync(adapter: LLMAdapter, config: RunConfig) -> LLMResponse:
    return adapter.execute_prompt("Tell a story.", config)


def in_loop(adapter: LLMAdapter, config: RunConfig) -> LLMResponse:
    async def ask() -> LLMResponse:
        response = await adapter.async_execute_prompt("Tell a story.", config)
        await adapter.aclose()  # type: ignore[attr-defined]
        return response

    return asyncio.run(ask())


def streamed(adapter: LLMAdapter, config: RunConfig) -> LLMResponse:
    with adapter.stream_prompt("Tell a story.", config) as stream:
        list(stream)
    return stream.response


def streamed_in_loop(adapter: LLMAdapter, config: RunConfig) -> LLMResponse:
    async def ask() -> LLMResponse:
        async with adapter.async_stream_prompt("Tell a story.", config) as stream:
            _ = [chunk async for chunk in stream]
        await adapter.aclose()  # type: ignore[attr-defined]
        return stream.response

    return asyncio.run(ask())


#: A budget, and the fields of a config. The output limit is that of the call, none, the adapter's, or what is free.
BUDGETS: list[tuple[Callable[[], BudgetTracker | None], dict[str, Any]]] = [
    (lambda: None, {"max_tokens": 70}),
    (BudgetTracker, {}),
    (lambda: BudgetTracker(100_000), {"max_tokens": 70}),
    (lambda: BudgetTracker(100_000), {}),
    (lambda: BudgetTracker(1_000), {}),
]


@pytest.mark.parametrize("how", [sync, in_loop, streamed, streamed_in_loop])
@pytest.mark.parametrize("name", ADAPTERS)
def test_a_call_renders_its_request_once(name: str, how: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """For its bound, its sending and its retries; the output limit of the hold is set on that request. (CALL-49)"""
    with EmbeddedProvider() as provider, ADAPTERS[name](provider.url) as adapter:  # type: ignore[attr-defined]
        render, rendered = adapter.render, []

        def noted(*arguments: Any) -> Any:
            rendered.append(arguments)
            return render(*arguments)

        monkeypatch.setattr(adapter, "render", noted)
        for make, fields in BUDGETS:
            tracker = make()
            rendered.clear()
            provider.script(Behaviour(status=429, retry_after=0), times=1)
            assert how(adapter, RunConfig(budget_tracker=tracker, **fields)).metadata["attempts"] == 2
            assert len(rendered) == 1
            if tracker is not None and tracker.total is not None:
                hold = list(tracker.ledger)[-1].bound.tokens
                prompt = adapter.bound("Tell a story.", RunConfig(max_tokens=70)).prompt_tokens
                assert provider.requests[-1].output_limit == hold - prompt


@pytest.mark.parametrize("name", [*ADAPTERS, "claude"])
@pytest.mark.parametrize("fields", [{}, {"system_prompt": "Be brief.", "model_params": {"json_schema": SCHEMA}}])
def test_another_output_limit_makes_the_request_that_it_would_have_rendered(name: str, fields: dict[str, Any]) -> None:
    """In every format, with a limit and without one. (CALL-49)"""
    adapter: Any = {**ADAPTERS, "claude": lambda _: ClaudeCodeAdapter(api_key="k" * 20, cli_path=sys.executable)}[name](
        "http://127.0.0.1:9"
    )
    config = RunConfig(**fields)
    for before, after in permutations((None, 5, 700), 2):
        expected = adapter.render("Tell a story.", config, after)
        request = adapter.render("Tell a story.", config, before)
        assert adapter.limited(request, after) == expected
        assert request == adapter.render("Tell a story.", config, before)


@pytest.mark.parametrize("how", [sync, in_loop, streamed, streamed_in_loop])
@pytest.mark.parametrize("name", ADAPTERS)
def test_a_budget_without_limits_sends_no_output_limit(name: str, how: Any) -> None:
    """Nor does one that limits calls alone; one in tokens or USD does, on the tracker or above it. (BUDGET-8)"""
    with EmbeddedProvider() as provider, ADAPTERS[name](provider.url) as adapter:  # type: ignore[attr-defined]
        for tracker, sent in (
            (BudgetTracker(), None),
            (BudgetTracker(total_calls=5).child("c", total_calls=3), None),
            (BudgetTracker(total=100_000).child("c"), 2_000),
        ):
            response = how(adapter, RunConfig(budget_tracker=tracker))
            assert provider.requests[-1].output_limit == sent
            (entry,) = tracker.ledger
            assert (entry.grade == "unbounded") is (sent is None)
            assert learned(tracker) == {}
            assert tracker.spent == response.usage.total_tokens > 0
            assert tracker.held == 0


@pytest.mark.parametrize("how", [sync, in_loop, streamed, streamed_in_loop])
@pytest.mark.parametrize("name", ADAPTERS)
def test_an_answer_that_the_budget_has_cut_says_so(name: str, how: Any, caplog: pytest.LogCaptureFixture) -> None:
    """In `metadata` and in the log, once; one that the caller's own limit has cut does not. (BUDGET-8)"""
    caplog.set_level(logging.WARNING, "llm_connect")
    with EmbeddedProvider(reply_tokens=3_000) as provider, ADAPTERS[name](provider.url) as adapter:  # type: ignore[attr-defined]
        tracker = BudgetTracker(total=100_000, name="purse")
        own = how(adapter, RunConfig(budget_tracker=tracker, max_tokens=50))
        assert (own.finish_reason, own.metadata.get("hint")) == ("length", None)
        assert not caplog.records
        cut = how(adapter, RunConfig(budget_tracker=tracker))
        assert cut.finish_reason == "length"
        assert (
            "cut off at 2,000 tokens, the adapter's default under the limits of budget 'purse'" in cut.metadata["hint"]
        )
        small = BudgetTracker(total=1_500, name="small")
        cut = how(adapter, RunConfig(budget_tracker=small.child("c")))
        assert "the free budget under the limits of budget 'small/c'" in cut.metadata["hint"]
    said = [record.getMessage() for record in caplog.records]
    assert [line.count("The answer was cut") for line in said] == [1, 1]

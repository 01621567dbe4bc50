"""Streams at the server's meter: 200 at once under a cap for 20, and the real parts."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from examples.chain.local_engine import LocalEngine
from llm_connect import BudgetTracker, ClaudeCodeAdapter, LLMAdapter, LLMBudgetExceededError, LLMResponse, RunConfig
from llm_connect.testing import Behaviour, EmbeddedProvider
from tests.e2e import test_local_engine
from tests.e2e.test_cap_holds import ADAPTERS, ATTEMPTS, CALLS, CAP, PROMPT
from tests.providers.claude_binary import find_claude, needs_claude

LEAST_THROUGH = 18


@pytest.fixture
def provider() -> Iterator[EmbeddedProvider]:
    """A provider whose streams take a while."""
    with EmbeddedProvider(reply_tokens="limit") as provider:
        provider.script(Behaviour(delay=0.02, chunk_delay=0.0001))
        yield provider


@pytest.fixture(params=ADAPTERS)
def adapter(request: pytest.FixtureRequest, provider: EmbeddedProvider) -> Iterator[LLMAdapter]:
    with ADAPTERS[request.param](provider) as adapter:  # type: ignore[attr-defined]
        yield adapter


def judge(provider: EmbeddedProvider, tracker: BudgetTracker, responses: list[LLMResponse | None]) -> None:
    """At the server: never above the cap and at least 18 streams through; the books are the bill."""
    through = [response for response in responses if response is not None]
    assert len(responses) == ATTEMPTS
    assert provider.meter.total_tokens <= CAP
    assert LEAST_THROUGH <= provider.meter.calls <= CALLS
    assert len(through) == provider.meter.calls
    assert tracker.spent == provider.meter.total_tokens == sum(one.usage.total_tokens for one in through)
    assert tracker.held == 0


def attempt(adapter: LLMAdapter, config: RunConfig) -> LLMResponse | None:
    try:
        with adapter.stream_prompt(PROMPT, config) as stream:
            assert "".join(chunk.text for chunk in stream) == stream.response.content
    except LLMBudgetExceededError:
        return None
    return stream.response


async def aattempt(adapter: LLMAdapter, config: RunConfig) -> LLMResponse | None:
    try:
        async with adapter.async_stream_prompt(PROMPT, config) as stream:
            assert "".join([chunk.text async for chunk in stream]) == stream.response.content
    except LLMBudgetExceededError:
        return None
    return stream.response


async def test_200_streams_in_one_gather(provider: EmbeddedProvider, adapter: LLMAdapter) -> None:
    """They stay under a token cap for 20 calls, and at least 18 get through. (BUDGET-1, STREAM-2)"""
    tracker = BudgetTracker(total=CAP)
    config = RunConfig(budget_tracker=tracker, max_tokens=400, timeout_seconds=60)
    judge(provider, tracker, await asyncio.gather(*(aattempt(adapter, config) for _ in range(ATTEMPTS))))


def test_200_streams_of_32_threads(provider: EmbeddedProvider, adapter: LLMAdapter) -> None:
    """Likewise in threads. (BUDGET-1, STREAM-2)"""
    tracker = BudgetTracker(total=CAP)
    config = RunConfig(budget_tracker=tracker, max_tokens=400, timeout_seconds=60)
    responses: list[LLMResponse | None] = []
    turns = iter(range(ATTEMPTS))

    def work() -> None:
        while next(turns, None) is not None:
            responses.append(attempt(adapter, config))

    threads = [threading.Thread(target=work) for _ in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    judge(provider, tracker, responses)


def wait_until_alone(provider: EmbeddedProvider) -> None:
    until = time.monotonic() + 5
    while provider.connections:
        assert time.monotonic() < until
        time.sleep(0.005)


@needs_claude
@pytest.mark.parametrize("form", ["sync", "async"])
def test_the_real_command_streams(form: str) -> None:
    """Its text is that of the whole reply, and one that is left early has no process, no connection, and its bound in
    the books. (STREAM-1, STREAM-4, STREAM-6)
    """
    tracker = BudgetTracker(100_000)
    config = RunConfig(budget_tracker=tracker, max_tokens=60)
    with EmbeddedProvider() as provider:
        model = "claude-haiku-4-5-20251001"
        adapter = ClaudeCodeAdapter(
            model=model, api_key="key-0123456789", base_url=provider.anthropic_url, cli_path=find_claude()
        )
        whole = adapter.execute_prompt(PROMPT, config)
        run = attempt if form == "sync" else lambda *arguments: asyncio.run(aattempt(*arguments))
        given = run(adapter, config)
        assert given is not None
        shown = (given.content, given.usage.completion_tokens, given.finish_reason)
        assert shown == (whole.content, whole.usage.completion_tokens, whole.finish_reason)
        provider.script(Behaviour(stall="in_stream", pieces=2))
        text = left(adapter, config) if form == "sync" else asyncio.run(aleft(adapter, config))
        assert text
        assert whole.content.startswith(text)
        wait_until_alone(provider)
        assert [entry.outcome for entry in tracker.ledger] == ["settled", "settled", "presumed"]
        assert tracker.held == 0
        assert tracker.spent >= provider.meter.total_tokens


def left(adapter: LLMAdapter, config: RunConfig) -> str:
    with adapter.stream_prompt(PROMPT, config) as stream:
        next(stream)
    return stream.text


async def aleft(adapter: LLMAdapter, config: RunConfig) -> str:
    async with adapter.async_stream_prompt(PROMPT, config) as stream:
        await anext(stream)
    return stream.text


def texts_of(adapter: LLMAdapter, config: RunConfig, form: str) -> tuple[list[str], LLMResponse]:
    """The texts of a stream of the local model, and its response."""

    async def main() -> tuple[list[str], LLMResponse]:
        async with adapter.async_stream_prompt(test_local_engine.ENDLESS, config) as stream:
            return [chunk.text async for chunk in stream], stream.response

    if form == "async":
        return asyncio.run(main())
    with adapter.stream_prompt(test_local_engine.ENDLESS, config) as stream:
        return [chunk.text for chunk in stream], stream.response


@pytest.mark.xdist_group("engine")
@pytest.mark.parametrize("form", ["sync", "async"])
@pytest.mark.parametrize("name", test_local_engine.ADAPTERS)
def test_a_local_model_streams(engine: LocalEngine, name: str, form: str) -> None:
    """A real engine's stream has the text of its response, and settles by the engine's own figures; where the model
    leaves nothing to chance, that is the text of a call. (STREAM-1, STREAM-5)
    """
    tracker, chance = BudgetTracker(100_000), name == "claude-code"
    adapter = test_local_engine.adapter_of(name, engine)
    config = RunConfig(max_tokens=20, temperature=None if chance else 0)
    texts, response = texts_of(adapter, replace(config, budget_tracker=tracker), form)
    assert "".join(texts) == response.content
    assert (response.finish_reason, response.usage.completion_tokens) == ("length", 20)
    assert len(texts) > 3
    assert [entry.outcome for entry in tracker.ledger] == ["settled"]
    assert tracker.spent == response.usage.total_tokens
    if not chance:
        assert response.content == adapter.execute_prompt(test_local_engine.ENDLESS, config).content

"""Streams whose hold grows with them, each with a real SDK or client against a provider on loopback."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from llm_connect import (
    BudgetTracker,
    ClaudeCodeAdapter,
    FinishChunk,
    LLMAdapter,
    LLMBudgetExceededError,
    RunConfig,
    StreamChunk,
)
from llm_connect.testing import Behaviour, EmbeddedProvider
from tests.adapters.claude_binary import find_claude, needs_claude
from tests.adapters.conftest import WIRINGS, Make
from tests.adapters.test_streams_left import sockets_to, wait_until_alone

PROMPT = "The quick brown fox jumps over 13 lazy dogs."
LIMIT = 400

each_format = pytest.mark.parametrize("wiring", WIRINGS, indirect=True)


@pytest.fixture
def provider() -> Iterator[EmbeddedProvider]:
    """A provider that uses the output limit in full, chunk by chunk."""
    with EmbeddedProvider(reply_tokens="limit") as provider:
        provider.script(Behaviour(chunk_delay=0.0005))
        yield provider


def config_of(tracker: BudgetTracker, **fields: Any) -> RunConfig:
    growing = {"stream_hold": "grow", "clamp_floor": 50, "max_tokens": LIMIT, "timeout_seconds": 60}
    return RunConfig(**{"budget_tracker": tracker, **growing, **fields})


def read(adapter: LLMAdapter, config: RunConfig, form: str) -> tuple[Any, list[StreamChunk]]:
    """A stream, and its chunks."""

    async def main() -> tuple[Any, list[StreamChunk]]:
        async with adapter.async_stream_prompt(PROMPT, config) as stream:
            return stream, [chunk async for chunk in stream]

    if form == "async":
        return asyncio.run(main())
    with adapter.stream_prompt(PROMPT, config) as stream:
        return stream, list(stream)


@each_format
@pytest.mark.parametrize("form", ["sync", "async"])
def test_at_the_edge_the_wire_is_closed(make: Make, provider: EmbeddedProvider, form: str) -> None:
    """The provider is left in the middle of its answer, whose text is within what was held; the output limit was sent.

    (STREAM-12, STREAM-13)
    """
    adapter = make()
    prompt_bound = adapter.bound(PROMPT, RunConfig()).prompt_tokens
    tracker = BudgetTracker(prompt_bound + 300)
    stream, chunks = read(adapter, config_of(tracker), form)
    wait_until_alone(provider)
    assert chunks[-1] == FinishChunk("budget")
    assert stream.response.finish_reason == "budget"
    assert 200 < len(stream.text.encode()) <= 300
    assert stream.text == "".join(chunk.text for chunk in chunks) == stream.response.content
    (entry,) = tracker.ledger
    assert (entry.outcome, entry.amount, entry.grade) == ("presumed", entry.bound, "estimated")
    assert (tracker.held, tracker.spent) == (0, entry.bound.tokens)
    assert [request.output_limit for request in provider.requests] == [LIMIT]
    if form == "sync":
        assert sockets_to(provider) == []


@each_format
@pytest.mark.parametrize("form", ["sync", "async"])
def test_with_room_it_is_the_whole_answer(make: Make, provider: EmbeddedProvider, form: str) -> None:
    """Text, figures and books are those of a call. (STREAM-1, STREAM-12)"""
    adapter, tracker = make(), BudgetTracker(100_000)
    whole = adapter.execute_prompt(PROMPT, RunConfig(max_tokens=LIMIT))
    stream, _ = read(adapter, config_of(tracker), form)
    assert (stream.text, stream.response.usage) == (whole.content, whole.usage)
    assert tracker.spent == whole.usage.total_tokens
    (entry,) = tracker.ledger
    assert entry.bound.tokens == adapter.bound(PROMPT, config_of(tracker)).total_tokens


async def test_200_at_once_never_hold_more_than_the_cap(make: Make, provider: EmbeddedProvider) -> None:
    """Read to the end, at the edge, broken, cancelled or refused: what is held and spent stays within the cap, but for
    what the provider bills beyond the text; nothing is held in the end, and no answer goes beyond its bound.

    (STREAM-12, STREAM-13, BUDGET-1)
    """
    adapter = make()
    bound = adapter.bound(PROMPT, RunConfig(max_tokens=LIMIT))
    cap = 40 * (bound.prompt_tokens + 100)
    tracker, texts, over = BudgetTracker(cap), list[str](), threading.Event()
    ends, wrong = Counter[str](), list[str]()

    def watch() -> None:
        while not over.wait(0.001):
            now = tracker.snapshot()
            if now.held.tokens and now.spent.tokens + now.held.tokens > cap and not now.breached:
                wrong.append(str(now))

    async def one(number: int) -> None:
        try:
            async with adapter.async_stream_prompt(PROMPT, config_of(tracker)) as stream:
                async for _ in stream:
                    if number % 4 == 1 and len(stream.text) > 100:
                        break
        except LLMBudgetExceededError:
            ends["refused"] += 1
        else:
            ends[stream.response.finish_reason] += 1
            texts.append(stream.text)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    async with adapter:
        tasks = [asyncio.create_task(one(number)) for number in range(200)]
        await asyncio.to_thread(provider.wait_for_requests, 20)
        for task in tasks[::7]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    over.set()
    watcher.join()
    assert wrong == []
    assert (tracker.held, tracker.held_calls, tracker.snapshot().waiting) == (0, 0, 0)
    assert sum(entry.amount.tokens for entry in tracker.ledger) == tracker.spent
    assert ends["budget"] > 0
    assert sum(len(text.encode()) for text in texts) <= cap
    assert provider.meter.total_tokens <= provider.meter.calls * bound.total_tokens


@needs_claude
@pytest.mark.parametrize("form", ["sync", "async"])
def test_the_real_command_ends_at_the_edge(form: str) -> None:
    """Its request is left, and nothing runs on. (STREAM-12)"""
    with EmbeddedProvider(reply_tokens="limit") as provider:
        provider.script(Behaviour(chunk_delay=0.01))
        adapter = ClaudeCodeAdapter(
            model="claude-haiku-4-5-20251001",
            api_key="key-0123456789",
            base_url=provider.anthropic_url,
            cli_path=find_claude(),
        )
        tracker = BudgetTracker(adapter.bound(PROMPT, RunConfig()).prompt_tokens + 300)
        stream, chunks = read(adapter, config_of(tracker), form)
        assert chunks[-1] == FinishChunk("budget")
        assert len(stream.text.encode()) <= 300
        wait_until_alone(provider)
        assert [entry.outcome for entry in tracker.ledger] == ["presumed"]
        assert tracker.held == 0
        assert provider.meter.calls == 1

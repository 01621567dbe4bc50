"""Streams that adapters define as generators of texts and finally a response."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncGenerator, Generator
from itertools import islice
from typing import Any

import pytest

from llm_connect import (
    AsyncLLMStream,
    BudgetTracker,
    FinishChunk,
    LLMAdapter,
    LLMConnectionError,
    LLMResponse,
    LLMStream,
    RunConfig,
    TextChunk,
    Usage,
    UsageChunk,
)
from tests.budget.budget_helpers import until

USAGE = Usage(prompt_tokens=4, completion_tokens=3)
WHOLE = LLMResponse(content="one two", model="m", usage=USAGE)


class Written(LLMAdapter):
    """An adapter that yields these pieces, and remembers how it was left."""

    def __init__(self, *pieces: str | LLMResponse) -> None:
        self.pieces = pieces
        self.left: list[str] = []
        self.begun = 0

    def execute_prompt(self, prompt: str, config: RunConfig | None = None) -> LLMResponse:
        return WHOLE

    def stream_prompt(self, prompt: str, config: RunConfig | None = None) -> LLMStream:
        return LLMStream.of(self.given())

    def async_stream_prompt(self, prompt: str, config: RunConfig | None = None) -> AsyncLLMStream:
        return AsyncLLMStream.of(self.agiven())

    def given(self) -> Generator[str | LLMResponse]:
        self.begun += 1
        try:
            yield from self.pieces
        finally:
            self.left.append("closed")

    async def agiven(self) -> AsyncGenerator[str | LLMResponse]:
        self.begun += 1
        try:
            for piece in self.pieces:
                await asyncio.sleep(0)
                yield piece
        finally:
            await asyncio.sleep(0)
            self.left.append("closed")


def take_sync(adapter: LLMAdapter, config: RunConfig | None = None, count: int = 99) -> Any:
    with adapter.stream_prompt("hello", config) as stream:
        return stream, list(islice(stream, count))


def take_async(adapter: LLMAdapter, config: RunConfig | None = None, count: int = 99) -> Any:
    async def main() -> Any:
        async with adapter.async_stream_prompt("hello", config) as stream:
            return stream, [chunk async for chunk in first(stream, count)]

    return asyncio.run(main())


async def first(stream: AsyncLLMStream, count: int) -> AsyncGenerator[Any]:
    async for chunk in stream:
        yield chunk
        count -= 1
        if not count:
            return


@pytest.fixture(params=[take_sync, take_async], ids=["sync", "async"])
def take(request: pytest.FixtureRequest) -> Any:
    """Read a stream in both forms."""
    return request.param


def test_its_texts_and_its_response_are_chunks(take: Any) -> None:
    """Usage and finish reason come from the response, and an empty text makes no chunk. (STREAM-11)"""
    stream, chunks = take(Written("one", "", " two", WHOLE))
    assert chunks == [TextChunk("one"), TextChunk(" two"), UsageChunk(USAGE), FinishChunk("stop")]
    assert (stream.text, stream.response) == ("one two", WHOLE)


def test_what_its_response_has_more_is_a_text(take: Any) -> None:
    """Text that was not yielded before comes with the response. (STREAM-1, STREAM-11)"""
    stream, chunks = take(Written("one", WHOLE))
    assert chunks[:2] == [TextChunk("one"), TextChunk(" two")]
    assert stream.text == stream.response.content


def test_it_is_metered(take: Any) -> None:
    """The response settles the hold. (STREAM-2, STREAM-11)"""
    tracker = BudgetTracker(5_000)
    take(Written("one", " two", WHOLE), RunConfig(budget_tracker=tracker))
    assert [(entry.outcome, entry.amount.tokens) for entry in tracker.ledger] == [("settled", 7)]


def test_it_is_closed_where_it_is_left(take: Any) -> None:
    """The generator is closed with the block, the response has the text so far, and the bound is booked. (STREAM-4,
    STREAM-6, STREAM-11)
    """
    tracker, adapter = BudgetTracker(5_000), Written("one", " two", WHOLE)
    stream, _ = take(adapter, RunConfig(budget_tracker=tracker, max_tokens=50), 1)
    assert adapter.left == ["closed"]
    response = stream.response
    assert (response.content, response.finish_reason, response.usage.estimated) == ("one", "unknown", True)
    assert [(entry.outcome, entry.amount.tokens) for entry in tracker.ledger] == [("presumed", 55)]
    assert tracker.held == 0


def test_it_begins_when_the_first_chunk_is_asked_for() -> None:
    """A stream that is never read never starts. (STREAM-3, STREAM-11)"""
    adapter = Written("one", WHOLE)
    with adapter.stream_prompt("hello") as stream:
        assert (stream.text, stream.response.content) == ("", "")
    assert adapter.begun == 0


def test_without_a_response_it_has_not_ended(take: Any) -> None:
    """A generator without a response raises an error, and the bound is booked. (STREAM-8, STREAM-11)"""
    tracker, adapter = BudgetTracker(5_000), Written("one")
    with pytest.raises(LLMConnectionError, match="ended before the answer did"):
        take(adapter, RunConfig(budget_tracker=tracker, max_tokens=50))
    assert [entry.outcome for entry in tracker.ledger] == ["presumed"]


def test_in_a_loop_that_is_gone_it_is_let_go() -> None:
    """In a closed loop nothing can be awaited. (STREAM-4)"""
    loop, tracker, adapter = asyncio.new_event_loop(), BudgetTracker(5_000), Written("one", WHOLE)
    stream = adapter.async_stream_prompt("hello", RunConfig(budget_tracker=tracker))
    loop.run_until_complete(anext(stream))
    loop.close()
    del stream
    assert tracker.held == 0
    AsyncLLMStream.of(adapter.agiven())._source.abandon()


def test_a_flow_that_is_garbage_ends_its_hold() -> None:
    """Nobody takes another step then: the bound is booked, and the inner stream closes once it is lost. (STREAM-4)"""
    tracker, adapter = BudgetTracker(5_000), Written("one", " two", WHOLE)
    stream: Any = adapter.stream_prompt("hello", RunConfig(budget_tracker=tracker, max_tokens=50))
    flow = stream._source._flow
    assert flow.send(next(flow).run()) == [TextChunk("one")]
    flow.close()
    (entry,) = tracker.ledger
    assert (entry.outcome, entry.amount, tracker.held) == ("presumed", entry.bound, 0)
    assert stream.text == "one"
    del stream, flow
    gc.collect()
    until(lambda: adapter.left == ["closed"])

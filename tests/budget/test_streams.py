"""Streams of adapters that define no stream, and of adapters that define their own."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncGenerator, Generator
from typing import Any

import pytest

from llm_connect import (
    AsyncLLMStream,
    BudgetTracker,
    ErrorLLMAdapter,
    FinishChunk,
    LLMAdapter,
    LLMAPIError,
    LLMBudgetExceededError,
    LLMConfigurationError,
    LLMError,
    LLMResponse,
    LLMStream,
    MockLLMAdapter,
    RunConfig,
    StreamChunk,
    TextChunk,
    Usage,
    UsageChunk,
    _forks,
)
from llm_connect.interface import streams
from llm_connect.types.chunks import chunks_of
from tests.budget.budget_helpers import auntil, until

USAGE = Usage(prompt_tokens=4, completion_tokens=3)
WHOLE = LLMResponse(content="one two", model="m", usage=USAGE)


class Words:
    """A source that yields a text word by word, and remembers how it was left."""

    def __init__(self, words: list[str], *, fails: BaseException | None = None) -> None:
        self.words, self.fails = words, fails
        self.given: list[str] = []
        self.closed = self.abandoned = 0

    def chunks(self) -> Generator[StreamChunk]:
        try:
            for word in self.words:
                self.given.append(word)
                yield TextChunk(word)
            if self.fails is not None:
                raise self.fails
            yield UsageChunk(USAGE)
            yield FinishChunk("stop")
        finally:
            self.closed += 1

    async def achunks(self) -> AsyncGenerator[StreamChunk]:
        chunks = self.chunks()
        try:
            for chunk in chunks:
                await asyncio.sleep(0)
                yield chunk
        finally:
            chunks.close()

    def abandon(self) -> None:
        self.abandoned += 1

    @property
    def text(self) -> str:
        return "".join(self.given)

    @property
    def response(self) -> LLMResponse:
        return LLMResponse(content=self.text, model="m", usage=USAGE)


class Streaming(LLMAdapter):
    """An adapter that defines its own streams and does not know about budgets."""

    def __init__(self, source: Words) -> None:
        self.source = source
        self.configs: list[RunConfig] = []

    def execute_prompt(self, prompt: str, config: RunConfig | None = None) -> LLMResponse:
        return WHOLE

    def stream_prompt(self, prompt: str, config: RunConfig | None = None) -> LLMStream:
        self.configs.append(config or RunConfig())
        return LLMStream(self.source)

    def async_stream_prompt(self, prompt: str, config: RunConfig | None = None) -> AsyncLLMStream:
        self.configs.append(config or RunConfig())
        return AsyncLLMStream(self.source)


def take_sync(adapter: LLMAdapter, config: RunConfig | None = None, count: int = 99) -> Any:
    chunks = []
    with adapter.stream_prompt("hello", config) as stream:
        for chunk in stream:
            chunks.append(chunk)
            if len(chunks) == count:
                break
    return stream, chunks


def take_async(adapter: LLMAdapter, config: RunConfig | None = None, count: int = 99) -> Any:
    async def main() -> Any:
        chunks = []
        async with adapter.async_stream_prompt("hello", config) as stream:
            async for chunk in stream:
                chunks.append(chunk)
                if len(chunks) == count:
                    break
        return stream, chunks

    return asyncio.run(main())


@pytest.fixture(params=[take_sync, take_async], ids=["sync", "async"])
def take(request: pytest.FixtureRequest) -> Any:
    """Read a stream in both forms."""
    return request.param


def test_an_adapter_without_a_stream_gives_its_reply_as_one_chunk(take: Any) -> None:
    """Text, usage and finish reason come from `execute_prompt`, and are metered like it. (STREAM-1)"""
    tracker = BudgetTracker(1_000)
    stream, chunks = take(MockLLMAdapter("four words are here"), RunConfig(budget_tracker=tracker, max_tokens=50))
    used = Usage(prompt_tokens=10, completion_tokens=10)
    assert chunks == [TextChunk("four words are here"), UsageChunk(used), FinishChunk("stop")]
    assert "".join(chunk.text for chunk in chunks) == stream.text == stream.response.content
    assert (tracker.spent, tracker.held) == (20, 0)


def test_an_empty_reply_has_no_text_chunk(take: Any) -> None:
    """A text chunk is never empty. (STREAM-1)"""
    _, chunks = take(MockLLMAdapter(""))
    assert [type(chunk) for chunk in chunks] == [UsageChunk, FinishChunk]


def test_an_adapters_error_is_that_of_its_stream(take: Any) -> None:
    """The error is raised when the first chunk is requested, not before. (STREAM-3)"""
    adapter = ErrorLLMAdapter(LLMAPIError("no", status_code=400))
    with pytest.raises(LLMAPIError):
        take(adapter)


def test_nothing_happens_before_the_first_chunk() -> None:
    """A stream that is never read sends nothing, and its response shows that. (STREAM-3)"""
    adapter = MockLLMAdapter()
    with adapter.stream_prompt("hello") as stream:
        nothing = Usage(prompt_tokens=0, completion_tokens=0, estimated=True)
        assert stream.text == ""
        assert stream.response == LLMResponse(content="", model="", usage=nothing, finish_reason="unknown")
        assert repr(stream) == "<LLMStream of 0 characters so far>"
    own = Streaming(Words(["a"]))
    with own.stream_prompt("hello") as stream:
        assert (stream.text, stream.response.content) == ("", "")
    assert (adapter.calls, own.configs) == ([], [])


def test_a_stream_that_an_adapter_writes_is_metered(take: Any) -> None:
    """An adapter cannot bypass the budget: `bound` is held, the method gets its limit, and the response settles the
    hold. (STREAM-2, STREAM-5)
    """
    tracker, adapter = BudgetTracker(5_000), Streaming(Words(["one", " two"]))
    stream, chunks = take(adapter, RunConfig(budget_tracker=tracker))
    assert stream.text == stream.response.content == "one two"
    assert len(chunks) == 4
    assert adapter.configs[0].max_tokens == 2_000
    assert [(entry.outcome, entry.amount.tokens) for entry in tracker.ledger] == [("settled", 7)]


def test_a_stream_that_an_adapter_writes_and_a_caller_leaves_is_booked_at_its_bound(take: Any) -> None:
    """Leaving the stream closes it, and its bound is presumed. (STREAM-4, STREAM-6)"""
    tracker, source = BudgetTracker(5_000), Words(["one", " two"])
    stream, _ = take(Streaming(source), RunConfig(budget_tracker=tracker, max_tokens=50), 1)
    assert (stream.text, source.closed, tracker.held) == ("one", 1, 0)
    assert [(entry.outcome, entry.amount.tokens) for entry in tracker.ledger] == [("presumed", 55)]


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (LLMAPIError("no", status_code=400), "released"),
        (LLMAPIError("no", status_code=500), "presumed"),
        (KeyError("x"), "presumed"),
        (LLMError("no", response=WHOLE), "settled"),
    ],
)
def test_an_error_of_a_stream_that_an_adapter_writes_ends_its_hold(take: Any, error: Exception, outcome: str) -> None:
    """An error ends the hold like an error of `execute_prompt`. (STREAM-6)"""
    tracker = BudgetTracker(5_000)
    with pytest.raises(type(error)):
        take(Streaming(Words(["one"], fails=error)), RunConfig(budget_tracker=tracker))
    assert [entry.outcome for entry in tracker.ledger] == [outcome]
    assert tracker.held == 0


def test_a_stream_that_does_not_fit_is_not_opened(take: Any) -> None:
    """The budget refuses before the adapter's method is called. (STREAM-2)"""
    adapter = Streaming(Words(["one"]))
    with pytest.raises(LLMBudgetExceededError):
        take(adapter, RunConfig(budget_tracker=BudgetTracker(10), max_tokens=50))
    assert adapter.configs == []


def test_without_a_budget_a_stream_is_as_its_adapter_writes_it(take: Any) -> None:
    """Without a budget the stream is passed on unchanged. (STREAM-1)"""
    adapter, config = Streaming(Words(["one", " two"])), RunConfig(temperature=0.5)
    stream, chunks = take(adapter)
    assert (stream.text, len(chunks), adapter.configs[0].max_tokens) == ("one two", 4, None)
    take(adapter, config)
    assert adapter.configs[1] is config


def test_a_stream_over_the_adapters_own_call_counts_once(take: Any) -> None:
    """A call of the same adapter inside the stream replaces the hold of the stream. (STREAM-2)"""

    class Upper(MockLLMAdapter):
        def stream_prompt(self, prompt: str, config: RunConfig | None = None) -> LLMStream:
            return super().stream_prompt(prompt.upper(), config)

        def async_stream_prompt(self, prompt: str, config: RunConfig | None = None) -> AsyncLLMStream:
            return super().async_stream_prompt(prompt.upper(), config)

    tracker, adapter = BudgetTracker(100), Upper()
    take(adapter, RunConfig(budget_tracker=tracker, max_tokens=60))
    assert adapter.prompts == ["HELLO"]
    assert (tracker.spent, tracker.held) == (20, 0)


def test_a_wrapper_that_says_so_is_not_metered(take: Any) -> None:
    """With `metered = False` only the inner adapter meters. (STREAM-2)"""

    class Wrapper(Streaming):
        metered = False

        def stream_prompt(self, prompt: str, config: RunConfig | None = None) -> LLMStream:
            return LLMStream(self.source)

        def async_stream_prompt(self, prompt: str, config: RunConfig | None = None) -> AsyncLLMStream:
            return AsyncLLMStream(self.source)

    tracker = BudgetTracker(100)
    take(Wrapper(Words(["a"])), RunConfig(budget_tracker=tracker))
    assert list(tracker.ledger) == []


def test_a_lost_stream_is_closed_in_a_thread_of_its_own() -> None:
    """The closing also works if no thread can be started, and does not happen in a forked process. (STREAM-4)"""
    source, started = Words(["a", "b"]), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streams, "start_new_thread", lambda close, arguments: started.append(close))
        lose(source)
        assert len(started) == 1
        patch.setattr(streams, "start_new_thread", refuse)
        started[0]()
        lose(source)
        assert source.closed == 2
        stream = LLMStream(source)
        next(stream)
        patch.setattr(_forks, "generation", _forks.generation + 1)
        kept = stream._chunks
        del stream
        gc.collect()
    assert source.closed == 2
    kept.close()


def lose(source: Words) -> None:
    stream = LLMStream(source)
    next(stream)
    del stream
    gc.collect()


def refuse(close: Any, arguments: Any) -> None:
    raise RuntimeError("can't start new thread at interpreter shutdown")


def test_a_lost_stream_is_closed() -> None:
    """A stream without references is closed. (STREAM-4)"""
    source = Words(["a", "b"])
    lose(source)
    until(lambda: source.closed == 1)


async def test_a_lost_async_stream_is_closed_in_its_loop() -> None:
    """Its connection ends as with `aclose`, even if a reference to its chunks remains. (STREAM-4)"""
    source = Words(["a", "b"])
    stream = AsyncLLMStream(source)
    await anext(stream)
    kept = stream._chunks
    del stream
    gc.collect()
    await auntil(lambda: source.closed == 1)
    assert source.abandoned == 0
    assert await anext(kept, None) is None


def test_a_stream_that_has_ended_needs_no_thread() -> None:
    """Losing a stream that has ended starts no thread. (STREAM-4)"""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streams, "start_new_thread", refuse)
        with LLMStream(Words(["a"])) as stream:
            list(stream)
        del stream
        gc.collect()


def test_an_async_stream_of_a_loop_that_is_gone_is_abandoned() -> None:
    """If its loop is closed, nothing can be awaited; a forked process does not touch the stream. (STREAM-4)"""
    loop, sources = asyncio.new_event_loop(), (Words(["a", "b"]), Words(["a", "b"]))
    opened = [AsyncLLMStream(source) for source in sources]
    for stream in opened:
        loop.run_until_complete(anext(stream))
        loop.run_until_complete(anext(stream))
    loop.close()
    with pytest.MonkeyPatch.context() as patch:
        del stream
        opened.pop()
        gc.collect()
        patch.setattr(_forks, "generation", _forks.generation + 1)
        opened.pop()
        gc.collect()
    assert [source.abandoned for source in sources] == [0, 1]


def test_an_async_stream_may_be_closed_in_another_loop_than_its_own() -> None:
    """If its own loop is closed, the chunks are abandoned and not awaited. (STREAM-4)"""
    loop, source = asyncio.new_event_loop(), Words(["a", "b"])
    stream = AsyncLLMStream(source)
    loop.run_until_complete(anext(stream))
    loop.close()
    asyncio.run(stream.aclose())
    assert source.abandoned == 1


def test_a_stream_that_has_begun_belongs_to_its_process() -> None:
    """In a forked process reading the stream raises, and closing it leaves it open for the parent. (CALL-41)"""
    sources = Words(["a", "b"]), Words(["a", "b"])
    stream, astream = LLMStream(sources[0]), AsyncLLMStream(sources[1])
    next(stream)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(anext(astream))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_forks, "generation", _forks.generation + 1)
        with pytest.raises(LLMConfigurationError, match=r"os\.fork"):
            next(stream)
        with pytest.raises(LLMConfigurationError, match=r"os\.fork"):
            loop.run_until_complete(anext(astream))
        stream.close()
        loop.run_until_complete(astream.aclose())
    assert [source.closed for source in sources] == [0, 0]
    assert next(stream).text
    stream.close()
    loop.run_until_complete(astream.aclose())
    loop.close()
    assert [source.closed for source in sources] == [1, 1]


def test_a_metered_stream_of_a_loop_that_is_gone_ends_its_hold() -> None:
    """Its bound is presumed. (STREAM-4)"""
    loop, tracker = asyncio.new_event_loop(), BudgetTracker(5_000)
    adapter = Streaming(Words(["a", "b"]))
    stream = adapter.async_stream_prompt("hello", RunConfig(budget_tracker=tracker))
    stream_that_waits = adapter.async_stream_prompt("hello", RunConfig(budget_tracker=tracker))
    loop.run_until_complete(anext(stream))
    loop.close()
    stream_that_waits._source.abandon()
    del stream
    gc.collect()
    assert tracker.held == 0
    assert [entry.outcome for entry in tracker.ledger] == ["presumed"]


def test_the_rest_of_a_text_comes_at_the_end() -> None:
    """Text that was not yielded yet is a last chunk; if the final text differs, nothing is yielded twice. (STREAM-1)"""
    assert next(iter(chunks_of(WHOLE, "one"))) == TextChunk(" two")
    assert [type(chunk) for chunk in chunks_of(WHOLE, "one two")] == [UsageChunk, FinishChunk]
    assert [type(chunk) for chunk in chunks_of(WHOLE, "something else")] == [UsageChunk, FinishChunk]

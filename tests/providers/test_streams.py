"""Streams of the adapters over HTTP, each with a real SDK or client against a provider on loopback."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from llm_connect import (
    AsyncLLMStream,
    BudgetTracker,
    FinishChunk,
    LLMAPIError,
    LLMConnectionError,
    LLMError,
    LLMRateLimitError,
    LLMStream,
    LLMTimeoutError,
    RunConfig,
    StreamChunk,
    TextChunk,
    UsageChunk,
)
from llm_connect.engine import exchange
from llm_connect.testing import Behaviour, EmbeddedProvider
from tests.providers.conftest import WIRINGS, Make
from tests.transports import choose

PROMPT = "The quick brown fox jumps over 13 lazy dogs."
TEXTS = 14
PACED = Behaviour(chunk_delay=0.01)
ENDLESS = Behaviour(stall="in_stream", pieces=2)

each_format = pytest.mark.parametrize("wiring", WIRINGS, indirect=True)

Take = Callable[..., list[StreamChunk]]


def take_sync(stream: Callable[[], LLMStream], count: int | None = None, seen: list[Any] | None = None) -> Any:
    """The first chunks of a stream; then it is left."""
    chunks: list[StreamChunk] = [] if seen is None else seen
    with stream() as opened:
        for chunk in opened:
            chunks.append(chunk)
            if len(chunks) == count:
                break
    return opened


async def atake(stream: Callable[[], AsyncLLMStream], count: int | None = None, seen: list[Any] | None = None) -> Any:
    """Like `take_sync`, for a coroutine."""
    chunks: list[StreamChunk] = [] if seen is None else seen
    async with stream() as opened:
        async for chunk in opened:
            chunks.append(chunk)
            if len(chunks) == count:
                break
    return opened


@pytest.fixture(params=["sync", "async"])
def take(request: pytest.FixtureRequest) -> Any:
    """Both forms of a stream, up to so many chunks; gives the stream as it was left."""

    def take_async(adapter: Any, config: RunConfig, *arguments: Any) -> Any:
        return asyncio.run(atake(lambda: adapter.async_stream_prompt(PROMPT, config), *arguments))

    def take_here(adapter: Any, config: RunConfig, *arguments: Any) -> Any:
        return take_sync(lambda: adapter.stream_prompt(PROMPT, config), *arguments)

    return take_here if request.param == "sync" else take_async


@pytest.fixture
def tracker(provider: EmbeddedProvider) -> Iterator[BudgetTracker]:
    """A budget that is looked at in the end: nothing is held, and the books cover the bill."""
    tracker = BudgetTracker(1_000_000)
    yield tracker
    assert (tracker.held, tracker.held_calls) == (0, 0)
    assert tracker.spent >= provider.meter.total_tokens


def config_of(tracker: BudgetTracker, **fields: Any) -> RunConfig:
    return RunConfig(**{"budget_tracker": tracker, "max_tokens": 60, "timeout_seconds": 20, **fields})


def fails(take: Any, adapter: Any, config: RunConfig) -> tuple[LLMError, list[StreamChunk]]:
    seen: list[StreamChunk] = []
    with pytest.raises(LLMError) as caught:
        take(adapter, config, None, seen)
    return caught.value, seen


def outcomes(tracker: BudgetTracker) -> list[str]:
    return [entry.outcome for entry in tracker.ledger]


def wait_until_alone(provider: EmbeddedProvider) -> None:
    """Wait until the server sees no client any more; long on a busy machine, never when one stays."""
    until = time.monotonic() + 5
    while provider.connections:
        assert time.monotonic() < until, f"{provider.connections} connections are left"
        time.sleep(0.001)


@each_format
def test_a_stream_is_the_answer_in_pieces(make: Make, tracker: BudgetTracker, take: Any) -> None:
    """Texts, then usage, then the finish; together they are what a call without streaming gives, settled by the
    provider's figures. (STREAM-1, STREAM-5)
    """
    adapter, config = make(), config_of(tracker)
    whole = adapter.execute_prompt(PROMPT, config)
    seen: list[StreamChunk] = []
    stream = take(adapter, config, None, seen)
    *texts, usage, finish = seen
    assert len(texts) == TEXTS
    assert all(isinstance(chunk, TextChunk) and chunk.text for chunk in texts)
    assert "".join(chunk.text for chunk in texts) == stream.text == whole.content
    assert (usage, finish) == (UsageChunk(whole.usage), FinishChunk(whole.finish_reason))
    expected, given = whole.to_dict(), stream.response.to_dict()
    for response in (expected, given):
        for changing in ("latency_seconds", "request_id", "ledger_entry"):
            response["metadata"].pop(changing, None)
    assert given == expected
    assert outcomes(tracker) == ["settled", "settled"]


@each_format
def test_chunks_come_as_the_provider_sends_them(make: Make, provider: EmbeddedProvider, take: Any) -> None:
    """The first text is there while the provider is still writing. (STREAM-1)"""
    provider.script(ENDLESS)
    seen: list[StreamChunk] = []
    stream = take(make(), RunConfig(timeout_seconds=20), 2, seen)
    assert [type(chunk) for chunk in seen] == [TextChunk, TextChunk]
    assert stream.text == "".join(chunk.text for chunk in seen)


@each_format
def test_the_request_asks_for_a_stream_and_is_the_same_else(
    make: Make, provider: EmbeddedProvider, tracker: BudgetTracker, take: Any
) -> None:
    """The output limit that the hold assumes is sent. (STREAM-2)"""
    adapter, config = make(), config_of(tracker)
    adapter.execute_prompt(PROMPT, config)
    take(adapter, config)
    whole, streamed = provider.requests
    added = {"stream", "stream_options"}
    assert {name: value for name, value in streamed.body.items() if name not in added} == whole.body
    assert (streamed.output_limit, streamed.prompt) == (60, PROMPT)


@each_format
def test_nothing_is_sent_before_the_first_chunk(make: Make, provider: EmbeddedProvider, tracker: BudgetTracker) -> None:
    """A stream that is opened and left has reserved nothing and sent nothing. (STREAM-3)"""
    adapter = make()
    with adapter.stream_prompt(PROMPT, config_of(tracker)) as stream:
        assert (stream.text, stream.response.content, stream.response.finish_reason) == ("", "", "unknown")
    assert list(stream) == []
    assert (provider.requests, list(tracker.ledger)) == ([], [])


@each_format
@pytest.mark.parametrize("count", [1, 2])
def test_leaving_early_closes_and_books_the_bound(
    make: Make, provider: EmbeddedProvider, tracker: BudgetTracker, take: Any, count: int
) -> None:
    """The provider may go on and bill everything: the bound is presumed, flagged, and the response says what came.

    (STREAM-4, STREAM-6)
    """
    adapter = make()
    provider.script(ENDLESS)
    stream = take(adapter, config_of(tracker), count)
    wait_until_alone(provider)
    (entry,) = tracker.ledger
    assert (entry.outcome, entry.amount) == ("presumed", entry.bound)
    response = stream.response
    assert (response.content, response.finish_reason, response.usage.estimated) == (stream.text, "unknown", True)
    assert response.metadata["ledger_entry"] == entry.id


def test_leaving_after_the_last_text_settles_by_the_figures_that_had_come(
    make: Make, provider: EmbeddedProvider, tracker: BudgetTracker, take: Any
) -> None:
    """Usage that had come with the text counts, although no one asked for its chunk. (STREAM-5)"""
    stream = take(make(), config_of(tracker), TEXTS)
    assert outcomes(tracker) == ["settled"]
    assert tracker.spent == provider.meter.total_tokens
    assert not stream.response.usage.estimated


@pytest.mark.parametrize("wiring", ["gemini"], indirect=True)
def test_figures_above_the_bound_are_a_floor(
    make: Make, provider: EmbeddedProvider, tracker: BudgetTracker, take: Any
) -> None:
    """What the provider has counted by the time of a break is booked, with all of the output, where it is more than
    the bound. (STREAM-6)"""
    provider.script(Behaviour(stall="in_stream", pieces=2, hidden_prompt_tokens=5000))
    take(make(), config_of(tracker), 2)
    (entry,) = tracker.ledger
    assert entry.usage is not None
    assert (entry.usage.estimated, entry.amount.tokens > 5000 > entry.bound.tokens) == (True, True)


def test_an_exception_in_the_loop_passes_and_closes(
    make: Make, provider: EmbeddedProvider, tracker: BudgetTracker
) -> None:
    """It is the caller's own, and the stream is closed behind it. (STREAM-4)"""
    adapter = make()
    provider.script(ENDLESS)
    with pytest.raises(KeyError), adapter.stream_prompt(PROMPT, config_of(tracker)) as stream:
        raise KeyError(next(stream))
    wait_until_alone(provider)
    assert outcomes(tracker) == ["presumed"]


@pytest.mark.parametrize("after", [0, 1])
async def test_cancellation_closes(make: Make, provider: EmbeddedProvider, tracker: BudgetTracker, after: int) -> None:
    """Cancelled before the first chunk or between two, CancelledError comes through, and the stream is closed.

    (STREAM-4)
    """
    adapter, seen = make(max_concurrency=1), asyncio.Event()
    provider.script(Behaviour(stall="in_stream", pieces=after))

    async def consume() -> None:
        async with adapter.async_stream_prompt(PROMPT, config_of(tracker)) as stream:
            async for _ in stream:
                seen.set()

    task = asyncio.create_task(consume())
    if after:
        await seen.wait()
    else:
        await asyncio.to_thread(provider.wait_for_requests, 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.to_thread(wait_until_alone, provider)
    assert outcomes(tracker) == ["presumed"]
    provider.reset()
    assert (await atake(lambda: adapter.async_stream_prompt(PROMPT, config_of(tracker)))).text
    tracker.close()
    await adapter.aclose()


def test_a_lost_stream_is_closed(make: Make, provider: EmbeddedProvider, tracker: BudgetTracker) -> None:
    """Without its last reference, also in a circle of references, it closes its connection and ends its hold.

    (STREAM-4)
    """
    adapter = make()
    provider.script(ENDLESS)
    for circle in (False, True):
        stream = adapter.stream_prompt(PROMPT, config_of(tracker))
        next(stream)
        if circle:
            stream.itself = stream
        del stream
        gc.collect()
        wait_until_alone(provider)
    wait_until(lambda: tracker.held == 0)
    assert outcomes(tracker) == ["presumed", "presumed"]


async def test_a_lost_async_stream_is_closed(make: Make, provider: EmbeddedProvider, tracker: BudgetTracker) -> None:
    """Its event loop closes it soon. (STREAM-4)"""
    async with make() as adapter:
        provider.script(ENDLESS)
        for circle in (False, True):
            stream = adapter.async_stream_prompt(PROMPT, config_of(tracker))
            await anext(stream)
            if circle:
                stream.itself = stream
            del stream
            gc.collect()
            await asyncio.to_thread(wait_until_alone, provider)
        await asyncio.to_thread(wait_until, lambda: tracker.held == 0)
    assert outcomes(tracker) == ["presumed", "presumed"]


def test_a_loop_that_ends_closes_its_streams(make: Make, provider: EmbeddedProvider, tracker: BudgetTracker) -> None:
    """A stream that someone still refers to when `asyncio.run` ends is closed by it. (STREAM-4)"""
    adapter, kept = make(), []
    provider.script(ENDLESS)

    async def main() -> None:
        kept.append(adapter.async_stream_prompt(PROMPT, config_of(tracker)))
        await anext(kept[0])

    asyncio.run(main())
    wait_until_alone(provider)
    assert outcomes(tracker) == ["presumed"]


def test_a_stream_of_a_loop_that_is_gone_ends_its_hold(
    make: Make, provider: EmbeddedProvider, tracker: BudgetTracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loop that was closed without a word takes its sockets along; the hold ends with the stream. (STREAM-4)

    Over httpx2: aiohttp warns of a loop that ends otherwise than `asyncio.run` ends it (CALL-9).
    """
    choose("httpx2", monkeypatch)
    adapter, loop = make(), asyncio.new_event_loop()
    provider.script(ENDLESS)
    stream = adapter.async_stream_prompt(PROMPT, config_of(tracker))
    loop.run_until_complete(anext(stream))
    for transport in {entry for entry in gc.get_objects() if type(entry).__name__ == "_SelectorSocketTransport"}:
        transport.abort()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    del stream
    gc.collect()
    assert outcomes(tracker) == ["presumed"]
    assert tracker.held == 0


@each_format
def test_a_stream_that_breaks_off_after_text_is_not_tried_again(
    make: Make, provider: EmbeddedProvider, tracker: BudgetTracker, take: Any
) -> None:
    """What was given cannot be taken back: the error is raised, and the text stays. (STREAM-7, STREAM-8)"""
    for behaviour, kind in (
        (Behaviour(cut_stream=True, pieces=2), LLMConnectionError),
        (Behaviour(error_in_200=True, pieces=2), LLMAPIError),
    ):
        provider.script(behaviour, times=1)
        error, seen = fails(take, make(), config_of(tracker))
        assert type(error) is kind
        assert (len(seen), error.attempts, error.maybe_billed) == (2, 1, True)
        assert error.booked is not None
    assert outcomes(tracker) == ["presumed", "presumed"]


@each_format
@pytest.mark.parametrize(
    "behaviour",
    [
        Behaviour(status=429, retry_after=0),
        Behaviour(error_in_200=True),
        Behaviour(cut_stream=True, pieces=0),
        Behaviour(cut=0),
        Behaviour(cut="before_reply"),
    ],
    ids=["429", "error before text", "end before text", "cut in the body", "cut before the reply"],
)
def test_what_fails_before_the_first_text_is_tried_again(
    make: Make,
    provider: EmbeddedProvider,
    tracker: BudgetTracker,
    take: Any,
    behaviour: Behaviour,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As in a call, each attempt with a hold of its own; the stream then begins as if nothing had been. (STREAM-2)"""
    monkeypatch.setattr(exchange, "_FIRST_PAUSE_SECONDS", 0.01)
    provider.script(behaviour, times=1)
    seen: list[StreamChunk] = []
    stream = take(make(), config_of(tracker), None, seen)
    assert len(seen) == TEXTS + 2
    assert stream.response.metadata["attempts"] == 2
    assert outcomes(tracker) == ["released" if behaviour.status else "presumed", "settled"]


@each_format
@pytest.mark.parametrize(
    ("limits", "pieces", "text"),
    [
        ({"first_chunk_seconds": 0.3}, 0, "first_chunk_seconds is over: no text came"),
        ({"idle_seconds": 0.3}, 2, "idle_seconds is over: no further text came"),
        ({"timeout_seconds": 0.8, "idle_seconds": 30}, 2, "timeout_seconds is over: no whole reply came"),
        ({"timeout_seconds": 0.8, "first_chunk_seconds": 30}, 0, "timeout_seconds is over: no whole reply came"),
    ],
)
def test_each_wait_has_its_limit(
    make: Make,
    provider: EmbeddedProvider,
    tracker: BudgetTracker,
    take: Any,
    limits: dict[str, Any],
    pieces: int,
    text: str,
) -> None:
    """For the first text, for each further one, and for all of it; the error names the limit. (STREAM-3)"""
    adapter = make()
    take(adapter, RunConfig())
    provider.reset()
    provider.script(Behaviour(stall="in_stream", pieces=pieces))
    error, seen = fails(take, adapter, config_of(tracker, **limits))
    assert type(error) is LLMTimeoutError
    assert (len(seen), error.attempts, error.maybe_billed) == (pieces, 1, True)
    assert text in str(error)
    wait_until_alone(provider)
    assert outcomes(tracker) == ["presumed"]


def test_a_drip_does_not_stretch_the_wait_for_text(make: Make, provider: EmbeddedProvider, take: Any) -> None:
    """Bytes that bring no text do not count as text. (STREAM-3)"""
    adapter = make()
    take(adapter, RunConfig())
    provider.script(Behaviour(drip=0.05))
    error, seen = fails(take, adapter, RunConfig(first_chunk_seconds=0.4, timeout_seconds=30))
    assert (type(error), seen) == (LLMTimeoutError, [])
    assert "first_chunk_seconds" in str(error)


def test_the_time_of_the_caller_is_not_that_of_the_provider(make: Make, provider: EmbeddedProvider) -> None:
    """What the caller does between two chunks does not count as silence. (STREAM-3)"""
    provider.script(PACED)
    with make().stream_prompt(PROMPT, RunConfig(idle_seconds=0.4, timeout_seconds=20)) as stream:
        for number, _ in enumerate(stream):
            if number < 2:
                time.sleep(0.6)
    assert stream.response.finish_reason == "stop"


@each_format
def test_an_error_status_is_the_same_error_as_without_streaming(
    make: Make, provider: EmbeddedProvider, tracker: BudgetTracker, take: Any
) -> None:
    """Its class, text and fields are those of a call. (STREAM-7)"""
    adapter, config = make(), config_of(tracker, max_retries=0)
    provider.script(Behaviour(status=429, retry_after=7, error_message="slow down please"))
    with pytest.raises(LLMRateLimitError) as whole:
        adapter.execute_prompt(PROMPT, config)
    error, _ = fails(take, adapter, config)
    ids = {"request_id", "ledger_entry"}
    assert str(error) == str(whole.value)
    assert {name: value for name, value in vars(error).items() if name not in ids} == {
        name: value for name, value in vars(whole.value).items() if name not in ids
    }


def test_a_stream_takes_a_place_until_it_is_left(
    make: Make, provider: EmbeddedProvider, tracker: BudgetTracker
) -> None:
    """With one place, a second stream begins when the first one is closed. (CALL-7)"""
    adapter, config = make(max_concurrency=1), config_of(tracker)
    provider.script(ENDLESS)
    done = threading.Event()

    def second() -> None:
        with adapter.stream_prompt(PROMPT, config) as stream:
            next(stream)
        done.set()

    with adapter.stream_prompt(PROMPT, config) as first:
        next(first)
        thread = threading.Thread(target=second)
        thread.start()
        assert not done.wait(0.2)
        assert len(provider.requests) == 1
    assert done.wait(5)
    thread.join()


def test_a_stream_gives_its_connection_back(make: Make, provider: EmbeddedProvider) -> None:
    """One that was read to its end leaves a connection for the next one. (CALL-9)"""
    adapter = make()
    for _ in range(3):
        with adapter.stream_prompt(PROMPT) as stream:
            assert list(stream)
        assert provider.connections == 1


def test_a_call_of_the_caller_does_not_wait_for_its_own_stream(make: Make, provider: EmbeddedProvider) -> None:
    """A stream's open hold is its caller's own, so a call that would wait for it is refused. (BUDGET-9)"""
    adapter, tracker = make(), BudgetTracker(3_000)
    provider.script(ENDLESS, times=1)
    config = config_of(tracker, max_tokens=600, max_wait_seconds=0.5)
    with adapter.stream_prompt(PROMPT, config) as stream:
        next(stream)
        with pytest.raises(LLMError, match="its own caller"):
            adapter.execute_prompt(PROMPT, config)


def wait_until(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.001)

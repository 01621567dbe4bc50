"""Answers that come as streams: what a caller holds, and the default for adapters that cannot stream."""

from __future__ import annotations

import asyncio
import weakref
from _thread import start_new_thread
from collections.abc import AsyncGenerator, Generator
from contextlib import suppress
from inspect import GEN_CLOSED, getgeneratorstate
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from llm_connect.core import forks
from llm_connect.core.chunks import StreamChunk, chunks_of
from llm_connect.core.models import LLMResponse, Prompt, RunConfig
from llm_connect.core.usage import Usage

if TYPE_CHECKING:
    from llm_connect.core.adapter import LLMAdapter


class StreamSource(Protocol):
    """Where a stream takes its chunks from, in one of the two forms, once."""

    def chunks(self) -> Generator[StreamChunk]:
        """The chunks. Closing the generator closes the connection and ends the hold, wherever it stands."""
        ...

    def achunks(self) -> AsyncGenerator[StreamChunk]:
        """Like `chunks`, for a coroutine."""
        ...

    def abandon(self) -> None:
        """Let go where nothing can be awaited, because the event loop of `achunks` is gone."""
        ...

    @property
    def text(self) -> str:
        """The text that was given so far."""
        ...

    @property
    def response(self) -> LLMResponse:
        """The response; before the end, what is known of it."""
        ...


class _Stream:
    def __init__(self, source: StreamSource) -> None:
        self._source = source

    @property
    def text(self) -> str:
        """The text that has come so far."""
        return self._source.text

    @property
    def response(self) -> LLMResponse:
        """The response, as `execute_prompt` would have given it.

        Before its end, or when the stream was cut: the text that has come, `finish_reason` "unknown", and a usage that
        is `estimated` unless the provider's final figures had come.
        """
        return self._source.response

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {len(self.text)} characters so far>"


class LLMStream(_Stream):
    """An answer as it comes: a context manager, and an iterator of chunks.

        with adapter.stream_prompt("Tell me a story.") as stream:
            for chunk in stream:
                print(chunk.text, end="")
        print(stream.response.usage.total_tokens)

    Nothing is reserved or sent, and no deadline runs, before the first chunk is asked for. Leaving the block, an
    exception in it, or the end of the last reference closes the connection at once and ends the hold. Belongs to one
    thread at a time. Iterating raises LLMError; what has come by then stays in `text` and `response`.
    """

    def __init__(self, source: StreamSource) -> None:
        super().__init__(source)
        self._chunks = source.chunks()
        weakref.finalize(self, _close_elsewhere, self._chunks, forks.generation)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> StreamChunk:
        return next(self._chunks)

    def close(self) -> None:
        """Close the connection and end the hold; nothing when the stream has ended."""
        self._chunks.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncLLMStream(_Stream):
    """Like `LLMStream`, for a coroutine.

    async with adapter.async_stream_prompt("Tell me a story.") as stream:
        async for chunk in stream:
            print(chunk.text, end="")
    """

    def __init__(self, source: StreamSource) -> None:
        super().__init__(source)
        self._chunks = source.achunks()
        self._is_guarded = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> StreamChunk:
        if not self._is_guarded:
            self._is_guarded = True
            loop = asyncio.get_running_loop()
            weakref.finalize(self, _close_in_loop, loop, self._chunks, self._source, forks.generation)
        return await anext(self._chunks)

    async def aclose(self) -> None:
        """Close the connection and end the hold; nothing when the stream has ended."""
        await self._chunks.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


class WholeReply:
    """The source for an adapter without a stream of its own: the whole reply as one chunk, metered as any call."""

    def __init__(self, adapter: LLMAdapter, prompt: Prompt, config: RunConfig | None) -> None:
        self._adapter = adapter
        self._arguments = (prompt, config)
        self._response: LLMResponse | None = None

    def chunks(self) -> Generator[StreamChunk]:
        self._response = self._adapter.execute_prompt(*self._arguments)
        yield from chunks_of(self._response)

    async def achunks(self) -> AsyncGenerator[StreamChunk]:
        self._response = await self._adapter.async_execute_prompt(*self._arguments)
        for chunk in chunks_of(self._response):
            yield chunk

    def abandon(self) -> None:
        """Between its chunks it holds nothing."""

    @property
    def text(self) -> str:
        return "" if self._response is None else self._response.content

    @property
    def response(self) -> LLMResponse:
        return self._response or nothing_yet()


def nothing_yet(model: str = "") -> LLMResponse:
    """The response of a stream of which nothing has come."""
    usage = Usage(prompt_tokens=0, completion_tokens=0, estimated=True)
    return LLMResponse(content="", model=model, usage=usage, finish_reason="unknown")


def _close_elsewhere(chunks: Generator[StreamChunk], generation: int) -> None:
    """Close the chunks of a stream that was garbage collected.

    In a thread of their own, because this thread may have any lock at this moment, that of the connections among them.
    """
    if getgeneratorstate(chunks) == GEN_CLOSED or generation != forks.generation:
        return
    try:
        start_new_thread(chunks.close, ())
    except RuntimeError:
        # The interpreter ends, and starts no thread any more.
        chunks.close()


def _close_in_loop(
    loop: asyncio.AbstractEventLoop, chunks: AsyncGenerator[StreamChunk], source: StreamSource, generation: int
) -> None:
    if generation != forks.generation:
        return
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(_close_soon, loop, chunks)
        return
    source.abandon()


def _close_soon(loop: asyncio.AbstractEventLoop, chunks: AsyncGenerator[StreamChunk]) -> None:
    loop.create_task(_aclose(chunks))


async def _aclose(chunks: AsyncGenerator[StreamChunk]) -> None:
    await chunks.aclose()

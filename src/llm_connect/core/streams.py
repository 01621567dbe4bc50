"""Answers that come as streams: what a caller holds, and how it is closed."""

from __future__ import annotations

import asyncio
import weakref
from _thread import start_new_thread
from collections.abc import AsyncGenerator, Generator
from contextlib import suppress
from inspect import GEN_CLOSED, getgeneratorstate
from types import TracebackType
from typing import Self

from llm_connect.core import forks
from llm_connect.core.chunks import StreamChunk
from llm_connect.core.models import LLMResponse
from llm_connect.core.stream_sources import AsyncPieces, Pieces, StreamSource, Written


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

    @classmethod
    def of(cls, pieces: Pieces) -> Self:
        """A stream written as a generator: it yields texts, and in the end the `LLMResponse`.

            def stream_prompt(self, prompt, config=None):
                return LLMStream.of(self._pieces(prompt, config or RunConfig()))

        The generator begins when the first chunk is asked for, and is closed when the stream is left, so a `with`
        in it closes the connection. What it raises is raised by the stream; without a response at its end, that is
        LLMConnectionError.
        """
        return cls(Written(pieces))

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

    @classmethod
    def of(cls, pieces: AsyncPieces) -> Self:
        """Like `LLMStream.of`, for an async generator."""
        return cls(Written(pieces))

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

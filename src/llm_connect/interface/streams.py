"""Streams as callers use them, `LLMStream` and `AsyncLLMStream`, and how they are closed."""

from __future__ import annotations

import asyncio
import weakref
from _thread import start_new_thread
from collections.abc import Generator
from contextlib import suppress
from inspect import GEN_CLOSED, getgeneratorstate
from types import TracebackType
from typing import Self

from llm_connect import _forks
from llm_connect._closing import close_in_loop, is_closed
from llm_connect.errors import LLMConfigurationError
from llm_connect.interface.stream_sources import AsyncPieces, Pieces, StreamSource, Written
from llm_connect.types.chunks import StreamChunk
from llm_connect.types.response import LLMResponse


class _Stream:
    def __init__(self, source: StreamSource) -> None:
        self._source = source
        #: The process in which it began; see `_forks.generation`.
        self._generation: int | None = None

    @property
    def text(self) -> str:
        """The text that has arrived so far."""
        return self._source.text

    @property
    def response(self) -> LLMResponse:
        """The response, as `execute_prompt` would have returned it.

        Before the end of the stream, or if it was cut off, it has the text so far, the `finish_reason` "unknown", and a
        usage that is `estimated` unless the provider's final figures have arrived.
        """
        return self._source.response

    def _begin(self) -> None:
        """Tie the stream to this process. Raises LLMConfigurationError if it began in another one."""
        if self._generation is not None:
            raise LLMConfigurationError(
                "This stream began before os.fork, and only the process that began it can read it: "
                "open a stream in each process."
            )
        self._generation = _forks.generation

    @property
    def _is_of_another_process(self) -> bool:
        return self._generation not in (None, _forks.generation)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {len(self.text)} characters so far>"


class LLMStream(_Stream):
    """An answer that arrives in chunks: a context manager and an iterator.

        with adapter.stream_prompt("Tell me a story.") as stream:
            for chunk in stream:
                print(chunk.text, end="")
        print(stream.response.usage.total_tokens)

    Guaranteed: nothing is reserved or sent, and no deadline runs, before the first chunk is requested. Leaving the
    block, also by an exception, closes the connection at once and ends the hold. Without a block, that happens when the
    last reference to the stream goes. Not guaranteed: use by several threads at the same time.

    Iterating raises LLMError; the text that has arrived by then stays in `text` and `response`.
    """

    def __init__(self, source: StreamSource) -> None:
        super().__init__(source)
        self._chunks = source.chunks()
        weakref.finalize(self, _close_elsewhere, self._chunks, _forks.generation)

    @classmethod
    def of(cls, pieces: Pieces) -> Self:
        """Make a stream from a generator that yields texts and finally the `LLMResponse`.

            def stream_prompt(self, prompt, config=None):
                return LLMStream.of(self._pieces(prompt, config or RunConfig()))

        The generator starts when the first chunk is requested. It is closed with the stream, so a `with` in it closes
        the connection. The stream raises the generator's exceptions, and LLMConnectionError if it ends without an
        `LLMResponse`.
        """
        return cls(Written(pieces))

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> StreamChunk:
        if self._generation != _forks.generation:
            self._begin()
        return next(self._chunks)

    def close(self) -> None:
        """Close the connection and end the hold. A no-op if the stream has ended, or in a fork of its process."""
        if self._is_of_another_process:
            _forks.keep_for_parent(self._chunks)
            return
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
        self._loop: asyncio.AbstractEventLoop | None = None

    @classmethod
    def of(cls, pieces: AsyncPieces) -> Self:
        """Like `LLMStream.of`, for an async generator."""
        return cls(Written(pieces))

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> StreamChunk:
        if self._generation != _forks.generation:
            self._begin()
            self._loop = asyncio.get_running_loop()
        return await anext(self._chunks)

    async def aclose(self) -> None:
        """Close the connection and end the hold. A no-op if the stream has ended, or in a fork of its process."""
        if self._is_of_another_process:
            _forks.keep_for_parent(self._chunks)
        elif self._loop is not None and self._loop.is_closed():
            self._source.abandon()
        else:
            await self._chunks.aclose()

    def __del__(self) -> None:
        # `weakref.finalize` would keep the stream alive by its arguments: the chunks wait for an object of the event
        # loop, which refers to the task that reads them. If the loop is closed, all of them are collected together.
        if self._loop is not None and not is_closed(self._chunks):
            self._close_lost(self._loop)

    def _close_lost(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._is_of_another_process:
            _forks.keep_for_parent(self._chunks, self._source)
            return
        with suppress(RuntimeError):
            close_in_loop(loop, self._chunks)
            return
        self._source.abandon()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


def _close_elsewhere(chunks: Generator[StreamChunk], generation: int) -> None:
    """Close the chunks of a stream that was garbage collected.

    A new thread does so, because this thread may hold any lock at this moment, even the lock of the connections.
    """
    if generation != _forks.generation:
        _forks.keep_for_parent(chunks)
        return
    if getgeneratorstate(chunks) == GEN_CLOSED:
        return
    try:
        start_new_thread(chunks.close, ())
    except RuntimeError:
        # The interpreter is shutting down and starts no more threads.
        chunks.close()

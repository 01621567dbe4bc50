"""Streams: what callers use (`LLMStream`, `AsyncLLMStream`), where their chunks come from, and how they are closed.

A stream runs a flow, like a call. Beside steps for its driver, the flow yields lists of chunks for the caller. A list
has all chunks that are known at once, so the flow is not resumed for each of them.
"""

from __future__ import annotations

import asyncio
import weakref
from _thread import start_new_thread
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import suppress
from dataclasses import dataclass, replace
from inspect import GEN_CLOSED, getgeneratorstate
from typing import Any, Self, TypeAlias

from llm_connect import _forks
from llm_connect._closing import close_in_loop, is_closed
from llm_connect._flows import Step, outlive, running_task
from llm_connect.errors import LLMConfigurationError, LLMConnectionError
from llm_connect.types.chunks import StreamChunk, TextChunk, chunks_of
from llm_connect.types.response import LLMResponse
from llm_connect.types.usage import Usage

#: A stream as an adapter may define it: a generator of texts, and finally the response.
Pieces: TypeAlias = Generator[str | LLMResponse]
AsyncPieces: TypeAlias = AsyncGenerator[str | LLMResponse]
#: Steps for the driver, and lists of chunks for the caller.
StreamFlow: TypeAlias = Generator[Step | list[StreamChunk], Any, None]


class Leave(BaseException):
    """Thrown into a flow that its caller has left.

    GeneratorExit does not work: Python closes the inner generator of a delegating flow instead of throwing into it, and
    the flow could take no step on the way out (PEP 380).
    """


def drive_stream(flow: StreamFlow, given: list[str]) -> Generator[StreamChunk]:
    """Run `flow` in this thread, up to each chunk that the caller asks for; `given` gets the texts of the chunks."""
    with suppress(StopIteration, Leave):
        step = next(flow)
        while True:
            try:
                if isinstance(step, list):
                    result = None
                    for chunk in step:
                        given.append(chunk.text)
                        yield chunk
                else:
                    result = step.run()
            except GeneratorExit:
                step = flow.throw(Leave())
            except BaseException as error:
                step = flow.throw(error)
            else:
                step = flow.send(result)


async def adrive_stream(flow: StreamFlow, given: list[str]) -> AsyncGenerator[StreamChunk]:
    """Like `drive_stream`, in this task."""
    with suppress(StopIteration, Leave):
        step = next(flow)
        while True:
            # Between its chunks it belongs to no task.
            task = None if isinstance(step, list) else running_task()
            try:
                if isinstance(step, list):
                    result = None
                    for chunk in step:
                        given.append(chunk.text)
                        yield chunk
                else:
                    result = await step.arun()
            except GeneratorExit as left:
                if not isinstance(step, list):
                    outlive(task, left)
                    # The coroutine that waits for the stream is being closed, so nothing more can be awaited.
                    abandon(flow)
                    raise
                step = flow.throw(Leave())
            except BaseException as error:
                step = flow.throw(error)
            else:
                step = flow.send(result)


def abandon(flow: StreamFlow) -> None:
    """End `flow` when nothing can be awaited; a no-op if it has ended."""
    with suppress(StopIteration, Leave):
        step: Any = flow.throw(Leave())
        while True:
            # On its way out, a stream takes only the step `Close`.
            step.abandon()
            step = next(flow)


class StreamSource(ABC):
    """The source of a stream's chunks, which come out of a flow; either `chunks` or `achunks` is called, once."""

    def __init__(self) -> None:
        #: The text so far, in pieces.
        self._given: list[str] = []
        self._response: LLMResponse | None = None
        self._flow = self._run()

    @abstractmethod
    def _run(self) -> StreamFlow:
        """The flow, which ends once it has set `_response`."""

    def chunks(self) -> Generator[StreamChunk]:
        """Yield the chunks. Closing the generator at any point closes the connection and ends the hold."""
        return drive_stream(self._flow, self._given)

    def achunks(self) -> AsyncGenerator[StreamChunk]:
        """Like `chunks`, for a coroutine."""
        return adrive_stream(self._flow, self._given)

    def abandon(self) -> None:
        """Release connection and hold without awaiting, because the event loop of `achunks` is closed."""
        abandon(self._flow)

    @property
    def text(self) -> str:
        """The text that has been yielded so far."""
        return "".join(self._given)

    @property
    def response(self) -> LLMResponse:
        """The response; before the end, the part of it that is known."""
        return self._response or replace(nothing_yet(), content=self.text)


class Written(StreamSource):
    """The source for a stream that an adapter defines as a generator of texts and finally a response."""

    def __init__(self, pieces: Pieces | AsyncPieces) -> None:
        super().__init__()
        self._pieces = pieces

    def _run(self) -> StreamFlow:
        yield from follow(Following(self._pieces), self._chunks_of)
        if self._response is None:
            raise LLMConnectionError(
                "The stream ended before the answer did: its generator yielded no LLMResponse.", maybe_billed=True
            )

    def _chunks_of(self, piece: str | LLMResponse) -> list[StreamChunk]:
        if not isinstance(piece, LLMResponse):
            return [TextChunk(piece)] if piece else []
        self._response = piece
        return chunks_of(piece, self.text)


@dataclass(slots=True)
class Following:
    """Asks for the next item of a stream or generator; this class itself stands for its end."""

    stream: Any

    def run(self) -> Any:
        return next(self.stream, Following)

    async def arun(self) -> Any:
        return await anext(self.stream, Following)


@dataclass(slots=True)
class Ending:
    """Closes a stream or generator; the only step that a flow around it takes on its way out."""

    stream: Any

    def run(self) -> None:
        self.stream.close()

    async def arun(self) -> None:
        await self.stream.aclose()

    def abandon(self) -> None:
        """A no-op, because nothing can be awaited: it closes itself when it is collected."""


def follow(step: Following, chunks: Callable[[Any], list[StreamChunk]]) -> StreamFlow:
    """Pass on the `chunks` of each item of a stream, and close it at its end or wherever the caller leaves."""
    try:
        while (item := (yield step)) is not Following:
            if given := chunks(item):
                yield given
    except GeneratorExit:
        # The flow is being collected: no runner takes another step, and the inner stream closes itself.
        raise
    except BaseException:
        yield Ending(step.stream)
        raise
    yield Ending(step.stream)


def nothing_yet(model: str = "") -> LLMResponse:
    """The response of a stream that has yielded nothing yet."""
    usage = Usage(prompt_tokens=0, completion_tokens=0, estimated=True)
    return LLMResponse(content="", model=model, usage=usage, finish_reason="unknown")


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

    def __exit__(self, *_: object) -> None:
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

    async def __aexit__(self, *_: object) -> None:
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

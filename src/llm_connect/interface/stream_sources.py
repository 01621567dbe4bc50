"""Sources of streams: the protocol, and the sources for adapters that do not implement it themselves."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Iterable, Iterator
from dataclasses import replace
from typing import Protocol, TypeAlias

from llm_connect.errors import LLMConnectionError
from llm_connect.interface.config import RunConfig
from llm_connect.interface.metered import Metered
from llm_connect.types.chunks import StreamChunk, TextChunk, chunks_of
from llm_connect.types.response import LLMResponse, Prompt
from llm_connect.types.usage import Usage

#: A stream as an adapter may define it: a generator of texts, and finally the response.
Pieces: TypeAlias = Generator[str | LLMResponse]
AsyncPieces: TypeAlias = AsyncGenerator[str | LLMResponse]


class StreamSource(Protocol):
    """The source of a stream's chunks; either `chunks` or `achunks` is called, once."""

    def chunks(self) -> Generator[StreamChunk]:
        """Yield the chunks. Closing the generator at any point closes the connection and ends the hold."""
        ...

    def achunks(self) -> AsyncGenerator[StreamChunk]:
        """Like `chunks`, for a coroutine."""
        ...

    def abandon(self) -> None:
        """Release connection and hold without awaiting, because the event loop of `achunks` is closed."""
        ...

    @property
    def text(self) -> str:
        """The text that has been yielded so far."""
        ...

    @property
    def response(self) -> LLMResponse:
        """The response; before the end, the part of it that is known."""
        ...


class WholeReply:
    """The source for an adapter that defines no stream: the whole reply as one chunk, metered like any call."""

    def __init__(self, adapter: Metered, prompt: Prompt, config: RunConfig | None) -> None:
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
        """A no-op: the call has ended before the first chunk."""

    @property
    def text(self) -> str:
        return "" if self._response is None else self._response.content

    @property
    def response(self) -> LLMResponse:
        return self._response or nothing_yet()


class Written:
    """The source for a stream that an adapter defines as a generator of texts and finally a response."""

    def __init__(self, pieces: Pieces | AsyncPieces) -> None:
        self._pieces = pieces
        self._texts: list[str] = []
        self._response: LLMResponse | None = None

    def chunks(self) -> Generator[StreamChunk]:
        try:
            for piece in self._pieces:  # type: ignore[union-attr]
                yield from self._chunks_of(piece)
        finally:
            self._pieces.close()  # type: ignore[union-attr]
        self._check_end()

    async def achunks(self) -> AsyncGenerator[StreamChunk]:
        try:
            async for piece in self._pieces:  # type: ignore[union-attr]
                for chunk in self._chunks_of(piece):
                    yield chunk
        finally:
            await self._pieces.aclose()  # type: ignore[union-attr]
        self._check_end()

    def abandon(self) -> None:
        """A no-op: the generator lost its resources with its event loop."""

    @property
    def text(self) -> str:
        return "".join(self._texts)

    @property
    def response(self) -> LLMResponse:
        return self._response or replace(nothing_yet(), content=self.text)

    def _chunks_of(self, piece: str | LLMResponse) -> Iterator[StreamChunk]:
        if isinstance(piece, LLMResponse):
            self._response = piece
            chunks: Iterable[StreamChunk] = chunks_of(piece, self.text)
        else:
            chunks = [TextChunk(piece)] if piece else []
        for chunk in chunks:
            self._texts.append(chunk.text)
            yield chunk

    def _check_end(self) -> None:
        if self._response is None:
            raise LLMConnectionError(
                "The stream ended before the answer did: its generator yielded no LLMResponse.", maybe_billed=True
            )


def nothing_yet(model: str = "") -> LLMResponse:
    """The response of a stream that has yielded nothing yet."""
    usage = Usage(prompt_tokens=0, completion_tokens=0, estimated=True)
    return LLMResponse(content="", model=model, usage=usage, finish_reason="unknown")

"""Metering of streams of adapters that do not know about budgets: one hold around one stream.

As with `execute_prompt`, every class that defines `stream_prompt` or `async_stream_prompt` is metered, unless it sets
`metered = False`. The response of the stream settles the hold; a stream that is left early is booked at its bound.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator
from typing import Any

from llm_connect.budget.admission.holds import Hold
from llm_connect.interface.config import RunConfig
from llm_connect.interface.metering import adispatch, dispatch, ends, settled, while_running
from llm_connect.interface.ports import Metered
from llm_connect.interface.reservation import Terms, hinted, log_cut
from llm_connect.interface.stream_sources import nothing_yet
from llm_connect.interface.streams import AsyncLLMStream, LLMStream
from llm_connect.types.chunks import StreamChunk
from llm_connect.types.response import LLMResponse

Written = Callable[..., Any]


def install(cls: type[object]) -> None:
    """Meter the streams that `cls` itself defines."""
    written = vars(cls)
    if not written.get("metered", True):
        return
    for name, wrap in (("stream_prompt", _metered), ("async_stream_prompt", _ametered)):
        if name in written:
            setattr(cls, name, wrap(written[name]))


def _metered(method: Written) -> Written:
    @functools.wraps(method)
    def stream_prompt(self: Metered, prompt: Any, config: RunConfig | None = None) -> LLMStream:
        return LLMStream(MeteredStream(method, self, prompt, config))

    return stream_prompt


def _ametered(method: Written) -> Written:
    @functools.wraps(method)
    def async_stream_prompt(self: Metered, prompt: Any, config: RunConfig | None = None) -> AsyncLLMStream:
        return AsyncLLMStream(MeteredStream(method, self, prompt, config))

    return async_stream_prompt


class MeteredStream:
    """The source of a metered stream, around the stream of an adapter."""

    def __init__(self, method: Written, adapter: Metered, prompt: Any, config: RunConfig | None) -> None:
        self._method = method
        self._adapter = adapter
        self._prompt = prompt
        self._config = config
        self._inner: LLMStream | AsyncLLMStream | None = None
        self._hold: Hold | None = None

    def chunks(self) -> Generator[StreamChunk]:
        terms = Terms.of(self._adapter, self._prompt, self._config)
        if terms is None:
            with self._open(self._config) as inner:
                yield from inner
            return
        hold = self._hold = dispatch(terms)
        with ends(hold):
            with self._open(terms.config_for(hold)) as inner:
                yield from self._given(hold, inner)
            settled(hold, self.response)
            log_cut(hold, terms.config, self.response.finish_reason)

    async def achunks(self) -> AsyncGenerator[StreamChunk]:
        terms = Terms.of(self._adapter, self._prompt, self._config)
        if terms is None:
            async with self._open(self._config) as inner:
                async for chunk in inner:
                    yield chunk
            return
        hold = self._hold = await adispatch(terms)
        with ends(hold):
            async with self._open(terms.config_for(hold)) as inner:
                async for chunk in self._agiven(hold, inner):
                    yield chunk
            settled(hold, self.response)
            log_cut(hold, terms.config, self.response.finish_reason)

    def abandon(self) -> None:
        if self._hold is not None:
            self._hold.end_unsettled()

    @property
    def text(self) -> str:
        return "" if self._inner is None else self._inner.text

    @property
    def response(self) -> LLMResponse:
        if self._inner is None:
            return nothing_yet()
        return hinted(self._inner.response, self._hold, self._config or RunConfig())

    def _open(self, config: RunConfig | None) -> Any:
        self._inner = self._method(self._adapter, self._prompt, config)
        return self._inner

    def _given(self, hold: Hold, chunks: Iterator[StreamChunk]) -> Iterator[StreamChunk]:
        while True:
            with while_running(self._adapter, hold):
                chunk = next(chunks, None)
            if chunk is None:
                return
            yield chunk

    async def _agiven(self, hold: Hold, chunks: AsyncIterator[StreamChunk]) -> AsyncIterator[StreamChunk]:
        while True:
            with while_running(self._adapter, hold):
                chunk = await anext(chunks, None)
            if chunk is None:
                return
            yield chunk

"""Metering of streams of adapters that do not know about budgets: one hold around one stream.

As with `execute_prompt`, every class that defines `stream_prompt` or `async_stream_prompt` is metered, unless it sets
`metered = False`. The response of the stream settles the hold; a stream that is left early is booked at its bound.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from llm_connect.budget.admission.holds import Hold
from llm_connect.errors import LLMError
from llm_connect.interface.config import RunConfig
from llm_connect.interface.metered import Metered
from llm_connect.interface.metering import MeteredAttempt, while_running
from llm_connect.interface.outcomes import Finished
from llm_connect.interface.reservation import Terms, hinted
from llm_connect.interface.stream_runners import StreamFlow, abandon, adrive_stream, drive_stream
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


class MeteredStream(MeteredAttempt):
    """The source of a metered stream, around the stream of an adapter."""

    def __init__(self, method: Written, adapter: Metered, prompt: Any, config: RunConfig | None) -> None:
        self._method = method
        self._adapter = adapter
        self._prompt = prompt
        self._config = config
        self._inner: LLMStream | AsyncLLMStream | None = None
        self._hold: Hold | None = None
        self._flow = self._run()

    def chunks(self) -> Generator[StreamChunk]:
        return drive_stream(self._flow)

    def achunks(self) -> AsyncGenerator[StreamChunk]:
        return adrive_stream(self._flow)

    def abandon(self) -> None:
        abandon(self._flow)

    @property
    def text(self) -> str:
        return "" if self._inner is None else self._inner.text

    @property
    def response(self) -> LLMResponse:
        if self._inner is None:
            return nothing_yet()
        return hinted(self._inner.response, self._hold, self._config or RunConfig())

    def _run(self) -> StreamFlow:
        terms = Terms.of(self._adapter, self._prompt, self._config)
        if terms is None:
            yield from self._read(self._config)
        else:
            self.terms = terms
            yield from self.attempts()

    def exchange(self, hold: Hold) -> Generator[Any, Any, Finished]:
        self._hold = hold
        try:
            yield from self._read(self.terms.config_for(hold))
        except LLMError as error:
            return Finished(error=error)
        return Finished(self.response)

    def _read(self, config: RunConfig | None) -> StreamFlow:
        inner = self._inner = self._method(self._adapter, self._prompt, config)
        try:
            while (chunk := (yield _Next(inner, self._adapter, self._hold))) is not None:
                yield chunk
        except GeneratorExit:
            # The flow is being collected: no runner takes another step, and the inner stream closes itself.
            raise
        except BaseException:
            yield _Close(inner)
            raise
        yield _Close(inner)


class _Next:
    """Requests the next chunk of the inner stream; None at its end."""

    __slots__ = ("adapter", "hold", "stream")

    def __init__(self, stream: Any, adapter: Metered, hold: Hold | None) -> None:
        self.stream, self.adapter, self.hold = stream, adapter, hold

    def run(self) -> StreamChunk | None:
        with self._running():
            return next(self.stream, None)

    async def arun(self) -> StreamChunk | None:
        with self._running():
            return await anext(self.stream, None)

    def _running(self) -> AbstractContextManager[None]:
        return nullcontext() if self.hold is None else while_running(self.adapter, self.hold)


class _Close:
    """Closes the inner stream; the only step that a metered stream takes on its way out."""

    __slots__ = ("stream",)

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def run(self) -> None:
        self.stream.close()

    async def arun(self) -> None:
        await self.stream.aclose()

    def abandon(self) -> None:
        """A no-op, because nothing can be awaited: the inner stream closes itself when it is collected."""

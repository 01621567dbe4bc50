"""Metering of adapters that do not know about budgets: one hold around one call or one stream.

Every class that defines `execute_prompt` or `stream_prompt`, or their async forms, is metered, unless it sets
`metered = False`. The hold covers `bound`, the method gets a config with the output limit that the hold assumes, and
the usage of the response settles the hold; a stream that is left early is booked at its bound. If a metered call
reaches another metered call of the same adapter, as with `super().execute_prompt(...)` or an async form that calls the
sync one, the inner hold replaces the outer one, so nothing counts twice.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Awaitable, Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial, wraps
from typing import Any

from llm_connect._flows import Flow, adrive, drive
from llm_connect.budget.admission.holds import Hold, remember_own
from llm_connect.errors import LLMError
from llm_connect.interface.attempt import Finished, Metered, Terms, attempt, end_by_result, hinted, log_cut, running
from llm_connect.interface.config import RunConfig
from llm_connect.interface.streams import (
    AsyncLLMStream,
    Following,
    LLMStream,
    StreamFlow,
    StreamSource,
    follow,
    nothing_yet,
)
from llm_connect.types.response import LLMResponse

Execute = Callable[..., LLMResponse]
AsyncExecute = Callable[..., Awaitable[LLMResponse]]
Method = Callable[..., Any]


def install(cls: type[object]) -> None:
    """Meter the methods that `cls` itself defines."""
    written = vars(cls)
    if not written.get("metered", True):
        return
    for name, wrap in _WRAPPERS.items():
        if name in written:
            setattr(cls, name, wrap(written[name]))


async def execute_in_thread(adapter: Metered, prompt: Any, config: RunConfig | None) -> LLMResponse:
    """Run the sync method of an adapter for a coroutine: the task waits for budget, a worker thread makes the call.

    Cancelling the task keeps a thread that has not started yet from making the call; a started thread ends its own
    hold.
    """
    method = getattr(type(adapter).execute_prompt, "unmetered", None)
    terms = None if method is None else Terms.of(adapter, prompt, config)
    if method is None or terms is None:
        return await asyncio.to_thread(adapter.execute_prompt, prompt, config)
    hold = await adrive(terms.acquire())
    attempts = _attempts(method, adapter, prompt, terms, hold)
    claim = threading.Lock()

    def work() -> LLMResponse:
        if not claim.acquire(blocking=False):
            raise asyncio.CancelledError
        return drive(attempts)

    try:
        return await asyncio.to_thread(work)
    except BaseException:
        if claim.acquire(blocking=False):
            hold.release()
        raise


def _metered(method: Execute) -> Execute:
    @wraps(method)
    def execute_prompt(self: Metered, prompt: Any, config: RunConfig | None = None) -> LLMResponse:
        terms = Terms.of(self, prompt, config)
        if terms is None:
            return method(self, prompt, config)
        return drive(_attempts(method, self, prompt, terms))

    execute_prompt.unmetered = method  # type: ignore[attr-defined]
    return execute_prompt


def _ametered(method: AsyncExecute) -> AsyncExecute:
    @wraps(method)
    async def async_execute_prompt(self: Metered, prompt: Any, config: RunConfig | None = None) -> LLMResponse:
        terms = Terms.of(self, prompt, config)
        if terms is None:
            return await method(self, prompt, config)
        return await adrive(_attempts(method, self, prompt, terms))

    return async_execute_prompt


def _streamed(kind: Callable[[MeteredStream], Any]) -> Callable[[Method], Method]:
    def wrap(method: Method) -> Method:
        @wraps(method)
        def stream_prompt(self: Metered, prompt: Any, config: RunConfig | None = None) -> Any:
            return kind(MeteredStream(method, self, prompt, config))

        return stream_prompt

    return wrap


_WRAPPERS: dict[str, Callable[[Any], Any]] = {
    "execute_prompt": _metered,
    "async_execute_prompt": _ametered,
    "stream_prompt": _streamed(LLMStream),
    "async_stream_prompt": _streamed(AsyncLLMStream),
}


class MeteredAttempts:
    """The attempts of one call or stream of an adapter that does not know about budgets.

    exchange: calls the method under a hold. reserved: a hold for the first attempt that was reserved already.
    """

    #: Foreign adapters have no concurrency slots.
    come_back: Callable[[], Flow[Finished | None]] | None = None

    def __init__(
        self, terms: Terms, exchange: Callable[[Hold], Generator[Any, Any, Finished]], reserved: Hold | None = None
    ) -> None:
        self.terms = terms
        self.exchange = exchange
        self._reserved = reserved

    def reserve(self) -> Flow[Hold]:
        hold, self._reserved, terms = self._reserved, None, self.terms
        if hold is None:
            hold = yield from terms.acquire()
        # Calls inside the method count this hold as their caller's own.
        remember_own(hold)
        return hold

    def end(self, hold: Hold, outcome: Finished) -> None:
        end_by_result(hold, outcome)
        if isinstance(outcome.response, LLMResponse):
            log_cut(hold, self.terms.config, outcome.response.finish_reason)

    def end_open(self, hold: Hold) -> None:
        hold.end_unsettled()

    def run(self) -> Generator[Any, Any, LLMResponse]:
        """Make attempts until one has called the method, and return its response or raise its error."""
        finished = None
        while finished is None:
            finished = yield from attempt(self)
        if finished.error is not None:
            raise finished.error
        response: LLMResponse = finished.response
        return response


def _attempts(
    method: Any, adapter: Metered, prompt: Any, terms: Terms, reserved: Hold | None = None
) -> Flow[LLMResponse]:
    """The attempts of one call of a method that does not know about budgets."""
    return MeteredAttempts(terms, partial(_exchange, method, adapter, prompt, terms), reserved).run()


def _exchange(method: Any, adapter: Metered, prompt: Any, terms: Terms, hold: Hold) -> Flow[Finished]:
    config = terms.config_for(hold)
    try:
        response = yield _Execute(hold, method, adapter, prompt, config)
    except LLMError as error:
        return Finished(error=error)
    return Finished(hinted(response, hold, terms.config))


@dataclass(slots=True)
class _Execute:
    """Calls a metered method."""

    hold: Hold
    method: Any
    adapter: Metered
    prompt: Any
    config: RunConfig

    def run(self) -> Any:
        with _running(self.adapter, self.hold):
            return self.method(self.adapter, self.prompt, self.config)

    async def arun(self) -> Any:
        with _running(self.adapter, self.hold):
            return await self.method(self.adapter, self.prompt, self.config)


class MeteredStream(StreamSource):
    """The source of a metered stream, around the stream of an adapter."""

    def __init__(self, method: Method, adapter: Metered, prompt: Any, config: RunConfig | None) -> None:
        super().__init__()
        self._method = method
        self._adapter = adapter
        self._prompt = prompt
        self._config = config
        self._inner: LLMStream | AsyncLLMStream | None = None
        self._hold: Hold | None = None

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
            yield from MeteredAttempts(terms, partial(self._exchange, terms)).run()

    def _exchange(self, terms: Terms, hold: Hold) -> Generator[Any, Any, Finished]:
        self._hold = hold
        try:
            yield from self._read(terms.config_for(hold))
        except LLMError as error:
            return Finished(error=error)
        return Finished(self.response)

    def _read(self, config: RunConfig | None) -> StreamFlow:
        inner = self._inner = self._method(self._adapter, self._prompt, config)
        step = Following(inner) if self._hold is None else _MeteredNext(inner, self._adapter, self._hold)
        yield from follow(step, lambda chunk: [chunk])


@dataclass(slots=True)
class _MeteredNext(Following):
    """Requests the next chunk of the inner stream under a hold."""

    adapter: Metered
    hold: Hold

    def run(self) -> Any:
        with _running(self.adapter, self.hold):
            return Following.run(self)

    async def arun(self) -> Any:
        with _running(self.adapter, self.hold):
            return await Following.arun(self)


@contextmanager
def _running(adapter: Metered, hold: Hold) -> Iterator[None]:
    """Inside the block, a call of the same adapter replaces `hold`."""
    token = running.set((adapter, weakref.ref(hold)))
    try:
        yield
    finally:
        running.reset(token)

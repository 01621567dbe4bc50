"""One exchange with a provider: its request and replies, the methods of an adapter for it, and its steps.

Flows yield the steps. Each has a form for threads and one for tasks, and returns a failure where the adapter raises.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Protocol, TypeAlias

from llm_connect.budget.accounting.bounds import Bound, CountTokens, TokenCounter, counter_of, measured, utf8_bytes
from llm_connect.budget.accounting.prices import Price
from llm_connect.budget.admission.refusals import without_list_prices
from llm_connect.budget.tracker import BudgetTracker
from llm_connect.engine.concurrency_limit import Slots
from llm_connect.engine.deadline import Deadline, Head, awaited, timed_out
from llm_connect.engine.http_options import DEFAULT_REPLY_BYTES
from llm_connect.engine.price_lists import DEFAULT_TIER, list_price
from llm_connect.engine.scrub import Scrubber
from llm_connect.engine.threads import Once
from llm_connect.errors import LLMConfigurationError, LLMConnectionError, LLMError
from llm_connect.interface.adapter import DEFAULT_MAX_TOKENS, LLMAdapter
from llm_connect.interface.config import RunConfig
from llm_connect.protocols.stream_reading import Reading
from llm_connect.protocols.wire import JSON, Answer, Failure, Reply
from llm_connect.types.response import Prompt

#: The outcome of an attempt.
Outcome: TypeAlias = Answer | Failure


@dataclass(slots=True)
class Request:
    """One rendered request: its body, path and model; a GET has no body."""

    path: str
    model: str
    body: JSON
    method: Literal["POST", "GET"] = "POST"


@dataclass(frozen=True, slots=True)
class Counting:
    """The provider's endpoint that counts the tokens of a prompt.

    request: makes the question about a request. bound: tightens a bound for a model by the reply, or returns it as it
    is if the reply has no count.
    """

    request: Callable[[Request], Request]
    bound: Callable[[Bound, Reply, str], Bound]


class _Opened(Protocol):
    """A reply that is read while it arrives: its status is known, its body is still to come."""

    @property
    def status(self) -> int: ...
    @property
    def headers(self) -> Mapping[str, str]: ...

    def abandon(self) -> None:
        """Close it when nothing can be awaited, because the event loop is gone, or the stream is garbage."""
        ...


class OpenReply(_Opened, Protocol):
    """Such a reply in a thread."""

    def read(self, deadline: Deadline) -> bytes:
        """Return the next bytes of the body, or none at its end; wait until `deadline`."""
        ...

    def close(self) -> None:
        """Give the connection back if the body was read to its end, else close it, at once."""
        ...


class AsyncOpenReply(_Opened, Protocol):
    """Such a reply in an event loop."""

    async def aread(self) -> bytes:
        """Like `read`; the caller bounds it with a timeout, and may cancel it."""
        ...

    async def aclose(self) -> None:
        """Like `close`."""
        ...


class Exchange(LLMAdapter):
    """The part of a provider's adapter that the call path uses.

    Subclasses render, bound and parse by their protocol, and send: `render`, `bound_of`, `parse`, `send`, `asend`,
    `transport_failure`; for streams `streamed`, `reading`, `open` and `aopen`.
    """

    provider: ClassVar[str]
    metered = False
    #: True if the transport calls `note_sent` just before the first byte of a request leaves. Otherwise a request
    #: counts as sent as soon as the transport has it.
    marks_sent: ClassVar[bool] = False
    _cold: bool = False
    #: The most text of one answer that is kept.
    max_reply_bytes: int = DEFAULT_REPLY_BYTES

    def __init__(
        self,
        *,
        model: str,
        max_concurrency: int,
        secrets: tuple[str, ...] = (),
        budget_tracker: BudgetTracker | None = None,
        price: Price | None = None,
        count_tokens: CountTokens = None,
    ) -> None:
        RunConfig(model_name=model)
        if model is None:
            raise LLMConfigurationError("model must name a model of the provider.")
        self.model = model
        self.slots: Slots = Slots(max_concurrency)
        self.warming: Once = Once()
        self.secrets = secrets
        #: Removes keys from the provider's texts.
        self.scrubber: Scrubber = Scrubber(secrets)
        self.budget_tracker = budget_tracker
        self.price = price
        self.count_tokens: CountTokens = count_tokens
        _ = self.counter

    @property
    def cold(self) -> bool:
        """True if the first call still has to import something."""
        return self._cold

    def prepare(self) -> None:
        """Do the imports that calls need, in any thread."""

    def make_client(self) -> None:
        """Make the client for calls in threads."""

    async def amake_client(self) -> None:
        """Make the client for calls in the running event loop."""

    @abstractmethod
    def render(self, prompt: Prompt, config: RunConfig, max_tokens: int | None) -> Request:
        """Render the request for `prompt`, with `max_tokens` as its output limit (None: without one)."""

    @abstractmethod
    def limited(self, request: Request, max_tokens: int | None) -> Request:
        """The same request with another output limit (None: without one)."""

    @property
    def price_list(self) -> str | None:
        """The provider's id in genai-prices; None if requests do not go to the provider itself."""
        return None

    @property
    def _why_no_price(self) -> str:
        return without_list_prices() if self.price_list else "list prices do not count behind base_url"

    def price_for(self, model: str | None, config: RunConfig) -> Price | None:
        """The list price, at the provider's own endpoint. Imports genai-prices at the first call."""
        provider = self.price_list
        return None if provider is None else list_price(provider, model or self.model, self.service_tier(config))

    def service_tier(self, config: RunConfig) -> str:
        """The service tier, and so the price, at which the provider should serve a call."""
        return DEFAULT_TIER

    def priced(self, request: Request, price: Price) -> Request:
        """Add to `request` the fields that keep it at `price`, for a call under a USD limit; by default none."""
        return request

    def bound(self, prompt: Prompt, config: RunConfig) -> Bound:
        """The upper bound of a call, computed from the request that would be sent; nothing is sent.

        With `count_tokens`, the bound uses its count of the texts if that is less. With `count_tokens="provider"` it
        uses bytes all the same, because only a call asks the provider.
        """
        max_tokens = config.max_tokens or DEFAULT_MAX_TOKENS
        return self.bound_of(self.render(prompt, config, max_tokens), max_tokens, self.counter)

    def _bound_rendered(self, prompt: Prompt, config: RunConfig, request: Request, max_tokens: int) -> Bound:
        """The same as `bound`, if the request is rendered already. A subclass may override `bound`, which counts."""
        if type(self).bound is not Exchange.bound:
            return self.bound(prompt, config)
        return self.bound_of(request, max_tokens, self.counter)

    def bound_of(self, request: Request, max_tokens: int, counter: TokenCounter | None = None) -> Bound:
        """The upper bound of `request`: by default the bytes of its body plus the output limit, as an estimate."""
        size = measured(utf8_bytes, counter)
        return Bound(prompt_tokens=size(json.dumps(request.body, ensure_ascii=False)), max_tokens=max_tokens)

    @property
    def counter(self) -> TokenCounter | None:
        """The tokenizer in `count_tokens`, or None. Raises LLMConfigurationError for an invalid value."""
        return counter_of(self.count_tokens) if self.counting is None else None

    @property
    def counting(self) -> Counting | None:
        """The provider's counting endpoint; None unless `count_tokens` asks for it."""
        return self._endpoint_that_counts() if self.count_tokens == "provider" else None

    def _endpoint_that_counts(self) -> Counting | None:
        """The provider's counting endpoint; None if it has none."""
        return None

    @abstractmethod
    def parse(self, reply: Reply) -> Outcome:
        """Parse `reply` into an answer or a failure."""

    @abstractmethod
    def send(self, request: Request, deadline: Deadline) -> Reply:
        """Send `request` once and read the whole reply, both before `deadline`."""

    @abstractmethod
    async def asend(self, request: Request, deadline: Deadline) -> Reply:
        """Like `send`; may be cancelled at any point, and then drops its connection."""

    @abstractmethod
    def streamed(self, request: Request) -> Request:
        """The same request, for a streamed reply."""

    @abstractmethod
    def reading(self) -> Reading:
        """Make the reader of a streamed reply; it assembles a body for `parse`."""

    @abstractmethod
    def open(self, request: Request, deadline: Deadline) -> OpenReply:
        """Send `request` once and wait for the status of the reply."""

    @abstractmethod
    async def aopen(self, request: Request, deadline: Deadline) -> AsyncOpenReply:
        """Like `open`; the caller bounds it with a timeout, and may cancel it at any point."""

    @abstractmethod
    def transport_failure(self, error: Exception) -> Failure:
        """Translate an exception of these methods, or of reading an open reply."""

    def _error_for(self, failure: Failure, *, model: str, prompts: Iterable[str | None] = (), **facts: Any) -> LLMError:
        """The error for a failure, without any key or prompt."""
        scrubber = self.scrubber.beside(prompts)
        return failure.kind(
            f"{' '.join(filter(None, (self.provider, model)))}: {scrubber.clean(failure.message)}",
            provider=self.provider,
            model=model or None,
            request_id=scrubber.name(failure.request_id),
            retry_after=failure.retry_after,
            **facts,
            **scrubber.clean(dict(failure.details)),
        )


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a step waits, and the words for its failure."""

    deadline: Deadline
    missing: str = "no whole reply came"
    limit: str = "timeout_seconds"

    def late(self, head: Head) -> Failure:
        """The failure of an exchange that did not end in time."""
        what = self.missing if head.sent else "no connection was made in time, so nothing was sent"
        return replace(timed_out(what, maybe_billed=head.sent, limit=self.limit), request_id=head.request_id)


@dataclass(slots=True)
class _Step:
    """A part of an exchange with the provider, until the end of `patience`; errors on the way become a `Failure`."""

    adapter: Exchange
    patience: Patience
    #: Facts about the exchange that are known before the whole reply.
    head: Head

    def run(self) -> Any:
        self.head.until = self.patience.deadline.at
        awaited.set(self.head)
        try:
            return self._do()
        except Exception as error:
            return self._failure(error)
        finally:
            self.head.until = None

    async def arun(self) -> Any:
        awaited.set(self.head)
        try:
            async with asyncio.timeout(self.patience.deadline.remaining()):
                return await self._ado()
        except Exception as error:
            return self._failure(error)

    @abstractmethod
    def _do(self) -> Any: ...
    @abstractmethod
    async def _ado(self) -> Any: ...

    def _failure(self, error: Exception) -> Failure:
        """Translate an exception. If nothing was sent, the attempt costs nothing and may be retried."""
        if self.patience.deadline.passed:
            return self.patience.late(self.head)
        failure = self.adapter.transport_failure(error)
        if self.head.sent:
            return replace(failure, request_id=failure.request_id or self.head.request_id)
        retryable = failure.retryable or failure.kind is LLMConnectionError
        return replace(failure, maybe_billed=False, retryable=retryable)


@dataclass(slots=True)
class Send(_Step):
    """Sends one request and reads its whole reply."""

    request: Request

    def _do(self) -> Reply:
        return self.adapter.send(self.request, self.patience.deadline)

    async def _ado(self) -> Reply:
        return await self.adapter.asend(self.request, self.patience.deadline)


@dataclass(slots=True)
class Open(_Step):
    """Sends one request and waits for the status of its reply."""

    request: Request

    def _do(self) -> OpenReply:
        return self.adapter.open(self.request, self.patience.deadline)

    async def _ado(self) -> AsyncOpenReply:
        return await self.adapter.aopen(self.request, self.patience.deadline)


@dataclass(slots=True)
class Next(_Step):
    """Reads the next bytes of an open reply, none at its end."""

    reply: OpenReply | AsyncOpenReply

    def _do(self) -> bytes:
        return self.reply.read(self.patience.deadline)  # type: ignore[union-attr]

    async def _ado(self) -> bytes:
        return await self.reply.aread()  # type: ignore[union-attr]


@dataclass(frozen=True, slots=True)
class Breathe:
    """A moment for other tasks, while much has come that is to be read; a `Failure` once the deadline has passed."""

    patience: Patience
    head: Head

    def run(self) -> Failure | None:
        return self.patience.late(self.head) if self.patience.deadline.passed else None

    async def arun(self) -> Failure | None:
        await asyncio.sleep(0)
        return self.run()


@dataclass(frozen=True, slots=True)
class Close:
    """Closes an open reply; the only step that a stream takes on its way out."""

    reply: OpenReply | AsyncOpenReply

    def run(self) -> None:
        with suppress(Exception):
            self.reply.close()  # type: ignore[union-attr]

    async def arun(self) -> None:
        with suppress(Exception):
            await self.reply.aclose()  # type: ignore[union-attr]

    def abandon(self) -> None:
        """The same when nothing can be awaited."""
        with suppress(Exception):
            self.reply.abandon()


@dataclass(slots=True)
class Pause:
    """Waits before the next attempt."""

    seconds: float

    def run(self) -> None:
        time.sleep(self.seconds)

    async def arun(self) -> None:
        await asyncio.sleep(self.seconds)


_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 20.0


def pause_before_retry(failure: Failure, attempt: int, max_retries: int, deadline: Deadline) -> float | None:
    """Seconds to wait before the next attempt, or None if there should be no other.

    A pause that the provider asks for is kept in full; otherwise pauses double, with jitter. A pause that would pass
    the deadline is not begun.
    """
    if not failure.retryable or attempt > max_retries:
        return None
    pause = _backoff(attempt) if failure.retry_after is None else failure.retry_after
    return pause if pause < deadline.remaining() else None


def _backoff(attempt: int) -> float:
    longest = min(_LONGEST_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * 2.0 ** (attempt - 1))
    return longest * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, not a secret

"""The bases of all provider adapters: their entries to the one call path, and how those over HTTP reach a client."""

from __future__ import annotations

import os
from abc import abstractmethod
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar, Self

from llm_connect import _forks
from llm_connect._flows import adrive, drive
from llm_connect.engine.clients import Carrier, Clients
from llm_connect.engine.deadline import Deadline
from llm_connect.engine.exchange import AsyncOpenReply, Exchange, OpenReply, Request
from llm_connect.engine.flow import Call
from llm_connect.engine.streaming import ProviderStream
from llm_connect.engine.warming import WarmUp
from llm_connect.errors import LLMConfigurationError
from llm_connect.interface.config import RunConfig
from llm_connect.interface.streams import AsyncLLMStream, LLMStream
from llm_connect.protocols.wire import Failure, Reply
from llm_connect.types.response import LLMResponse, Prompt

if TYPE_CHECKING:
    import httpx2


class ProviderAdapter(Exchange):
    """Base of the adapters that carry a protocol to a provider.

    The call path takes care of budget, deadline, retries and errors. Use an adapter as a context manager, or call
    `close` (`aclose` in a coroutine), to close its connections early.
    """

    metered = False

    def execute_prompt(self, prompt: Prompt, config: RunConfig | None = None) -> LLMResponse:
        return drive(Call(self, prompt, config or RunConfig()).run())

    async def async_execute_prompt(self, prompt: Prompt, config: RunConfig | None = None) -> LLMResponse:
        return await adrive(Call(self, prompt, config or RunConfig()).run())

    def stream_prompt(self, prompt: Prompt, config: RunConfig | None = None) -> LLMStream:
        return LLMStream(ProviderStream(self, prompt, config or RunConfig()))

    def async_stream_prompt(self, prompt: Prompt, config: RunConfig | None = None) -> AsyncLLMStream:
        return AsyncLLMStream(ProviderStream(self, prompt, config or RunConfig()))

    def validate_config(self, config: RunConfig) -> bool:
        """True if `config` can be rendered for this provider: its parameters are known here."""
        try:
            self.render("x", config, config.max_tokens)
        except LLMConfigurationError:
            return False
        return True

    def warm_up(self) -> None:
        """Do the preparations of the first call now: import the SDK and the list prices, and make a client.

            adapter = OpenAIAdapter()
            adapter.warm_up()

        Nothing is sent, and a second time costs nothing. Otherwise the first call does it, within its deadline.
        Raises LLMConfigurationError.
        """
        self._raise(WarmUp(self, None, self.price_list is not None).run())

    async def async_warm_up(self) -> None:
        """Like `warm_up`, for a coroutine: the slow parts run in a thread, and the event loop goes on."""
        self._raise(await WarmUp(self, None, self.price_list is not None).arun())

    def _raise(self, failure: Failure | None) -> None:
        if failure is not None:
            raise self._error_for(failure, model=self.model, maybe_billed=False)

    def close(self) -> None:
        """Close the connections of this adapter; it may be used again."""

    async def aclose(self) -> None:
        """Like `close`, and wait for the connections of the running event loop."""
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(model={self.model!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


_first_use = _forks.ForkLock()


class _MadeOnce:
    """The clients of an adapter, made on first use, by one thread. From then on reading them calls nothing."""

    def __get__(self, adapter: Any, owner: type) -> Clients:
        found: dict[str, Any] = vars(adapter)
        with _first_use:
            if "_clients" not in found:
                found["_clients"] = Clients(adapter, adapter.make_carrier())
                found["_cold"] = False
        made: Clients = found["_clients"]
        return made


class CarriedAdapter(ProviderAdapter):
    """An adapter that sends through a `Carrier`. Subclasses implement `make_carrier`."""

    marks_sent: ClassVar[bool] = True
    _cold = True

    @abstractmethod
    def make_carrier(self) -> Carrier:
        """Import the module of this adapter's carrier, and make one."""

    _clients: _MadeOnce = _MadeOnce()

    def prepare(self) -> None:
        from llm_connect.engine import http

        http.prepare()
        self.make_carrier().prepare()
        _ = self._clients

    def make_client(self) -> None:
        with self._clients.lease():
            """It stays, for calls."""

    async def amake_client(self) -> None:
        with await self._clients.lease_in_loop():
            """It stays, for calls of this loop."""

    def send(self, request: Request, deadline: Deadline) -> Reply:
        with self._clients.lease() as client:
            return reply_of(self._clients.carrier.send(client, request, stream=False))

    async def asend(self, request: Request, deadline: Deadline) -> Reply:
        with await self._clients.lease_in_loop() as client:
            return reply_of(await self._clients.carrier.asend(client, request, stream=False))

    def open(self, request: Request, deadline: Deadline) -> OpenReply:
        from llm_connect.engine.http_stream import HttpStream

        lease = self._clients.lease()
        with lease as client:
            reply = HttpStream(self._clients.carrier.send(client, request, stream=True))
            reply.end_with(lease.shared())
            return reply

    async def aopen(self, request: Request, deadline: Deadline) -> AsyncOpenReply:
        from llm_connect.engine.http_stream import AsyncHttpStream

        lease = await self._clients.lease_in_loop()
        with lease as client:
            reply = AsyncHttpStream(await self._clients.carrier.asend(client, request, stream=True))
            reply.end_with(lease.shared())
            return reply

    def transport_failure(self, error: Exception) -> Failure:
        return self._clients.carrier.failure_of(error)

    def close(self) -> None:
        if not self._cold:
            self._clients.close()

    async def aclose(self) -> None:
        if not self._cold:
            await self._clients.aclose()


def api_key_from(api_key: str | None, *variables: str) -> str:
    """The given key, else the first of the environment `variables` that is set."""
    for candidate in (api_key, *(os.environ.get(name) for name in variables)):
        if candidate is not None and candidate.strip():
            return _usable(candidate.strip())
    raise LLMConfigurationError(f"No API key: pass api_key=, or set the environment variable {' or '.join(variables)}.")


def _usable(key: str) -> str:
    if not key.isascii() or not key.isprintable() or " " in key:
        raise LLMConfigurationError("The API key contains characters not allowed in an HTTP header: copy it again.")
    return key


def reply_of(response: httpx2.Response) -> Reply:
    """Convert the whole response into the `Reply` that protocols read."""
    headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers.raw}
    return Reply(response.status_code, headers, response.content)


def require(module: str, *, extra: str) -> None:
    """Raise LLMConfigurationError if `module`, which belongs to the extra, is not installed."""
    if find_spec(module.partition(".")[0]) is None or find_spec(module) is None:
        package = module.replace(".", "-")
        raise LLMConfigurationError(
            f"The package {package!r} is not installed: install it, or this library with its extra {extra!r}."
        )

"""The base of adapters that send over HTTP, with clients that live as long as the adapter."""

from __future__ import annotations

from abc import abstractmethod
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar

from llm_connect import _forks
from llm_connect.engine.clients import Carrier, Clients
from llm_connect.engine.deadline import Deadline
from llm_connect.engine.exchange import AsyncOpenReply, OpenReply, Request
from llm_connect.engine.provider_adapter import ProviderAdapter
from llm_connect.errors import LLMConfigurationError
from llm_connect.protocols.wire import Failure, Reply

if TYPE_CHECKING:
    import httpx2

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

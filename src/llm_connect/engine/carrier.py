"""Sending over HTTP with a client that lives as long as its adapter."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from llm_connect import _forks
from llm_connect.engine.client_leases import Lease
from llm_connect.engine.clients import Clients
from llm_connect.engine.deadline import Deadline
from llm_connect.engine.exchange import Request
from llm_connect.engine.provider_adapter import ProviderAdapter
from llm_connect.engine.response_headers import note_sent
from llm_connect.engine.response_stream import AsyncOpenReply, OpenReply
from llm_connect.errors import LLMConfigurationError
from llm_connect.protocols.wire import Failure, Reply

if TYPE_CHECKING:
    from llm_connect.engine.http_stream import AsyncHttpStream, HttpStream

T = TypeVar("T")

_first_use = _forks.ForkLock()


class Carrier(ABC):
    """One SDK or HTTP library: makes and closes its clients, and sends a request once.

    A carrier's module imports its library, so an adapter imports the carrier on first use.

    hidden, ahidden: True if the user's own client hides the sockets of the sync or the async form, so that nobody
    notes when the first byte leaves. Known once a client exists.
    """

    hidden = False
    ahidden = False

    def prepare(self) -> None:  # noqa: B027 - most have nothing more
        """Let the library do the imports of its first client or request now, in any thread."""

    @abstractmethod
    def make(self) -> Any:
        """Make a client for threads."""

    @abstractmethod
    def amake(self) -> Any:
        """Make a client for the running event loop."""

    @abstractmethod
    def close(self, client: Any) -> None:
        """Close a client of `make`."""

    @abstractmethod
    async def aclose(self, client: Any) -> None:
        """Close a client of `amake`."""

    @abstractmethod
    def post(self, client: Any, request: Request) -> Reply:
        """Send once and read the whole reply; the sockets obey the deadline of the call."""

    @abstractmethod
    async def apost(self, client: Any, request: Request) -> Reply:
        """Like `post`; the caller bounds it with a timeout."""

    @abstractmethod
    def abandon(self, client: Any) -> None:
        """Close the connections of a client of `amake` after its loop is gone, when nothing can be awaited."""

    @abstractmethod
    def open(self, client: Any, request: Request) -> HttpStream:
        """Send once and wait for the status; the sockets obey the deadline of the call."""

    @abstractmethod
    async def aopen(self, client: Any, request: Request) -> AsyncHttpStream:
        """Like `open`; the caller bounds it with a timeout."""

    @abstractmethod
    def failure_of(self, error: Exception) -> Failure:
        """Translate an exception of these methods, or of reading an open reply."""


class _MadeOnce(Generic[T]):
    """An attribute that is made on first use, by one thread. From then on reading it calls nothing."""

    def __init__(self, make: Callable[[Any], T]) -> None:
        self._make = make

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, adapter: Any, owner: type) -> T:
        found: dict[str, Any] = vars(adapter)
        with _first_use:
            if self._name not in found:
                found[self._name] = self._make(adapter)
        made: T = found[self._name]
        return made


class CarriedAdapter(ProviderAdapter):
    """An adapter that sends through a `Carrier`. Subclasses implement `make_carrier`."""

    marks_sent: ClassVar[bool] = True

    @abstractmethod
    def make_carrier(self) -> Carrier:
        """Import the module of this adapter's carrier, and make one."""

    def _make_carrier(self) -> Carrier:
        return self.make_carrier()

    def _make_clients(self) -> Clients[Any, Any]:
        way = self._carrier
        return Clients(self, make=way.make, close=way.close, amake=way.amake, aclose=way.aclose, abandon=way.abandon)

    _carrier: _MadeOnce[Carrier] = _MadeOnce(_make_carrier)
    #: Only one set is ever closed.
    _clients: _MadeOnce[Clients[Any, Any]] = _MadeOnce(_make_clients)

    @property
    def cold(self) -> bool:
        return "_clients" not in self.__dict__

    def prepare(self) -> None:
        from llm_connect.engine import http

        http.prepare()
        self._carrier.prepare()
        _ = self._clients

    def make_client(self) -> None:
        with self._clients.lease():
            """It stays, for calls."""

    async def amake_client(self) -> None:
        with await self._clients.lease_in_loop():
            """It stays, for calls of this loop."""

    def send(self, request: Request, deadline: Deadline) -> Reply:
        from llm_connect.engine.sockets import SocketDeadline

        with self._lease() as client, SocketDeadline(deadline):
            return self._carrier.post(client, request)

    async def asend(self, request: Request, deadline: Deadline) -> Reply:
        with await self._lease_in_loop() as client:
            return await self._carrier.apost(client, request)

    def open(self, request: Request, deadline: Deadline) -> OpenReply:
        from llm_connect.engine.sockets import SocketDeadline

        lease = self._lease()
        with lease as client, SocketDeadline(deadline):
            reply = self._carrier.open(client, request)
            reply.keep(lease)
            return reply

    async def aopen(self, request: Request, deadline: Deadline) -> AsyncOpenReply:
        lease = await self._lease_in_loop()
        with lease as client:
            reply = await self._carrier.aopen(client, request)
            reply.keep(lease)
            return reply

    def _lease(self) -> Lease[Any]:
        lease = self._clients.lease()
        if self._carrier.hidden:
            note_sent()
        return lease

    async def _lease_in_loop(self) -> Lease[Any]:
        lease = await self._clients.lease_in_loop()
        if self._carrier.ahidden:
            note_sent()
        return lease

    def transport_failure(self, error: Exception) -> Failure:
        return self._carrier.failure_of(error)

    def close(self) -> None:
        if "_clients" in self.__dict__:
            self._clients.close()

    async def aclose(self) -> None:
        if "_clients" in self.__dict__:
            await self._clients.aclose()


def require(module: str, *, extra: str) -> None:
    """Raise LLMConfigurationError if `module`, which belongs to the extra, is not installed."""
    if find_spec(module.partition(".")[0]) is None or find_spec(module) is None:
        package = module.replace(".", "-")
        raise LLMConfigurationError(
            f"The package {package!r} is not installed: install it, or this library with its extra {extra!r}."
        )

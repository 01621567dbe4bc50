"""Sending over HTTP with a client that lives as long as its adapter."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from functools import cached_property
from importlib.util import find_spec
from typing import Any, ClassVar

from llm_connect.calling.clients import Clients
from llm_connect.calling.deadline import Deadline
from llm_connect.calling.heads import note_sent
from llm_connect.calling.open_reply import AsyncOpenReply, OpenReply
from llm_connect.calling.provider import ProviderAdapter, Request
from llm_connect.core.exceptions import LLMConfigurationError
from llm_connect.protocols.wire import Failure, Reply

_first_use = threading.RLock()


class Carrier(ABC):
    """One SDK or HTTP library: how its clients are made and closed, and how a request is sent once.

    A carrier's module imports its library, so an adapter imports the carrier on first use.

    hidden, ahidden: whether a client of the user's own hides the sockets of the sync or the async form, so that nobody
    says when the first byte leaves; known once a client was made.
    """

    hidden = False
    ahidden = False

    @abstractmethod
    def make(self) -> Any:
        """A client for threads."""

    @abstractmethod
    def amake(self) -> Any:
        """A client for the running event loop."""

    @abstractmethod
    def close(self, client: Any) -> None:
        """Close a client of `make`."""

    @abstractmethod
    async def aclose(self, client: Any) -> None:
        """Close a client of `amake`."""

    @abstractmethod
    def post(self, client: Any, request: Request) -> Reply:
        """Send once and read the whole reply; sockets obey the deadline of the call."""

    @abstractmethod
    async def apost(self, client: Any, request: Request) -> Reply:
        """Like `post`; the caller bounds it in time."""

    @abstractmethod
    def open(self, client: Any, request: Request) -> OpenReply:
        """Send once and wait for the status; sockets obey the deadline of the call."""

    @abstractmethod
    async def aopen(self, client: Any, request: Request) -> AsyncOpenReply:
        """Like `open`; the caller bounds it in time."""

    @abstractmethod
    def failure_of(self, error: Exception) -> Failure:
        """What an exception of one of these, or of reading an open reply, means."""


class CarriedAdapter(ProviderAdapter):
    """An adapter that sends through a `Carrier`. A subclass gives `make_carrier`."""

    marks_sent: ClassVar[bool] = True

    @abstractmethod
    def make_carrier(self) -> Carrier:
        """The carrier of this adapter, whose module is imported here."""

    @cached_property
    def _carrier(self) -> Carrier:
        return self.make_carrier()

    @property
    def _clients(self) -> Clients[Any, Any]:
        made: Clients[Any, Any] | None = self.__dict__.get("_made_clients")
        if made is None:
            # Threads that come first at the same time must not make a set of clients each: one alone is closed.
            with _first_use:
                made = self._made_clients
        return made

    @cached_property
    def _made_clients(self) -> Clients[Any, Any]:
        carrier = self._carrier
        return Clients(self, make=carrier.make, close=carrier.close, amake=carrier.amake, aclose=carrier.aclose)

    def send(self, request: Request, deadline: Deadline) -> Reply:
        from llm_connect.calling.sockets import socket_deadline

        client = self._client()
        with socket_deadline(deadline):
            return self._carrier.post(client, request)

    async def asend(self, request: Request, deadline: Deadline) -> Reply:
        client = await self._aclient()
        return await self._carrier.apost(client, request)

    def open(self, request: Request, deadline: Deadline) -> OpenReply:
        from llm_connect.calling.sockets import socket_deadline

        client = self._client()
        with socket_deadline(deadline):
            return self._carrier.open(client, request)

    async def aopen(self, request: Request, deadline: Deadline) -> AsyncOpenReply:
        client = await self._aclient()
        return await self._carrier.aopen(client, request)

    def _client(self) -> Any:
        client = self._clients.sync()
        if self._carrier.hidden:
            note_sent()
        return client

    async def _aclient(self) -> Any:
        client = await self._clients.of_loop()
        if self._carrier.ahidden:
            note_sent()
        return client

    def transport_failure(self, error: Exception) -> Failure:
        return self._carrier.failure_of(error)

    def close(self) -> None:
        if "_made_clients" in self.__dict__:
            self._clients.close()

    async def aclose(self) -> None:
        if "_made_clients" in self.__dict__:
            await self._clients.aclose()


def require(module: str, *, extra: str) -> None:
    """Raise LLMConfigurationError when `module`, which the extra brings, is not installed."""
    if find_spec(module.partition(".")[0]) is None or find_spec(module) is None:
        package = module.replace(".", "-")
        raise LLMConfigurationError(
            f"The package {package!r} is not installed: install it, or this library with its extra {extra!r}."
        )

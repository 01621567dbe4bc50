"""Closes the connections of async clients after their event loop is gone, when nothing can be awaited."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any, Protocol, runtime_checkable

import httpx2


@runtime_checkable
class Abandoned(Protocol):
    """A body that can be closed where its event loop is gone."""

    def abandon(self) -> None: ...


def close_transports(transports: Iterable[Any]) -> None:
    """Close transports of a loop that no longer runs, each with its socket and without a warning."""
    for transport in transports:
        if transport is not None:
            with suppress(Exception):
                _close(transport)


def transports_of_pool(pool: Any) -> Iterator[asyncio.BaseTransport | None]:
    """The transports in a connection pool of httpcore2 over anyio."""
    for connection in pool._connections:
        yield from transports_of_stream(getattr(connection._connection, "_network_stream", None))


def transports_of_stream(stream: Any) -> Iterator[asyncio.BaseTransport | None]:
    """The transport of one connection of such a pool."""
    while stream is not None:
        stream = getattr(stream, "_stream", None) or getattr(stream, "transport_stream", None)
        yield getattr(stream, "_transport", None)


async def close_after(error: BaseException, response: httpx2.Response) -> None:
    """Close a response that could not be read. Raises GeneratorExit where the task goes with its event loop.

    Then nothing can be awaited. Before Python 3.13 a body that is half read says RuntimeError of it.
    """
    if GeneratorExit in (type(error), type(error.__context__)):
        abandon_response(response)
        raise GeneratorExit from None
    await response.aclose()


def abandon_response(response: httpx2.Response) -> None:
    """Close the connection of a response after its event loop is gone."""
    stream = response.extensions.get("network_stream")
    if stream is not None:
        close_transports(transports_of_stream(stream))
    elif isinstance(response.stream, Abandoned):
        response.stream.abandon()


def _close(transport: Any) -> None:
    by_tls = getattr(transport, "_ssl_protocol", None)
    if by_tls is not None:
        transport._closed = True
        transport = by_tls._transport
    loop = transport._loop
    if not loop.is_closed():
        transport.abort()
        return
    connection, transport._sock = transport._sock, None
    connection.close()

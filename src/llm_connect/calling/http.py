"""httpx2 clients as every adapter over HTTP needs them: no redirects, a total deadline, our connection limits."""

from __future__ import annotations

import ssl
from functools import cache
from importlib.util import find_spec
from typing import Any

import httpx2

from llm_connect.calling.lost_loops import close_transports, transports_of_pool, transports_of_stream
from llm_connect.calling.plain_clients import AsyncPlainClient, PlainClient
from llm_connect.calling.sockets import watch
from llm_connect.core.exceptions import LLMConfigurationError, LLMError
from llm_connect.protocols.http_failures import no_reply
from llm_connect.protocols.wire import Failure, Reply


def prepare() -> None:
    """Import and load what clients of either form need, which takes long, in whatever thread."""
    _trusted_roots()
    _aiohttp_transport(1)


def sync_client(max_connections: int, **options: Any) -> httpx2.Client:
    """A client for threads; use it under `socket_deadline`."""
    client = PlainClient(**_options(max_connections), **options)
    watch(client)
    return client


def async_client(max_connections: int, **options: Any) -> httpx2.AsyncClient:
    """A client for one event loop, on aiohttp where it is installed; its caller bounds it with `asyncio.timeout`."""
    transport = _aiohttp_transport(max_connections)
    client = AsyncPlainClient(**_options(max_connections), transport=transport, **options)
    watch(client)
    return client


def abandon(client: httpx2.AsyncClient) -> None:
    """Close the connections of a client whose event loop is gone, where nothing can be awaited."""
    transport = client._transport
    if isinstance(transport, httpx2.AsyncHTTPTransport):
        close_transports(transports_of_pool(transport._pool))
    else:
        transport.abandon()  # type: ignore[attr-defined]


def abandon_response(response: httpx2.Response) -> None:
    """Close the connection of a response whose event loop is gone."""
    stream = response.extensions.get("network_stream")
    if stream is not None:
        close_transports(transports_of_stream(stream))
    else:
        response.stream.abandon()  # type: ignore[union-attr]


def reply_of(response: httpx2.Response) -> Reply:
    """The whole response, as protocols read it."""
    headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers.raw}
    return Reply(response.status_code, headers, response.content)


def failure_of(error: Exception) -> Failure:
    """What an exception of httpx2 means: only a failed connection is known to have sent nothing."""
    if isinstance(error, LLMError):
        return Failure(kind=type(error), message=error.message, maybe_billed=False)
    if isinstance(error, httpx2.UnsupportedProtocol | httpx2.InvalidURL):
        message = "base_url is no http(s) address: set one such as https://host/path."
        return Failure(kind=LLMConfigurationError, message=message, maybe_billed=False)
    unsent = isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.PoolTimeout)
    return no_reply(type(error).__name__, unsent=unsent, retryable=isinstance(error, httpx2.TransportError))


def _options(max_connections: int) -> dict[str, Any]:
    limits = httpx2.Limits(max_connections=max_connections, max_keepalive_connections=max_connections)
    return {
        "limits": limits,
        "timeout": None,
        "follow_redirects": False,
        "trust_env": False,
        "verify": _trusted_roots(),
    }


def _aiohttp_transport(max_connections: int) -> httpx2.AsyncBaseTransport | None:
    if find_spec("aiohttp") is None:
        return None
    from llm_connect.calling.aiohttp_transport import AiohttpTransport

    return AiohttpTransport(max_connections=max_connections, trusted=_trusted_roots())


@cache
def _trusted_roots() -> ssl.SSLContext:
    """Made once, because loading the roots takes longer than a call."""
    return httpx2.create_ssl_context(trust_env=False)

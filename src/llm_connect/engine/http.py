"""The httpx2 clients of all HTTP adapters: no redirects, a total deadline, and our connection limits."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

import httpx2

from llm_connect.engine.certificates import CertificateRefused, trusted
from llm_connect.engine.fast_clients import AsyncPlainClient, PlainClient
from llm_connect.engine.framing import BadFraming
from llm_connect.engine.http_options import DEFAULT_OPTIONS, HttpOptions
from llm_connect.engine.lent_clients import AsyncLentClient, LentClient
from llm_connect.engine.lost_loops import close_transports, transports_of_pool
from llm_connect.engine.measuring import ReplyRefused
from llm_connect.engine.sockets import watch
from llm_connect.errors import LLMConfigurationError, LLMError
from llm_connect.protocols.http_failures import no_reply
from llm_connect.protocols.wire import Failure, Reply


def prepare() -> None:
    """Do the slow imports and loading for clients of both forms, in any thread."""
    trusted(True)
    if find_spec("aiohttp") is not None:
        import_module("llm_connect.engine.aiohttp_transport")


def sync_client(max_connections: int, options: HttpOptions = DEFAULT_OPTIONS, **more: Any) -> httpx2.Client:
    """Make a client for threads, or wrap the user's own. Use it under `SocketDeadline`."""
    if options.http_client is not None:
        return LentClient(options.http_client, options)
    transport = httpx2.HTTPTransport(**_options(max_connections, options))
    client = PlainClient(transport=transport, reply_limits=options.limits, **_PLAIN, **more)
    watch(client)
    return client


def async_client(max_connections: int, options: HttpOptions = DEFAULT_OPTIONS, **more: Any) -> httpx2.AsyncClient:
    """Make a client for one event loop, or wrap the user's own. The caller bounds its calls with a timeout.

    It uses aiohttp if that is installed. With a proxy it uses httpx2 alone, which supports every kind of proxy.
    """
    if options.async_http_client is not None:
        return AsyncLentClient(options.async_http_client, options)
    transport: httpx2.AsyncBaseTransport
    if options.proxy is None and find_spec("aiohttp") is not None:
        from llm_connect.engine.aiohttp_transport import AiohttpTransport

        transport = AiohttpTransport(max_connections=max_connections, trusted=trusted(options.verify))
    else:
        transport = httpx2.AsyncHTTPTransport(**_options(max_connections, options))
    client = AsyncPlainClient(transport=transport, reply_limits=options.limits, **_PLAIN, **more)
    watch(client)
    return client


def refuse_half(given: object, other: object, missing: str) -> None:
    """Refuse the form of a call for which the user passed no client: ours would have other settings."""
    if given is None and other is not None:
        raise LLMConfigurationError(f"This form of the call needs a client of your own, too: pass {missing}=.")


def abandon(client: httpx2.AsyncClient) -> None:
    """Close the connections of a client after its event loop is gone, when nothing can be awaited."""
    transport = client._transport
    if isinstance(client, AsyncLentClient):
        return
    if isinstance(transport, httpx2.AsyncHTTPTransport):
        close_transports(transports_of_pool(transport._pool))
    else:
        transport.abandon()  # type: ignore[attr-defined]


def reply_of(response: httpx2.Response) -> Reply:
    """Convert the whole response into the `Reply` that protocols read."""
    headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers.raw}
    return Reply(response.status_code, headers, response.content)


def failure_of(error: Exception) -> Failure:
    """Translate an exception of httpx2. Only a failed connection proves that nothing was sent."""
    if isinstance(error, ReplyRefused | BadFraming | CertificateRefused):
        return error.failure
    if isinstance(error, LLMError):
        return Failure(kind=type(error), message=error.message, maybe_billed=False)
    if isinstance(error, httpx2.UnsupportedProtocol | httpx2.InvalidURL):
        message = "base_url is not an http(s) address: set one such as https://host/path."
        return Failure(kind=LLMConfigurationError, message=message, maybe_billed=False)
    unsent = isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.PoolTimeout)
    return no_reply(type(error).__name__, unsent=unsent, retryable=isinstance(error, httpx2.TransportError))


_PLAIN: dict[str, Any] = {"timeout": None, "follow_redirects": False, "trust_env": False}


def _options(max_connections: int, options: HttpOptions) -> dict[str, Any]:
    limits = httpx2.Limits(max_connections=max_connections, max_keepalive_connections=max_connections)
    return {"limits": limits, "trust_env": False, "verify": trusted(options.verify), "proxy": _proxy(options)}


def _proxy(options: HttpOptions) -> httpx2.Proxy | None:
    if options.proxy is None:
        return None
    by_tls = options.proxy.startswith("https")
    return httpx2.Proxy(options.proxy, ssl_context=trusted(options.verify) if by_tls else None)

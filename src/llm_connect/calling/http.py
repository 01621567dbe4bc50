"""httpx2 clients as every adapter over HTTP needs them: no redirects, a total deadline, our connection limits."""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from importlib.util import find_spec
from typing import Any

import httpcore2
import httpx2

from llm_connect.calling.deadline import Deadline
from llm_connect.calling.plain_clients import AsyncPlainClient, PlainClient
from llm_connect.core.exceptions import LLMConfigurationError, LLMError
from llm_connect.protocols.http_failures import no_reply
from llm_connect.protocols.wire import Failure, Reply

#: The deadline of the call that this thread is sending; sockets of a sync client obey it.
_deadline: ContextVar[Deadline | None] = ContextVar("llm_connect_deadline", default=None)


@contextmanager
def socket_deadline(deadline: Deadline) -> Iterator[None]:
    """Let every socket operation of this thread's sync clients end by `deadline`.

    A timeout of httpx2 is for one read each, so a server that drips bytes would never meet it.
    """
    token = _deadline.set(deadline)
    try:
        yield
    finally:
        _deadline.reset(token)


def sync_client(max_connections: int, **options: Any) -> httpx2.Client:
    """A client for threads; use it under `socket_deadline`."""
    client = PlainClient(**_options(max_connections), **options)
    obey_deadline(client)
    return client


def obey_deadline(client: httpx2.Client) -> None:
    """Let the connections that `client` will open end by the deadline of `socket_deadline`, where there is one."""
    for transport in {client._transport, *client._mounts.values()}:
        pool = getattr(transport, "_pool", None)
        if pool is not None and not isinstance(pool._network_backend, _DeadlineBackend):
            pool._network_backend = _DeadlineBackend(pool._network_backend)


def async_client(max_connections: int, **options: Any) -> httpx2.AsyncClient:
    """A client for one event loop, on aiohttp where it is installed; its caller bounds it with `asyncio.timeout`."""
    transport = _aiohttp_transport(max_connections)
    return AsyncPlainClient(**_options(max_connections), transport=transport, **options)


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


class _DeadlineBackend(httpcore2.NetworkBackend):
    def __init__(self, backend: httpcore2.NetworkBackend) -> None:
        self._backend = backend

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.NetworkStream:
        limit = _limit(timeout, httpcore2.ConnectTimeout)
        return _DeadlineStream(self._backend.connect_tcp(host, port, limit, local_address, socket_options))

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


class _DeadlineStream(httpcore2.NetworkStream):
    def __init__(self, stream: httpcore2.NetworkStream) -> None:
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, _limit(timeout, httpcore2.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        # In slices, because the timeout of a socket is for one operation and a slow reader takes many.
        for start in range(0, len(buffer), _SLICE):
            part = buffer[start : start + _SLICE]
            self._stream.write(part, _limit(timeout, httpcore2.WriteTimeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: Any, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.NetworkStream:
        limit = _limit(timeout, httpcore2.ConnectTimeout)
        return _DeadlineStream(self._stream.start_tls(ssl_context, server_hostname, limit))

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


_SLICE = 1 << 18
#: Sockets keep their timeout as 32 bits of milliseconds, and a longer one wraps around to a short one.
_LONGEST_WAIT_SECONDS = 86_400.0


def _limit(timeout: float | None, expired: type[Exception]) -> float | None:
    deadline = _deadline.get()
    if deadline is None:
        return timeout
    remaining = min(deadline.remaining(), _LONGEST_WAIT_SECONDS)
    if remaining <= 0:
        raise expired("the deadline of the call has passed")
    return remaining if timeout is None else min(timeout, remaining)

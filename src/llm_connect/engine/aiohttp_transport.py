"""aiohttp below an async client of httpx2, because httpx2's own pool is slow when many requests are under way.

Its pool looks at every connection for every request: measured with 1,000 requests at once, a call costs four times as
much as on aiohttp.
"""

from __future__ import annotations

import asyncio
import io
import socket
import ssl
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import aiohttp
import httpx2
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.client_proto import ResponseHandler
from yarl import URL

from llm_connect.engine.deadline import note_sent
from llm_connect.engine.framing import MOST_FIELDS, MOST_HEAD_BYTES, BadFraming, ReplyFrame
from llm_connect.engine.lost_loops import close_transports
from llm_connect.engine.names import Address, alook_up

#: One header of a reply, and all of them: more than `framing.py` lets through, which decides for all forms.
_MOST_FIELD_BYTES, _MOST_HEADERS = 2 * MOST_HEAD_BYTES, 2 * MOST_FIELDS
#: A body up to this size, in bytes, is written at once; a larger one lets other tasks run in between.
_AT_ONCE = 1 << 16
#: As long as httpx2 keeps an idle connection.
_KEEPALIVE_SECONDS = 5.0
#: Headers that aiohttp must not add, since httpx2 has decided about them.
_HEADERS_OF_HTTPX2 = ("Accept", "Accept-Encoding", "Content-Type", "User-Agent")


class AiohttpTransport(httpx2.AsyncBaseTransport):
    """Sends the requests of a client over connections of one event loop, which it makes on first use.

        client = httpx2.AsyncClient(transport=AiohttpTransport(max_connections=100, trusted=context), timeout=None)

    It has no time limit of its own: callers bound it with `asyncio.timeout`. It follows no redirects, reads no
    environment variables, keeps no cookies, repeats no requests, and raises the exceptions of httpx2.
    """

    marks_sent = True

    def __init__(self, *, max_connections: int, trusted: ssl.SSLContext) -> None:
        self._max_connections = max_connections
        self._trusted = trusted
        self._session: aiohttp.ClientSession | None = None

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        session = self._session or self._open()
        try:
            response = await session.request(
                request.method,
                URL(str(request.url), encoded=True),
                headers=[(name.decode(), value.decode()) for name, value in request.headers.raw],
                data=_body(request.content),
                allow_redirects=False,
            )
        except aiohttp.ClientError as error:
            raise _error_of_httpx2(error) from None
        return httpx2.Response(response.status, headers=response.raw_headers, stream=_Body(response), request=request)

    async def aclose(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def abandon(self) -> None:
        """Close all connections after their event loop is gone."""
        session, self._session = self._session, None
        if session is None:
            return
        connector: Any = session.connector
        session.detach()
        idle = [protocol for kept in connector._conns.values() for protocol, _ in kept]
        protocols = (*idle, *connector._acquired)
        connector._conns.clear()
        connector._closed = True
        for protocol in protocols:
            protocol.abandon()

    def _open(self) -> aiohttp.ClientSession:
        connector = _Connector(
            limit=self._max_connections, keepalive_timeout=_KEEPALIVE_SECONDS, ssl=self._trusted, resolver=_Resolver()
        )
        made: Any = partial(_Connection, loop=asyncio.get_running_loop())
        connector._factory = made
        self._session = aiohttp.ClientSession(
            connector=connector,
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=_HEADERS_OF_HTTPX2,
            max_line_size=_MOST_FIELD_BYTES,
            max_field_size=_MOST_FIELD_BYTES,
            max_headers=_MOST_HEADERS,
            timeout=aiohttp.ClientTimeout(),
        )
        return self._session


class _Connector(aiohttp.TCPConnector):
    """Notes that a request is sent, once it has a connection: just before its first byte leaves.

    Its connections end quietly after the event loop is gone. Then it counts as closed, and nothing turns to the loop.
    """

    @property
    def closed(self) -> bool:
        return super().closed or self._loop.is_closed()

    def _release(self, key: Any, protocol: Any, *, should_close: bool = False) -> None:
        if self._loop.is_closed():
            protocol.abandon()
        else:
            super()._release(key, protocol, should_close=should_close)

    def __del__(self, *_: Any) -> None:
        if not self._loop.is_closed():
            super().__del__()

    async def connect(self, *arguments: Any, **options: Any) -> Any:
        connection = await super().connect(*arguments, **options)
        note_sent()
        return connection


class _Resolver(AbstractResolver):
    """Looks names up without delaying the end of a loop, as lookups in the loop's own executor do."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        found = await alook_up(host, port)
        return [_resolved(host, each) for each in found if family in (socket.AF_UNSPEC, each[0])]

    async def close(self) -> None:
        """A no-op: there is nothing to close."""


def _resolved(host: str, address: Address) -> ResolveResult:
    family, _, protocol, _, (number, port, *scope) = address
    if scope and scope[-1]:
        number = f"{number}%{scope[-1]}"
    return ResolveResult(
        hostname=host, host=number, port=port, family=family, proto=protocol, flags=socket.AI_NUMERICHOST
    )


class _Connection(ResponseHandler):
    """A connection that a finalizer can close after the event loop is gone, and that checks the frame of each reply."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._frame = ReplyFrame()

    def set_response_params(self, **options: Any) -> None:
        self._frame.is_due = True
        super().set_response_params(**options)

    def data_received(self, data: bytes) -> None:
        try:
            of_the_reply = self._frame.take(data)
        except BadFraming as error:
            self.set_exception(error)
            self.abort()
        else:
            if self._frame.overrun:
                self.force_close()
            super().data_received(of_the_reply)

    def close(self) -> None:
        if self._loop.is_closed():
            self.abandon()
        super().close()

    def abandon(self) -> None:
        """Close it after its event loop is gone."""
        transport, self.transport = self.transport, None
        close_transports([transport])


class _Body(httpx2.AsyncByteStream):
    """The body of a response, read while it arrives when the client asks for it."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for part in self._response.content.iter_any():
                yield part
        except aiohttp.ClientError as error:
            raise _error_of_httpx2(error) from None

    async def whole(self) -> bytes:
        """Read all of it in one piece, and give the connection back."""
        try:
            return await self._response.read()
        except aiohttp.ClientError as error:
            raise _error_of_httpx2(error) from None

    async def aclose(self) -> None:
        # A connection whose response was not read to its end is closed, not reused.
        self._response.release()

    def abandon(self) -> None:
        """Close the connection after its event loop is gone."""
        connection = self._response.connection
        if connection is not None and isinstance(connection.protocol, _Connection):
            connection.protocol.abandon()
            # If they are closed, or garbage-collected, both would turn to the event loop.
            self._response._connection = connection._protocol = None


def _body(content: bytes) -> bytes | io.BytesIO:
    return content if len(content) <= _AT_ONCE else io.BytesIO(content)


def _error_of_httpx2(error: Exception) -> Exception:
    """Return the error that httpx2 would raise. Raise it without its cause, which may hold the request with its key."""
    if isinstance(error, aiohttp.InvalidURL | aiohttp.NonHttpUrlClientError):
        return httpx2.UnsupportedProtocol("not an http(s) address")
    if isinstance(error, aiohttp.ClientConnectorError):
        return httpx2.ConnectError(type(error).__name__)
    if isinstance(error, aiohttp.ClientOSError | aiohttp.ClientConnectionResetError):
        return httpx2.ReadError(type(error).__name__)
    return httpx2.RemoteProtocolError(type(error).__name__)

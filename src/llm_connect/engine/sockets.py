"""The sockets of httpx2's clients: one deadline for all they do, and a note when the first byte of a request leaves.

`timeout_seconds` is a promise about a whole call. In a coroutine that is easy: `asyncio.timeout` cancels it wherever it
waits. A thread cannot be cancelled. It waits in the operating system, in many short operations: a name lookup, a
connection, a handshake, writes, reads. Each of them has a timeout of its own, if it has one at all.

- The timeouts of an HTTP client, or of a socket, are for one operation. A server that sends one byte every ten seconds
  never meets a timeout of thirty, and a call can last for hours. Splitting them into connect, read, write and pool
  changes nothing about that.
- `getaddrinfo` has no timeout. It can block for as long as the resolver likes.
- `signal.alarm` interrupts the main thread only, and belongs to the program.
- A second thread that closes the socket when time is up costs a thread or a timer for each call. On Linux, closing a
  descriptor does not wake a thread that reads from it, and the number may belong to another connection a moment later.
- Running the call in a thread and walking away leaves that thread, and a request under way that is paid for.

So the deadline goes down to where the waiting is. Each step of an exchange sets it in the head of the exchange, which
is in a context variable (`deadline.py`). Every socket operation computes how much is left at this moment and takes that
as its timeout (`_limit`). An operation after the deadline raises the timeout of its kind before it begins. So reads
together end by the deadline, however small they are, and writes nearly do.

The deadline is in a context variable because the SDKs are in between: openai and google-genai call our client, and have
no argument for a deadline. A sync call runs from there to the socket in one thread, so the variable is the caller's. It
is read at each operation and not when the connection opens, because a pool lends one connection to many calls.

httpcore2 has a place for this, the network backend of a pool. `watch` puts `_Backend` around the one that is there.

- Names are looked up in daemon threads, a bounded number of them, and the call waits for one until its deadline
  (`names.py`). The addresses are tried within the time that is left, each a moment after the one before
  (`connecting.py`).
- A TLS handshake gets the time that is left.
- httpcore2 writes a buffer in as many operations as the reader makes necessary, all with the same timeout. So a body is
  written in slices of 256 KiB, and each slice gets the time that is left then. Only within a slice can a very slow
  reader stretch a write beyond the deadline.
- No timeout is longer than a day. The system counts it in milliseconds with 32 bits, so a longer one may become short.

The same streams see the first byte of a request just before it leaves, and note it (`deadline.py`). That
decides whether an attempt without an answer is released or presumed. Bytes that only ask a proxy for a way to the
provider do not count. They also check the frame of each reply (`framing.py`). Where a user's own client hides its
sockets, `watch` returns False; then a request counts as sent from its beginning, and only the timeouts of that client
apply.

Async clients get the same lookups, notes and checks, but no deadline: their callers bound them in time.

Go's connections take a deadline instead of a timeout for the same reason (`net.Conn.SetDeadline`), and Nathaniel J.
Smith's "Timeouts and cancellation for humans" (2018) explains why timeouts of single operations do not compose.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterable
from functools import partial
from typing import Any

import anyio
import anyio.abc
import httpcore2
import httpx2
from httpcore2._backends.auto import AutoBackend
from httpcore2._backends.sync import SyncStream

from llm_connect.engine import connecting, names
from llm_connect.engine.deadline import Head, awaited, note_sent
from llm_connect.engine.framing import ReplyFrame

#: How bytes begin that ask a proxy for a way to the provider: CONNECT, SOCKS and its login. They are no request yet.
_TO_A_PROXY = (b"CONNECT ", b"\x05", b"\x01")


def watch(client: httpx2.Client | httpx2.AsyncClient) -> bool:
    """Put the connections that `client` will open under deadline and notes. False if some of them are hidden."""
    transports = {client._transport, *(each for each in client._mounts.values() if each is not None)}
    seen = [_watch_transport(transport) for transport in transports]
    return all(seen)


def _watch_transport(transport: Any) -> bool:
    pool: Any = getattr(transport, "_pool", None)
    backend = getattr(pool, "_network_backend", None)
    if isinstance(backend, _Backend | _AsyncBackend):
        return True
    if isinstance(backend, httpcore2.NetworkBackend):
        pool._network_backend = _Backend(backend)
    elif isinstance(backend, httpcore2.AsyncNetworkBackend):
        pool._network_backend = _AsyncBackend(backend)
    else:
        return getattr(transport, "marks_sent", False) is True
    # Connections that it has opened before note nothing.
    return not pool.connections


class _Backend(httpcore2.NetworkBackend):
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
        if type(self._backend) is not httpcore2.SyncBackend:
            return _Stream(self._backend.connect_tcp(host, port, limit, local_address, socket_options))
        try:
            return _Stream(_connect(host, port, limit, local_address, socket_options or ()))
        except TimeoutError as error:
            raise httpcore2.ConnectTimeout("no connection in time") from error
        except OSError as error:
            raise httpcore2.ConnectError(str(error)) from error

    def connect_unix_socket(self, *arguments: Any, **options: Any) -> httpcore2.NetworkStream:
        return _Stream(self._backend.connect_unix_socket(*arguments, **options))

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


def _connect(
    host: str, port: int, seconds: float | None, local_address: str | None, options: Iterable[Any]
) -> SyncStream:
    began = time.monotonic()
    addresses = names.look_up(host, port, seconds)
    left = None if seconds is None else seconds - (time.monotonic() - began)
    connection = connecting.connect(addresses, left, None if local_address is None else (local_address, 0))
    try:
        for option in (*options, _NO_DELAY):
            connection.setsockopt(*option)
    except BaseException:
        connection.close()
        raise
    return SyncStream(connection)


class _Framed:
    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._frame = ReplyFrame()

    def get_extra_info(self, info: str) -> Any:
        if info == "is_readable" and self._frame.overrun:
            # So the pool learns that it cannot use the connection again.
            return True
        return self._stream.get_extra_info(info)


class _Stream(_Framed, httpcore2.NetworkStream):
    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        data = self._stream.read(max_bytes, _limit(timeout, httpcore2.ReadTimeout))
        return self._frame.take(data)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        if not buffer:
            return
        limit = _limit(timeout, httpcore2.WriteTimeout)
        if not buffer.startswith(_TO_A_PROXY):
            (awaited.get() or Head()).sent = True
        self._frame.is_due = True
        if len(buffer) <= _SLICE:
            self._stream.write(buffer, limit)
            return
        # In slices, because a socket's timeout is for one operation, and a slow reader causes many.
        for start in range(0, len(buffer), _SLICE):
            self._stream.write(buffer[start : start + _SLICE], _limit(timeout, httpcore2.WriteTimeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: Any, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.NetworkStream:
        limit = _limit(timeout, httpcore2.ConnectTimeout)
        return _Stream(self._stream.start_tls(ssl_context, server_hostname, limit))


class _AsyncBackend(httpcore2.AsyncNetworkBackend):
    """The backend of async clients; their callers bound them with a timeout."""

    def __init__(self, backend: httpcore2.AsyncNetworkBackend) -> None:
        self._backend = backend

    async def connect_tcp(self, host: str, port: int, *arguments: Any, **options: Any) -> httpcore2.AsyncNetworkStream:
        connect = self._backend.connect_tcp
        if type(self._backend) not in (AutoBackend, httpcore2.AnyIOBackend):
            return _AsyncStream(await connect(host, port, *arguments, **options))
        try:
            addresses = await names.alook_up(host, port)
        except OSError as error:
            raise httpcore2.ConnectError(str(error)) from error
        attempts = [partial(connect, place[0], port, *arguments, **options) for *_, place in addresses]
        return _AsyncStream(await connecting.connect_any(attempts))

    async def connect_unix_socket(self, *arguments: Any, **options: Any) -> httpcore2.AsyncNetworkStream:
        return _AsyncStream(await self._backend.connect_unix_socket(*arguments, **options))

    async def sleep(self, seconds: float) -> None:
        await self._backend.sleep(seconds)


class _AsyncStream(_Framed, httpcore2.AsyncNetworkStream):
    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        inner = getattr(self._stream, "_stream", None)
        if timeout is None and isinstance(inner, anyio.abc.ByteStream):
            data = await _received(inner, max_bytes)
        else:
            data = await self._stream.read(max_bytes, timeout)
        return self._frame.take(data)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        if buffer and not buffer.startswith(_TO_A_PROXY):
            note_sent()
        self._frame.is_due = True
        await self._stream.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(
        self, ssl_context: Any, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.AsyncNetworkStream:
        try:
            return _AsyncStream(await self._stream.start_tls(ssl_context, server_hostname, timeout))
        except asyncio.CancelledError:
            # The inner stream closes itself only after an Exception.
            await self._stream.aclose()
            raise


async def _received(stream: anyio.abc.ByteStream, max_bytes: int) -> bytes:
    """Read as httpcore2's stream does, but without its timer: in it, anyio keeps a task even after its loop is gone."""
    try:
        return await stream.receive(max_bytes)
    except anyio.EndOfStream:
        return b""
    except (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError) as error:
        raise httpcore2.ReadError(type(error).__name__) from error


_NO_DELAY = (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
_SLICE = 1 << 18
#: The system takes timeouts in milliseconds with 32 bits, so a longer one wraps around to a short one.
_LONGEST_WAIT_SECONDS = 86_400.0


def _limit(timeout: float | None, expired: type[Exception]) -> float | None:
    head = awaited.get()
    if head is None or head.until is None:
        return timeout
    remaining = head.until - time.monotonic()
    if remaining <= 0:
        raise expired("the deadline of the call has passed")
    if remaining > _LONGEST_WAIT_SECONDS:
        remaining = _LONGEST_WAIT_SECONDS
    return remaining if timeout is None or timeout > remaining else timeout

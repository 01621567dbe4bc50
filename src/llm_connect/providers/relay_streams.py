"""The HTTP/1.1 that a relay of one request needs, over non-blocking sockets, as strands (see strands.py)."""

from __future__ import annotations

import errno
import os
import socket
import ssl
from collections.abc import Callable, Generator, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias, TypeVar

from llm_connect.providers.strands import READ, WRITE, Wants

T = TypeVar("T")
Steps: TypeAlias = Generator[Wants, None, T]
#: An item of the result of `socket.getaddrinfo`.
Addresses: TypeAlias = Iterable[tuple[Any, Any, int, str, Any]]

_CHUNK_BYTES = 64 * 1024
_MOST_HEAD_BYTES = 64 * 1024
_ON_ITS_WAY = (errno.EINPROGRESS, errno.EALREADY, errno.EWOULDBLOCK, errno.EINTR)


class BadMessage(Exception):
    """The message is not HTTP, or ended too early."""


@dataclass(frozen=True, slots=True)
class Head:
    """The first line of a message and its unchanged header lines."""

    first: bytes
    lines: tuple[bytes, ...]

    @property
    def headers(self) -> dict[str, str]:
        """Values by lower-case name; the last one of several counts."""
        pairs = (line.decode("latin-1").partition(":") for line in self.lines)
        return {name.strip().lower(): value.strip() for name, _, value in pairs}

    @property
    def status(self) -> int:
        """The status of a reply."""
        words = self.first.split()
        if len(words) < 2 or not words[0].startswith(b"HTTP/") or not words[1].isdigit():
            raise BadMessage("no HTTP")
        return int(words[1])

    def rewritten(self, first: bytes, **changes: bytes) -> bytes:
        """The head to pass on: with another first line, and with these headers (`_` for `-`) replaced."""
        new = {name.replace("_", "-").encode(): value for name, value in changes.items()}
        kept = [line for line in self.lines if line.partition(b":")[0].strip().lower() not in new]
        added = [name + b": " + value for name, value in new.items() if value]
        return b"\r\n".join((first, *kept, *added, b"", b""))


class Stream:
    """One connection, which owns its socket. It keeps bytes that were read too early for the next read."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._read = bytearray()

    def close(self) -> None:
        self._connection.close()

    def write(self, data: bytes) -> Steps[None]:
        left = memoryview(data)
        while left:
            part = left[:_CHUNK_BYTES]
            count = yield from _tried(self._connection, WRITE, lambda part=part: self._connection.send(part))  # type: ignore[misc]
            left = left[count:]

    def some(self) -> Steps[bytes]:
        """Read some bytes; empty at the end."""
        if self._read:
            taken = bytes(self._read)
            self._read.clear()
            return taken
        return (yield from _tried(self._connection, READ, lambda: self._connection.recv(_CHUNK_BYTES)))

    def turn(self) -> Steps[None]:
        """Wait until it is writable, so that a fast stream of bytes does not shut out all other strands."""
        yield ((self._connection, WRITE),)

    def head(self) -> Steps[Head]:
        text = yield from self._until(b"\r\n\r\n")
        first, *lines = text.split(b"\r\n")
        return Head(first, tuple(lines))

    def body(self, head: Head, most: int) -> Steps[bytes]:
        """Read the body after `head`, at most `most` bytes. A body without a length ends with the connection."""
        headers = head.headers
        if "chunked" in headers.get("transfer-encoding", "").lower():
            return (yield from self._chunks(most))
        if "content-length" in headers:
            return (yield from self._exactly(_number(headers["content-length"], 10), most))
        return (yield from self._rest(most))

    def _chunks(self, most: int) -> Steps[bytes]:
        body = bytearray()
        while size := _number((yield from self._until(b"\r\n")).partition(b";")[0].decode("latin-1"), 16):
            body += yield from self._exactly(size, most - len(body))
            yield from self._until(b"\r\n")
        return bytes(body)

    def _until(self, mark: bytes) -> Steps[bytes]:
        while (end := self._read.find(mark)) < 0:
            if len(self._read) > _MOST_HEAD_BYTES:
                raise BadMessage("an endless head")
            yield from self._more()
        return self._take(end, len(mark))

    def _exactly(self, size: int, most: int) -> Steps[bytes]:
        _check(size, most)
        while len(self._read) < size:
            yield from self._more()
        return self._take(size)

    def _rest(self, most: int) -> Steps[bytes]:
        body = bytearray()
        while part := (yield from self.some()):
            body += part
            _check(len(body), most)
        return bytes(body)

    def _more(self) -> Steps[None]:
        part = yield from _tried(self._connection, READ, lambda: self._connection.recv(_CHUNK_BYTES))
        if not part:
            raise BadMessage("it ended too early")
        self._read += part

    def _take(self, size: int, mark: int = 0) -> bytes:
        taken = bytes(self._read[:size])
        del self._read[: size + mark]
        return taken


def connected(addresses: Addresses, tls_name: str | None) -> Steps[Stream]:
    """Connect to the first of `addresses` that accepts, by TLS if there is a host name. Raises OSError."""
    connection = yield from _first(addresses)
    try:
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls_name is not None:
            secured = _trusted().wrap_socket(connection, server_hostname=tls_name, do_handshake_on_connect=False)
            connection = secured
            yield from _tried(secured, READ, secured.do_handshake)
    except BaseException:
        connection.close()
        raise
    return Stream(connection)


def _first(addresses: Addresses) -> Steps[socket.socket]:
    """Try all at once, so that one that never answers does not delay the others."""
    error = errno.EADDRNOTAVAIL
    with ExitStack() as sockets:
        pending = {}
        for family, kind, protocol, _, address in addresses:
            one = sockets.enter_context(socket.socket(family, kind, protocol))
            one.setblocking(False)
            pending[one] = address
        while pending:
            for one, address in tuple(pending.items()):
                code = one.connect_ex(address)
                if code in (0, errno.EISCONN):
                    return socket.socket(fileno=one.detach())
                if code not in _ON_ITS_WAY:
                    error = code
                    del pending[one]
            if pending:
                yield tuple((one, WRITE) for one in pending)
    raise OSError(error, os.strerror(error))


def _tried(connection: socket.socket, event: int, operation: Callable[[], T]) -> Steps[T]:
    """Repeat the operation whenever the connection is ready. TLS may have to read before it writes."""
    while True:
        try:
            return operation()
        except ssl.SSLWantReadError:
            wanted = READ
        except ssl.SSLWantWriteError:
            wanted = WRITE
        except BlockingIOError:
            wanted = event
        yield ((connection, wanted),)


def _trusted() -> ssl.SSLContext:
    """The context for the certificates that the environment names now, else for the roots of the system."""
    return _made(os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"))


@cache
def _made(file: str | None, directory: str | None) -> ssl.SSLContext:
    """Make it once, because loading the roots takes longer than a call. Python reads the variables itself."""
    return ssl.create_default_context()


def _number(text: str, base: int) -> int:
    text = text.strip()
    if not text.isascii() or not text.isalnum():
        raise BadMessage("a length that is not a number")
    try:
        return int(text, base)
    except ValueError:
        raise BadMessage("a length that is not a number") from None


def _check(size: int, most: int) -> None:
    if size > most:
        raise BadMessage("a body that is too long")

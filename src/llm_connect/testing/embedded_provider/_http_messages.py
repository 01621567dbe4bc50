"""The HTTP/1.1 that a provider needs: bytes in, requests out; replies in, bytes out. Without I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Literal, TypeAlias

MAX_HEAD_BYTES = 64 * 1024
MAX_BODY_BYTES = 256 * 1024 * 1024


#: The point at which a reply stops for ever.
Stall: TypeAlias = Literal["before_headers", "after_headers", "in_stream"]


class MalformedRequest(Exception):
    """The bytes are not an HTTP/1.1 request; `status` is the answer before closing."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpRequest:
    """One complete request; header names are in lower case, repeated headers are joined by a comma."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes
    keep_alive: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """The pace of a reply's bytes, and their number; all times in seconds."""

    delay: float = 0.0
    between: float = 0.0
    drip: float | None = None
    drip_headers: bool = False
    stall: Stall | None = None
    cut: int | Literal["before_reply"] | None = None


AT_ONCE = Pace()


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpReply:
    """One reply and its pace; `parts` are the pieces of the body in the order of sending."""

    status: int = 200
    content_type: str = "application/json"
    body: bytes = b""
    parts: tuple[bytes, ...] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    pace: Pace = AT_ONCE

    def head(self, *, keep_alive: bool) -> bytes:
        """The status line and headers, up to and with the empty line."""
        reason = HTTPStatus(self.status).phrase if self.status in _KNOWN_STATUSES else "Unknown"
        lines = [
            f"HTTP/1.1 {self.status} {reason}",
            f"content-type: {self.content_type}",
            f"content-length: {len(self.body)}",
            f"connection: {'keep-alive' if keep_alive else 'close'}",
            *(f"{name}: {value}" for name, value in self.headers.items()),
        ]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")


_KNOWN_STATUSES = frozenset(int(status) for status in HTTPStatus)


class RequestParser:
    """Turns the bytes of one connection into requests, in order; feed it and ask for the next one.

        parser.feed(data)
        while (request := parser.next_request()) is not None: ...

    Understands content-length and chunked bodies, pipelining and `Expect: 100-continue`.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._searched = 0
        self._head: _Head | None = None
        self._chunks = bytearray()
        self._chunk_left: int | None = None
        self._in_trailers = False

    def feed(self, data: bytes) -> None:
        """Adds bytes as they came from the network."""
        self._buffer += data

    @property
    def expects_continue(self) -> bool:
        """True once per request whose client waits for `100 Continue` before it sends the body."""
        if self._head is None or not self._head.expects_continue:
            return False
        self._head.expects_continue = False
        return not self._buffer

    def next_request(self) -> HttpRequest | None:
        """The next complete request, or None until more bytes are fed."""
        if self._head is None:
            self._head = self._take_head()
        head = self._head
        if head is None:
            return None
        body = self._take_chunked() if head.chunked else self._take_bytes(head.content_length)
        if body is None:
            return None
        self._head = None
        return HttpRequest(
            method=head.method,
            target=head.target,
            headers=head.headers,
            body=body,
            keep_alive=head.keep_alive,
        )

    def _take_head(self) -> _Head | None:
        while self._buffer.startswith(b"\r\n"):
            del self._buffer[:2]
            self._searched = 0
        end = self._buffer.find(b"\r\n\r\n", max(0, self._searched - 3))
        if (end if end >= 0 else len(self._buffer)) > MAX_HEAD_BYTES:
            raise MalformedRequest(431)
        if end < 0:
            self._searched = len(self._buffer)
            return None
        self._searched = 0
        raw = self._buffer[:end].decode("latin-1")
        del self._buffer[: end + 4]
        return _parse_head(raw)

    def _take_bytes(self, count: int) -> bytes | None:
        if len(self._buffer) < count:
            return None
        taken = bytes(memoryview(self._buffer)[:count])
        del self._buffer[:count]
        return taken

    def _take_line(self) -> bytes | None:
        end = self._buffer.find(b"\r\n")
        if end < 0:
            if len(self._buffer) > MAX_HEAD_BYTES:
                raise MalformedRequest(400)
            return None
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 2]
        return line

    def _take_chunked(self) -> bytes | None:
        while not self._in_trailers:
            if self._chunk_left is None and not self._begin_chunk():
                return None
            if not self._in_trailers and not self._finish_chunk():
                return None
        return self._end_of_chunks()

    def _begin_chunk(self) -> bool:
        line = self._take_line()
        if line is None:
            return False
        self._chunk_left = _number(line.split(b";")[0].strip().decode("latin-1"), base=16)
        self._in_trailers = self._chunk_left == 0
        if len(self._chunks) + self._chunk_left > MAX_BODY_BYTES:
            raise MalformedRequest(413)
        return True

    def _finish_chunk(self) -> bool:
        assert self._chunk_left is not None
        taken = self._take_bytes(self._chunk_left + 2)
        if taken is None:
            return False
        if taken[-2:] != b"\r\n":
            raise MalformedRequest(400)
        self._chunks += memoryview(taken)[:-2]
        self._chunk_left = None
        return True

    def _end_of_chunks(self) -> bytes | None:
        while (line := self._take_line()) is not None:
            if not line:
                body = bytes(self._chunks)
                self._chunks, self._chunk_left, self._in_trailers = bytearray(), None, False
                return body
        return None


@dataclass(slots=True)
class _Head:
    method: str
    target: str
    headers: dict[str, str]
    keep_alive: bool
    chunked: bool
    content_length: int
    expects_continue: bool


def _parse_head(raw: str) -> _Head:
    first, *lines = raw.split("\r\n")
    parts = first.split(" ")
    if len(parts) != 3 or not parts[2].startswith("HTTP/1."):
        raise MalformedRequest(400)
    headers = _parse_headers(lines)
    length = _number(headers.get("content-length", "0"), base=10)
    if length > MAX_BODY_BYTES:
        raise MalformedRequest(413)
    return _Head(
        method=parts[0],
        target=parts[1],
        headers=headers,
        keep_alive=_keeps_alive(parts[2], headers.get("connection", "").lower()),
        chunked="chunked" in headers.get("transfer-encoding", "").lower(),
        content_length=length,
        expects_continue=headers.get("expect", "").lower() == "100-continue",
    )


def _parse_headers(lines: list[str]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name or name != name.strip():
            raise MalformedRequest(400)
        key, text = name.lower(), value.strip()
        headers[key] = f"{headers[key]}, {text}" if key in headers else text
    return headers


def _keeps_alive(version: str, connection: str) -> bool:
    return "keep-alive" in connection if version == "HTTP/1.0" else "close" not in connection


def _number(text: str, *, base: int) -> int:
    digits = "0123456789abcdef"[:base]
    if not text or any(character not in digits for character in text.lower()):
        raise MalformedRequest(400)
    return int(text, base)

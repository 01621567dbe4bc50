"""Measures replies while they arrive, after decoding, so that none takes more memory or time than allowed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx2

from llm_connect.engine.http_options import MOST_ERROR_BYTES, STREAM_FACTOR, HttpOptions
from llm_connect.errors import LLMAPIError
from llm_connect.protocols.error_bodies import ErrorFields
from llm_connect.protocols.http_failures import from_status
from llm_connect.protocols.wire import Failure, Reply

#: A key costs as much as three values.
_STRUCTURE = (b",", b"[", b"{", b'":', b'":')
_BLANK_LINES = (b"\n\n", b"\r\n\r\n", b"\r\r")


class ReplyRefused(Exception):
    """A reply is over a limit, and is not read any further."""

    def __init__(self, response: httpx2.Response, what: str) -> None:
        super().__init__(what)
        self.status: int = response.status_code
        self.headers: dict[str, str] = {name.lower(): value for name, value in response.headers.items()}
        self.what = what

    @property
    def failure(self) -> Failure:
        """The reply was cut off, so its cost is unknown."""
        if self.status < 300:
            details = {"status_code": self.status}
            return Failure(kind=LLMAPIError, message=f"The reply (HTTP {self.status}) {self.what}.", details=details)
        said = from_status(Reply(self.status, self.headers, b""), ErrorFields(message=f"the reply {self.what}"))
        return replace(said, maybe_billed=True, retryable=False)


def gauged(response: httpx2.Response, options: HttpOptions, *, streamed: bool) -> None:
    """Let `response` raise ReplyRefused once it is over a limit, however it is read."""
    kind = _EventGauge if streamed and response.status_code < 300 else _Gauge
    decoder = response._get_content_decoder()
    response._decoder = _Measured(decoder, kind(response, options))  # type: ignore[assignment]


class _Measured:
    """A decoder of httpx2 that returns pieces of at most one mebibyte."""

    def __init__(self, decoder: Any, gauge: _Gauge) -> None:
        self._decoder = decoder
        self._take = gauge.take

    def decode(self, data: bytes) -> Iterator[bytes]:
        for piece in self._decoder.decode(data):
            self._take(piece)
            yield piece

    def flush(self) -> Iterator[bytes]:
        for piece in self._decoder.flush():
            self._take(piece)
            yield piece


class _Gauge:
    """Counts a whole reply."""

    def __init__(self, response: httpx2.Response, options: HttpOptions) -> None:
        self._response = response
        self._most_bytes = options.max_reply_bytes
        if response.status_code >= 300:
            self._most_bytes = min(MOST_ERROR_BYTES, options.max_reply_bytes)
        self._most_structure = options.max_reply_structure
        self._bytes = self._structure = 0

    def take(self, piece: bytes) -> None:
        self._count(piece)

    def _count(self, piece: bytes) -> None:
        self._bytes += len(piece)
        if self._bytes > self._most_bytes:
            raise self._refused(f"has more than {self._most_bytes:,} bytes", "max_reply_bytes")
        self._structure += sum(map(piece.count, _STRUCTURE))
        if self._structure > self._most_structure:
            raise self._refused(f"has more than {self._most_structure:,} brackets and commas", "max_reply_structure")

    def _refused(self, what: str, argument: str) -> ReplyRefused:
        if argument == "max_reply_bytes" and self._response.status_code >= 300:
            return ReplyRefused(self._response, f"{what}, which no error needs")
        return ReplyRefused(self._response, f"{what}: to read it, pass the adapter a larger {argument}=")


class _EventGauge(_Gauge):
    """Counts the current event of a stream, and all of them together."""

    def __init__(self, response: httpx2.Response, options: HttpOptions) -> None:
        super().__init__(response, options)
        self._most_of_all = STREAM_FACTOR * options.max_reply_bytes
        self._of_all = 0
        self._ends_in_line_end = False

    def take(self, piece: bytes) -> None:
        self._of_all += len(piece)
        if self._of_all > self._most_of_all:
            raise self._refused(f"has more than {self._most_of_all:,} bytes in its events", "max_reply_bytes")
        first, last = self._blank_lines(piece)
        self._ends_in_line_end = piece.endswith((b"\n", b"\r"))
        if first < 0:
            self._count(piece)
            return
        self._count(piece[:first])
        self._bytes = self._structure = 0
        # An event within one piece, which has at most a mebibyte, needs no check of its own.
        self._count(piece[last:])

    def _blank_lines(self, piece: bytes) -> tuple[int, int]:
        """The positions of the first and the last blank line; -1 if there are none."""
        if self._ends_in_line_end and piece.startswith((b"\n", b"\r")):
            first = 0
        else:
            first = min((found for each in _BLANK_LINES if (found := piece.find(each)) >= 0), default=-1)
        return first, max(first, *(piece.rfind(each) for each in _BLANK_LINES))

"""Measuring a reply while it arrives: over a limit it is not read any further, and what that means for its call."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator

import httpx2
import pytest

from llm_connect.engine.http import _begun
from llm_connect.engine.http_options import MOST_ERROR_BYTES, HttpOptions
from llm_connect.engine.measuring import ReplyRefused
from llm_connect.errors import LLMAPIError, LLMRateLimitError

EVENT = b"data: {}\n\n"
GZIP, DEFLATE = {"content-encoding": "gzip"}, {"content-encoding": "deflate"}


class Pieces(httpx2.SyncByteStream):
    """A body that arrives in these pieces; counts those that were read."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces = pieces
        self.read = 0

    def __iter__(self) -> Iterator[bytes]:
        for piece in self.pieces:
            self.read += 1
            yield piece


def response_of(*pieces: bytes, status: int = 200, headers: dict[str, str] | None = None) -> httpx2.Response:
    """A response whose body arrives in these pieces."""
    return httpx2.Response(status, headers=headers, stream=Pieces(*pieces))


def read(
    *pieces: bytes,
    limits: HttpOptions,
    streamed: bool = False,
    status: int = 200,
    headers: dict[str, str] | None = None,
) -> bytes:
    """Read a reply to its end while it is measured."""
    response = response_of(*pieces, status=status, headers=headers)
    _begun(response, limits, streamed=streamed)
    return b"".join(response.iter_bytes())


def refused(*pieces: bytes, limits: HttpOptions, **details: object) -> ReplyRefused:
    """The refusal of a reply."""
    with pytest.raises(ReplyRefused) as caught:
        read(*pieces, limits=limits, **details)  # type: ignore[arg-type]
    return caught.value


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("status", [200, 500])
def test_as_many_bytes_as_the_limit_are_read(streamed: bool, status: int) -> None:
    """One more is too many, in a reply, an event and an error alike. (CALL-43)"""
    limits = HttpOptions(max_reply_bytes=10)
    assert read(b"12345", b"67890", limits=limits, streamed=streamed, status=status) == b"1234567890"
    error = refused(b"12345", b"678901", limits=limits, streamed=streamed, status=status)
    assert error.what.startswith("has more than 10 bytes")


def test_what_follows_is_not_read() -> None:
    """A reply over its limit costs no memory for the rest. (CALL-43)"""
    response = response_of(b"12345", b"678901", b"never")
    _begun(response, HttpOptions(max_reply_bytes=10), streamed=False)
    with pytest.raises(ReplyRefused):
        response.read()
    assert isinstance(response.stream, Pieces)
    assert response.stream.read == 2


@pytest.mark.parametrize("headers", [GZIP, DEFLATE])
def test_bytes_count_after_decoding(headers: dict[str, str]) -> None:
    """A short body that unpacks to a long one is refused, at its end as well. (CALL-43)"""
    pack = gzip.compress if headers is GZIP else zlib.compress
    assert read(pack(b"a" * 100), limits=HttpOptions(max_reply_bytes=100), headers=headers) == b"a" * 100
    error = refused(pack(b"a" * 101), limits=HttpOptions(max_reply_bytes=100), headers=headers)
    assert "has more than 100 bytes" in error.what


def test_bytes_that_only_the_end_completes_are_counted() -> None:
    """A decoder may keep bytes until the end of the body; they are measured, too. (CALL-43)"""

    class Late:
        def decode(self, data: bytes) -> Iterator[bytes]:
            yield from ()

        def flush(self) -> Iterator[bytes]:
            yield b"a" * 11

    response = response_of(b"x")
    response._decoder = Late()  # type: ignore[assignment]
    _begun(response, HttpOptions(max_reply_bytes=10), streamed=False)
    with pytest.raises(ReplyRefused):
        response.read()


def test_a_reply_that_is_packed_twice_is_refused_unread() -> None:
    """One content coding is supported; nobody unpacks a body of several. (CALL-43)"""
    response = response_of(b"x", headers={"content-encoding": "gzip, gzip"})
    with pytest.raises(ReplyRefused, match="is compressed more than once"):
        _begun(response, HttpOptions(), streamed=False)
    assert isinstance(response.stream, Pieces)
    assert response.stream.read == 0


def test_brackets_and_commas_are_limited() -> None:
    """A key counts twice on top of its comma, because it costs as much as three values. (CALL-43)"""
    limits = HttpOptions(max_reply_structure=5)
    assert read(b'[{"a": 1},', b"2]", limits=limits)
    error = refused(b'[{"a": 1},', b"2,3]", limits=limits)
    assert error.what == (
        "has more than 5 brackets and commas: to read it, pass the adapter a larger max_reply_structure="
    )


def test_an_error_has_a_limit_of_its_own() -> None:
    """No argument of the adapter raises it, so the message names none. (CALL-43)"""
    limits = HttpOptions(max_reply_bytes=4 * MOST_ERROR_BYTES)
    assert len(read(b"a" * MOST_ERROR_BYTES, limits=limits, status=400)) == MOST_ERROR_BYTES
    assert len(read(b"a" * 2 * MOST_ERROR_BYTES, limits=limits)) == 2 * MOST_ERROR_BYTES
    error = refused(b"a" * MOST_ERROR_BYTES, b"a", limits=limits, status=400)
    assert error.what == f"has more than {MOST_ERROR_BYTES:,} bytes, which no error needs"


@pytest.mark.parametrize("blank", [b"\n\n", b"\r\n\r\n", b"\r\r"])
def test_each_event_of_a_stream_has_the_limit(blank: bytes) -> None:
    """A blank line begins to count again, also where it is cut in two; all events together may be longer. (CALL-43)"""
    limits = HttpOptions(max_reply_bytes=10)
    events = b"123456" + blank
    whole = read(events, events, events, limits=limits, streamed=True)
    assert whole == events * 3
    half = len(events) - len(blank) // 2
    assert read(events[:half], events[half:] + b"12345", limits=limits, streamed=True)
    assert "bytes: to read it" in refused(events, b"1234567", b"89012", limits=limits, streamed=True).what
    assert "bytes: to read it" in refused(b"12345678901" + blank, limits=limits, streamed=True).what


def test_brackets_are_counted_for_each_event() -> None:
    """A stream may have many in all of its events, and few in one. (CALL-43)"""
    limits = HttpOptions(max_reply_structure=6)
    assert read(*[b"[[[[\n\n"] * 9, limits=limits, streamed=True)
    assert "max_reply_structure" in refused(b"[[[[\n\n[[[", b"[[[[", limits=limits, streamed=True).what


def test_all_events_of_a_stream_together_have_a_limit() -> None:
    """It is four times that of a reply, since each text has much around it. (CALL-43)"""
    limits = HttpOptions(max_reply_bytes=10)
    assert read(*[EVENT] * 4, limits=limits, streamed=True) == EVENT * 4
    error = refused(*[EVENT] * 4, b"\n", limits=limits, streamed=True)
    assert error.what.startswith("has more than 40 bytes in its events")


def test_the_body_of_a_failed_stream_is_no_stream() -> None:
    """An error has one limit, whatever was asked for. (CALL-43)"""
    assert (
        "has more than 10 bytes"
        in refused(EVENT, EVENT, limits=HttpOptions(max_reply_bytes=10), streamed=True, status=500).what
    )


@pytest.mark.parametrize(
    ("headers", "short"),
    [
        ({"content-length": "5"}, True),
        ({"content-length": "1000"}, True),
        ({"content-length": "1001"}, False),
        ({"content-length": "9999999999"}, False),
        ({"content-length": "-5"}, False),
        ({}, False),
        ({"content-length": "5", **GZIP}, False),
    ],
)
def test_only_a_short_plain_reply_needs_no_measuring(headers: dict[str, str], short: bool) -> None:
    """Its length, which the transport enforces, must be under every limit. (CALL-43)"""
    limits = HttpOptions(max_reply_bytes=1_000)
    assert _begun(response_of(b"12345", headers=headers), limits, streamed=False) is short


def test_a_refused_answer_was_paid_for() -> None:
    """Its cost is unknown, and asking for it again would cost as much. (CALL-43)"""
    failure = refused(b"12345", limits=HttpOptions(max_reply_bytes=4)).failure
    assert (failure.kind, failure.retryable, failure.billed) == (LLMAPIError, False, None)
    assert failure.message == (
        "The reply (HTTP 200) has more than 4 bytes: to read it, pass the adapter a larger max_reply_bytes=."
    )
    assert failure.details == {"status_code": 200}


def test_a_refused_error_keeps_its_kind() -> None:
    """Its status says what has happened; whether it was billed is unknown, and it is not sent again. (CALL-43)"""
    headers = {"X-Request-Id": "r1"}
    failure = refused(b"12345", limits=HttpOptions(max_reply_bytes=4), status=429, headers=headers).failure
    assert (failure.kind, failure.retryable, failure.billed) == (LLMRateLimitError, False, None)
    assert failure.request_id == "r1"
    assert "has more than 4 bytes, which no error needs" in failure.message

"""Server-sent events, cut anywhere."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_connect.protocols.sse import Event, EventStream


def fed(pieces: list[bytes]) -> list[Event]:
    """All that comes of bytes in these pieces."""
    events = EventStream()
    found = [event for piece in pieces for event in events.feed(piece)]
    return [*found, *events.end()]


def cut(body: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(body) + 1) for place in places), len(body)]
    return [body[start:end] for start, end in pairwise(edges)]


@pytest.mark.parametrize(
    ("body", "data"),
    [
        (b"data: a\n\ndata: b\n\n", ["a", "b"]),
        (b"data: a\r\n\r\ndata: b\r\rdata: c\n\n", ["a", "b", "c"]),
        (b"data: one\ndata: two\n\n", ["one\ntwo"]),
        (b"data:a\n\ndata:  b\n\n", ["a", " b"]),
        (b": comment\n\n: another\ndata: a\n\n", ["a"]),
        (b"event: x\nid: 1\nretry: 5\ndata: a\nnothing\n\n", ["a"]),
        (b"\xef\xbb\xbfdata: a\n\n", ["a"]),
        (b"data: \xc3\xa9\xff\n\n", ["é\ufffd"]),
        (b"data\n\n\n\ndata: a\n\n", ["", "a"]),
        (b"data: whole\n\ndata: without an end", ["whole", "without an end"]),
        (b"data: without an empty line\n", ["without an empty line"]),
        (b"", []),
        (b"<html>\n\n</html>", []),
    ],
)
def test_events_are_read_as_the_standard_says(body: bytes, data: list[str]) -> None:
    """Line ends, several lines of data, comments, other fields, a byte order mark, what is no UTF-8, a missing end.

    (STREAM-10)
    """
    assert [item for name, item in fed([body]) if name is not None and item] == [item for item in data if item]


@given(
    st.lists(st.sampled_from([b"data: a", b"data:", b": c", b"\r", b"\n", b"\r\n", b"\n\n", b"\xc3", b"\xa9", b"x"])),
    st.lists(st.integers(0, 200), max_size=12),
)
def test_where_the_bytes_are_cut_makes_no_difference(parts: list[bytes], places: list[int]) -> None:
    """The same bytes in any pieces are the same events. (STREAM-10)"""
    body = b"".join(parts)
    assert fed(cut(body, places)) == fed([body])


def test_a_return_and_a_newline_of_two_pieces_end_one_line() -> None:
    """The newline behind a return belongs to it, and a further one ends the event. (STREAM-10)"""
    assert fed([b"data: a\r", b"\n", b"\ndata: b\n\n"]) == [("", "a"), ("", "b")]


def test_a_lone_return_ends_a_line_at_once() -> None:
    """An event is not kept back for the line feed that may follow its last return. (STREAM-10)"""
    events = EventStream()
    assert events.feed(b"data: a\r\r") == [("", "a")]
    assert events.feed(b"\ndata: b\r\n\r") == [("", "b")]


def test_names_and_lines_beside_events_are_told_apart() -> None:
    """An event has its own name only, and a line that is no field of an event is given by itself. (STREAM-10)"""
    body = b"event: error\ndata: a\n\ndata: b\n\n<html>\nid: 1\nretry: 3\n: c\nevent: ping\n\n" + b'{"error": 1}'
    assert fed([body]) == [("error", "a"), ("", "b"), (None, "<html>"), ("ping", ""), (None, '{"error": 1}')]

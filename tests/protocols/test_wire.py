"""The small parts that every protocol reads a reply with."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llm_connect.protocols import chat_completions
from llm_connect.protocols.replies import answer_in, unreadable
from llm_connect.protocols.wire import (
    Answer,
    Failure,
    Reply,
    count,
    first,
    mapping,
    request_id_in,
    shown,
    text,
)


def test_an_object_is_read() -> None:
    """A JSON object is given as it is, with a byte order mark too."""
    assert answer_in(Reply(200, {}, b' {"a": 1} ')) == ({"a": 1}, None)
    assert answer_in(Reply(200, {}, b'\xef\xbb\xbf{"a": 1}')) == ({"a": 1}, None)


@pytest.mark.parametrize(
    ("body", "described"),
    [
        (b"", "empty"),
        (b" \r\n", "empty"),
        (b"\n<!doctype html>", "HTML"),
        (b"{", "broken"),
        (b"\xff", "broken"),
        (b"9" * 10_000, "JSON float"),
        (b"[1]", "JSON list"),
        (b"null", "NoneType"),
        (b'"{}"', "JSON str"),
    ],
)
def test_what_is_no_object_is_described(body: bytes, described: str) -> None:
    """The text says what came instead, and never shows it."""
    _, failed = answer_in(Reply(200, {"x-request-id": "r"}, body))
    assert isinstance(failed, Failure)
    assert described in failed.message
    assert failed.request_id == "r"


def test_an_unreadable_reply_tells_its_status() -> None:
    """The status goes into the text and the details."""
    failed = unreadable(Reply(200, {}, b""), "is odd")
    assert "HTTP 200" in failed.message
    assert failed.details == {"status_code": 200}


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        ({}, None),
        ({"x-request-id": ""}, None),
        ({"request-id": "b"}, "b"),
        ({"x-request-id": "a", "request-id": "b"}, "a"),
        ({"x-request-id": "", "request-id": "b"}, "b"),
        ({"x-generation-id": "g"}, "g"),
    ],
)
def test_the_request_id_is_in_a_header(headers: dict[str, str], found: str | None) -> None:
    """The first header that has one names the request."""
    assert request_id_in(headers) == found


@pytest.mark.parametrize(
    ("value", "counted"),
    [(0, 0), (5, 5), (5.0, 5), (-1, 0), (5.5, 0), (True, 0), ("5", 0), (None, 0), (float("nan"), 0), ([], 0)],
)
def test_a_count_is_a_whole_number(value: Any, counted: int) -> None:
    """What is no count is 0."""
    assert count(value) == counted


@pytest.mark.parametrize("value", [None, 5, [], {}, True])
def test_what_is_no_text_is_empty(value: Any) -> None:
    """Another kind than text is empty text."""
    assert text(value) == ""


def test_text_can_always_be_encoded() -> None:
    """Halves of characters are replaced, whole ones are kept."""
    assert text("a😀\ud83d") == "a😀?"


def test_what_is_no_object_is_an_empty_one() -> None:
    """`mapping` and `first` always give an object."""
    assert mapping({"a": 1}) == {"a": 1}
    assert mapping([]) == mapping(None) == mapping("a") == {}
    assert first([{"a": 1}, {}]) == {"a": 1}
    assert first([]) == first(None) == first([5]) == first({"0": 1}) == {}


def test_what_is_shown_is_short_and_on_one_line() -> None:
    """White space is folded and a long text cut with a sign."""
    assert shown(" a\n\tb ") == "a b"
    assert shown("x" * 300) == "x" * 300
    assert shown("x" * 301) == "x" * 299 + "…"
    assert shown(5) == "5"


def test_the_hint_is_for_empty_answers_at_their_limit_alone() -> None:
    """Text, or another finish, needs no hint. (WIRE-10)"""
    for content, finish, hinted in (("", "length", True), ("x", "length", False), ("", "stop", False)):
        choice = {"message": {"content": content}, "finish_reason": finish}
        answer = chat_completions.parse(Reply(200, {}, json.dumps({"choices": [choice]}).encode()))
        assert isinstance(answer, Answer)
        assert (answer.hint is not None) is hinted


def test_a_request_id_of_odd_bytes_can_be_written_down() -> None:
    """Some HTTP libraries let bytes of a header that are no text through as lone surrogates."""
    assert request_id_in({"x-request-id": "r\udcff1"}) == "r?1"

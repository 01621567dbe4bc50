"""Error bodies in the forms that servers and gateways give them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_connect import LLMAuthenticationError
from llm_connect.protocols import chat_completions, generate_content, responses
from llm_connect.protocols.error_bodies import read_error, said_in
from llm_connect.protocols.replies import tells_of_error
from llm_connect.protocols.wire import Failure, Reply

PARSE = {"chat": chat_completions.parse, "responses": responses.parse, "gemini": generate_content.parse}
each_format = pytest.mark.parametrize("wire", PARSE)
WORDS = "it fell over"

BODIES: dict[str, Any] = {
    "OpenAI": {"error": {"message": WORDS, "type": "t", "param": None, "code": None}},
    "a word": {"error": WORDS},
    "a list under error": {"error": [{"message": WORDS}]},
    "a list of errors": [{"error": {"code": 400, "message": WORDS}}],
    "texts": [WORDS],
    "FastAPI": {"detail": WORDS},
    "FastAPI's own checks": {"detail": [{"loc": ["body", "model"], "msg": WORDS, "type": "missing"}]},
    "an object as detail": {"detail": {"error": {"message": WORDS}}},
    "vLLM": {"object": "error", "message": WORDS, "type": "BadRequestError", "param": None, "code": 400},
    "a gateway": {"message": WORDS},
    "AWS": {"Message": WORDS},
    "Cloudflare": {"success": False, "errors": [{"code": 7003, "message": WORDS}], "messages": []},
    "an object as message": {"error": {"message": {"text": WORDS}}},
    "error_message": {"error": {"error_message": WORDS}},
    "OAuth": {"error": "invalid_token", "error_description": WORDS},
    "problem details": {"type": "about:blank", "title": "Bad", "status": 400, "detail": WORDS},
    "Anthropic": {"type": "error", "error": {"type": "invalid_request_error", "message": WORDS}},
    "Groq in a stream": {"x_groq": {"id": "r", "error": WORDS}},
    "errors by field": {"errors": {"messages": [WORDS]}},
    "another form": {"odd": {"odder": WORDS}},
    "OpenRouter's provider": {
        "error": {"message": "Provider error", "metadata": {"raw": json.dumps({"detail": WORDS})}}
    },
    "OpenRouter's provider, in an object": {"error": {"message": "Bad", "metadata": {"raw": {"message": WORDS}}}},
    "OpenRouter's provider, in words": {"error": {"metadata": {"raw": WORDS, "provider_name": "X"}}},
    "text": WORDS,
    "a JSON text": json.dumps(WORDS),
    "HTML": "<!doctype html><html><head><style>p {}</style><script>x()</script></head><p>it fell\nover</p></html>",
    "XML": f"<?xml version='1.0'?><Error><Code>Denied</Code><Message>{WORDS}</Message></Error>",
}


def bytes_of(body: Any) -> bytes:
    return body.encode() if isinstance(body, str) else json.dumps(body).encode()


def failure(wire: str, body: Any, status: int = 400, **headers: str) -> Failure:
    found = PARSE[wire](Reply(status, headers, bytes_of(body)))
    assert isinstance(found, Failure)
    return found


@each_format
@pytest.mark.parametrize("name", BODIES)
def test_the_words_of_an_error_are_kept(wire: str, name: str) -> None:
    """Whichever form a body has, its words are in the error, and it is released like any 4xx. (WIRE-42, WIRE-11)"""
    failed = failure(wire, BODIES[name])
    assert WORDS in failed.message
    assert WORDS in failed.details["response_body"]["message"]
    assert not failed.maybe_billed
    assert failed.message.startswith("HTTP 400: ")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", ""),
        (b"   ", ""),
        (b"<html></html>", ""),
        (b"<script>alert(1)", ""),
        (b"<!-- a comment", ""),
        (b"\xff\xfe\x00\x80", ""),
        (b"{}", ""),
        (b"[]", ""),
        (b"null", ""),
        (b"a &amp; b", "a &amp; b"),
        (b"<p>a &amp; b", "a & b"),
        (b"caf\xc3\xa9", "café"),
        (b"a\x1b[31m\x07b", "a\x1b[31m\x07b"),
        (b'{"error": {"message": "a \\ud83d b"}}', "a ? b"),
    ],
)
def test_what_has_no_words_gives_none(body: bytes, words: str) -> None:
    """A page is shown without its tags and scripts, and what is no text is not shown. (WIRE-42)"""
    assert read_error(said_in(body)).message == words


def test_a_terminal_is_told_nothing() -> None:
    """What a terminal would obey does not reach the text of an error. (WIRE-42)"""
    assert "\x1b" not in failure("chat", {"error": {"message": "a\x1b[31mred\x07"}}).message
    assert "\x1b" not in str(failure("chat", "a\x1b[31mred").details)


@each_format
@pytest.mark.parametrize("wrapped", [list, dict])
@pytest.mark.parametrize("details", [list, dict])
@pytest.mark.parametrize(
    ("delay", "wait"), [("7s", 7), ("0.25s", 0.25), ({"seconds": 7}, 7), ("soon", None), (-1, None)]
)
def test_the_wait_in_a_body_is_read(wire: str, wrapped: type, details: type, delay: Any, wait: float | None) -> None:
    """RetryInfo is read in every format, within a list, too; the longer of the waits asked for counts. (WIRE-13)"""
    info = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay}
    error = {"error": {"code": 429, "message": "m", "details": [{"a": 1}, info] if details is list else info}}
    body = [error] if wrapped is list else error
    assert failure(wire, body, 429).retry_after == wait
    assert failure(wire, body, 429, **{"retry-after": "90"}).retry_after == 90
    assert failure(wire, body, 429, **{"retry-after": "0"}).retry_after == (wait or 0)


def google(*quotas: str, **more: Any) -> dict[str, Any]:
    violations = {"violations": [{"quotaId": quota} for quota in quotas]}
    details = [violations, {"retryDelay": "5s"}, *more.pop("details", [])]
    return {"error": {"code": 429, "message": "You exceeded your current quota", "details": details, **more}}


@each_format
@pytest.mark.parametrize(
    ("body", "retried"),
    [
        ({"error": {"code": "insufficient_quota", "message": "m"}}, False),
        ({"error": {"type": "insufficient_quota", "message": "m"}}, False),
        (google("GenerateRequestsPerDayPerProjectPerModel-FreeTier"), False),
        ([google("GenerateRequestsPerDayPerProjectPerModel-FreeTier")], False),
        (google("GenerateRequestsPerMinutePerProjectPerModel", "GenerateRequestsPerDayPerProjectPerModel"), False),
        (google("GenerateRequestsPerMinutePerProjectPerModel-FreeTier"), True),
        (google(details=[{"reason": "RATE_LIMIT_EXCEEDED", "metadata": {"quota_limit": "RequestsPerDay"}}]), False),
        (google("GenerateRequestsPerMinutePerProjectPerModel", message="quota exceeded, limit: 0, model: x"), False),
        (google(), True),
        ({"error": {"code": 429, "message": "Rate limit exceeded: free-models-per-day. Add credits"}}, False),
        ({"error": {"code": 429, "message": "Rate limit exceeded: free-models-per-min."}}, True),
        ({"error": {"message": "Rate limit reached on tokens per day (TPD): Limit 100000"}}, False),
        ({"error": {"message": "Rate limit reached on requests per min (RPM): Limit 3"}}, True),
        ({"detail": "Daily limit reached"}, False),
        ({"error": {"message": "slow down"}}, True),
        (b"", True),
    ],
)
def test_a_used_up_quota_is_told_from_a_full_minute(wire: str, body: Any, retried: bool) -> None:
    """What comes back with the day, or with money, is not tried again; what comes back in a moment is. (WIRE-43)"""
    failed = failure(wire, "" if body == b"" else body, 429)
    assert failed.retryable is retried
    assert ("quota is used up" in failed.message) is not retried


@each_format
def test_a_bad_key_is_known_in_every_format(wire: str) -> None:
    """Google says 400 and the reason, also where it speaks OpenAI's format. (WIRE-7)"""
    error = {"code": 400, "message": "m", "status": "INVALID_ARGUMENT", "details": [{"reason": "API_KEY_INVALID"}]}
    assert failure(wire, [{"error": error}]).kind is LLMAuthenticationError


@pytest.mark.parametrize(
    ("said", "is_error"),
    [
        ({"error": None, "choices": []}, False),
        ({"error": {}, "message": ""}, False),
        ({"choices": [{"message": {"content": "x"}}], "message": "fine", "detail": "fine"}, False),
        ({"candidates": [{}], "message": "fine"}, False),
        ({"object": "response", "message": "fine"}, False),
        ({"type": "info", "message": "loading"}, False),
        ({"type": "ping"}, False),
        ({}, False),
        ({"type": "response.output_text.delta", "error": "of an event of the format"}, False),
        ({"success": False}, True),
        ({"statusCode": 500}, True),
        ({"status": "UNAVAILABLE"}, True),
    ],
)
def test_errors_are_told_from_answers(said: dict[str, Any], is_error: bool) -> None:
    """Only what is no part of an answer, and says so, is an error under a good status. (WIRE-6)"""
    assert tells_of_error(said) is is_error


NAMES = ["error", "errors", "detail", "details", "message", "code", "status", "type", "metadata", "violations", "loc"]
ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4),
    max_leaves=15,
)


@given(ANY, st.sampled_from(list(PARSE)), st.sampled_from([200, 201, 301, 400, 429, 500]))
def test_any_error_body_is_read(body: Any, wire: str, status: int) -> None:
    """Whatever stands where, there is a failure of one line, never an exception. (WIRE-42)"""
    failed = failure(wire, json.dumps(body), status)
    assert failed.message.isprintable()
    assert tells_of_error(body) in (True, False) if isinstance(body, dict) else True


def test_a_long_page_is_read_quickly_and_in_part() -> None:
    """A page of any size costs no more than its beginning."""
    page = b"<script" * 1_000_000
    assert read_error(said_in(page)).message == ""
    assert len(read_error(said_in(b"x" * 1_000_000)).message) == 8192

"""What a status, its headers and an error's fields say, for every provider over HTTP."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from llm_connect import LLMAPIError, LLMAuthenticationError, LLMRateLimitError
from llm_connect.protocols.error_bodies import ErrorFields, read_error
from llm_connect.protocols.http_failures import from_status, wait_asked_for
from llm_connect.protocols.wire import MOST_READ, Reply


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "2"}, 2),
        ({"retry-after": "0"}, 0),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after-ms": "250"}, 0.25),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after-ms": "x", "retry-after": "9"}, 9),
        ({"retry-after": ""}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "1e999"}, None),
        ({"retry-after": "Mon, 01 Jan 99999 00:00:00 GMT"}, None),
        ({"retry-after": "Mon, 01 Jan 2024 00:00:00 +99999999999999999999"}, None),
        ({"retry-after": "Mon, 01 Jan 2024 00:00:00 GMT"}, 0),
        ({"retry-after": "Mon, 01 Jan 0001 00:00:00 -0000"}, 0),
    ],
)
def test_the_wait_asked_for(headers: dict[str, str], seconds: float | None) -> None:
    """Seconds, milliseconds and dates are understood; what is no wait is not one, and nothing raises. (WIRE-13)"""
    assert wait_asked_for(headers) == seconds


def test_a_date_in_the_future_is_the_time_until_then() -> None:
    """A date is turned into seconds from now. (WIRE-13)"""
    when = datetime.now(UTC) + timedelta(seconds=60)
    wait = wait_asked_for({"retry-after": format_datetime(when, usegmt=True)})
    assert wait is not None
    assert 50 < wait <= 61


@pytest.mark.parametrize(
    ("status", "advice"),
    [
        (401, "API key"),
        (402, "credits"),
        (403, "API key"),
        (404, "model name"),
        (413, "shorter"),
        (418, "change the request"),
        (429, "wait"),
        (500, "later"),
        (599, "later"),
        (307, "base_url"),
    ],
)
def test_the_text_says_what_to_do(status: int, advice: str) -> None:
    """One line: the status, what the provider said, and what to do."""
    fields = ErrorFields(message="" if status == 307 else "it\nsaid  so")
    message = from_status(Reply(status, {}, b""), fields).message
    assert advice in message
    assert "\n" not in message
    assert status == 307 or "it said so" in message


@pytest.mark.parametrize(
    ("status", "words", "headers", "line"),
    [
        (429, "Slow down.", {}, "HTTP 429: Slow down. (wait, or send fewer requests at once)."),
        (429, "Slow down!", {}, "HTTP 429: Slow down! (wait, or send fewer requests at once)."),
        (429, "", {"retry-after": "2"}, "HTTP 429 (wait, or send fewer requests at once; retry after 2 s)."),
        (503, "", {"retry-after-ms": "250"}, "HTTP 503 (try again later; retry after 1 s)."),
        (503, "Full", {"retry-after": "3600"}, "HTTP 503: Full (try again later; retry after 3,600 s)."),
        (401, "The key is not valid. ", {}, "HTTP 401: The key is not valid. (check the API key)."),
    ],
)
def test_the_text_is_one_line(status: int, words: str, headers: dict[str, str], line: str) -> None:
    """It has the provider's words as they are, what to do, and the wait that the provider asked for."""
    assert from_status(Reply(status, headers, b""), ErrorFields(message=words)).message == line


def test_a_long_text_is_capped() -> None:
    """Neither message nor body can carry a page of text. (ERROR-6)"""
    fields = ErrorFields(message="x" * 10_000, code="c" * 10_000, type="t" * 10_000, param="p" * 10_000)
    failed = from_status(Reply(400, {}, b""), fields)
    assert len(failed.message) < 500
    assert all(len(text) <= 300 for text in failed.details["response_body"].values())


def test_a_code_of_zero_is_shown() -> None:
    """Only what is absent is left out of the body."""
    assert ErrorFields(code=0).public() == {"code": "0"}
    assert ErrorFields().public() == {}


def test_a_body_may_know_better() -> None:
    """A refused key and a used-up quota in the body come before what the status says; the longest wait counts."""
    headers = {"retry-after": "9", "x-request-id": "r"}
    failed = from_status(Reply(400, headers, b""), ErrorFields(bad_key=True, wait=20.0))
    assert (failed.kind, failed.retryable, failed.retry_after) == (LLMAuthenticationError, False, 20.0)
    assert failed.request_id == "r"
    assert from_status(Reply(429, headers, b""), ErrorFields(wait=1.0)).retry_after == 9.0
    assert [from_status(Reply(429, {}, b""), ErrorFields(used_up=used)).retryable for used in (True, False)] == [
        False,
        True,
    ]


@pytest.mark.parametrize("status", [400, 429, 499, 599])
def test_the_bodys_status_counts_under_200_alone(status: int) -> None:
    """Under HTTP 200 the body's status is the status; under any other it is not."""
    assert from_status(Reply(200, {}, b""), ErrorFields(status=status)).details["status_code"] == status
    assert from_status(Reply(500, {}, b""), ErrorFields(status=status)).details["status_code"] == 500


def test_kinds_by_status() -> None:
    """429 is a rate limit, 401 and 403 are the key's, all else is a plain API error. (WIRE-7)"""
    kinds = {status: from_status(Reply(status, {}, b""), ErrorFields()).kind for status in range(300, 600)}
    assert kinds.pop(429) is LLMRateLimitError
    assert {kinds.pop(401), kinds.pop(403)} == {LLMAuthenticationError}
    assert set(kinds.values()) == {LLMAPIError}


def test_what_is_billed_by_status() -> None:
    """A complete 3xx or 4xx is not billed; of any other status nobody knows. (WIRE-11)"""
    billed = {s: from_status(Reply(s, {}, b""), ErrorFields()).maybe_billed for s in range(300, 600)}
    assert {s for s, maybe in billed.items() if not maybe} == set(range(300, 500))


def test_of_a_text_of_megabytes_only_the_beginning_is_read() -> None:
    """Its words decide nothing and take no time, wherever they stand in the reply. (WIRE-5)"""
    long = "z " * 2**19 + "your quota for this day is used up"
    for key in ("message", "code", "type", "param"):
        said = read_error({"error": {"message": "no", key: long}})
        assert not said.used_up
        assert all(len(str(value)) <= MOST_READ for value in (said.message, said.code, said.type))
        assert len(said.param or "") <= MOST_READ

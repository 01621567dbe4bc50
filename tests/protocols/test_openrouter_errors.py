"""What OpenRouter's own fields say about an error: whether it may pass, and when to come back."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llm_connect.errors import LLMAPIError, LLMRateLimitError
from llm_connect.protocols import chat_completions
from llm_connect.protocols.openrouter_replies import with_openrouters_words
from llm_connect.protocols.wire import Failure, Reply

IN_FLIGHT = {"reason": "in_flight_budget_exhausted", "limit_source": "openrouter_in_flight_budget"}


def failure_of(status: int, headers: dict[str, str] | None = None, **error: Any) -> Failure:
    """What a reply with this error stands for."""
    return read(Reply(status, headers or {}, json.dumps({"error": {"code": 402, "message": "no", **error}}).encode()))


def read(reply: Reply) -> Failure:
    failure = chat_completions.parse(reply)
    assert isinstance(failure, Failure)
    return with_openrouters_words(failure, reply)


def test_a_budget_that_is_in_flight_may_pass() -> None:
    """A 402 over requests in flight is tried again, after the wait that the header asks for. (WIRE-14)"""
    failure = failure_of(402, {"retry-after": "3"}, metadata=IN_FLIGHT)
    assert (failure.kind, failure.retryable, failure.retry_after) == (LLMAPIError, True, 3)
    assert not failure.maybe_billed


@pytest.mark.parametrize("source", ["openrouter_credits", "openrouter_key_limit", "another", None])
def test_credits_that_are_used_up_stay_so(source: str | None) -> None:
    """Any other 402 is not tried again, whatever its header says. (WIRE-14)"""
    assert not failure_of(402, {"retry-after": "3"}, metadata={"limit_source": source}).retryable
    assert not failure_of(402).retryable


@pytest.mark.parametrize("place", ["metadata", "availability"])
@pytest.mark.parametrize(
    ("said", "wait"), [(2, 2), (0.5, 0.5), ("7", 7), (0, 0), (True, None), ("x", None), (-1, None)]
)
def test_a_wait_in_the_body_is_read(place: str, said: Any, wait: float | None) -> None:
    """`retry_after` of the metadata or the availability counts where no header gives one. (WIRE-13)"""
    assert failure_of(429, code=429, **{place: {"retry_after": said}}).retry_after == wait
    assert failure_of(429, {"retry-after": "9"}, code=429, **{place: {"retry_after": said}}).retry_after == 9


@pytest.mark.parametrize("said", [True, False])
def test_what_the_availability_says_counts(said: bool) -> None:
    """Where OpenRouter says whether to try again, its word counts more than the status. (WIRE-14)"""
    assert failure_of(403, code=403, availability={"retryable": said}).retryable is said
    assert failure_of(503, code=503, availability={"retryable": said}).retryable is said


def test_an_error_within_a_choice_is_read_too() -> None:
    """What failed during generation comes under 200 in a choice, with a wait of its own. (WIRE-6, WIRE-13)"""
    error = {"code": 429, "message": "slow down", "metadata": {"retry_after": 4}}
    failure = read(Reply(200, {}, json.dumps({"choices": [{"error": error}]}).encode()))
    assert (failure.kind, failure.retry_after, failure.maybe_billed) == (LLMRateLimitError, 4, True)


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>", b"[]", b"{}", b'{"error": "no"}', b'{"error": {"metadata": [1], "availability": 5}}', b"[" * 9999],
)
def test_a_body_without_such_fields_changes_nothing(body: bytes) -> None:
    """Whatever the body is, the failure stays what it was."""
    reply = Reply(500, {}, body)
    failure = chat_completions.parse(reply)
    assert isinstance(failure, Failure)
    assert with_openrouters_words(failure, reply) == failure

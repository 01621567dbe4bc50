"""generateContent: what is rendered, and what a reply means."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llm_connect import (
    LLMAPIError,
    LLMAuthenticationError,
    LLMConfigurationError,
    LLMRateLimitError,
    LLMResponseError,
    RunConfig,
    Usage,
)
from llm_connect.protocols import generate_content
from llm_connect.protocols.wire import JSON, Answer, Failure, Reply


def render(limit: int | None = None, **settings: Any) -> JSON:
    return generate_content.render("hello", RunConfig(**settings), max_tokens=limit)


def parse(body: Any, status: int = 200) -> Answer | Failure:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return generate_content.parse(Reply(status, {}, raw))


def answer(body: Any) -> Answer:
    parsed = parse(body)
    assert isinstance(parsed, Answer)
    return parsed


def failure(body: Any, status: int = 200) -> Failure:
    parsed = parse(body, status)
    assert isinstance(parsed, Failure)
    return parsed


def good(parts: Any = None, finish: Any = "STOP", **more: Any) -> JSON:
    content = {"role": "model", "parts": [{"text": "hi"}] if parts is None else parts}
    candidate = {"content": content, "finishReason": finish}
    return {"candidates": [candidate], "modelVersion": "g-1", "responseId": "r1", **more}


def usage(**figures: Any) -> Usage | None:
    return answer(good(usageMetadata=figures)).usage


def test_only_what_is_set_is_sent() -> None:
    """Without settings the body is the contents, and nothing else. (MODEL-5, WIRE-2)"""
    assert render() == {"contents": [{"role": "user", "parts": [{"text": "hello"}]}]}


def test_what_is_set_is_sent_under_the_right_names() -> None:
    """System prompt, temperature and limit go where Gemini wants them; zero is not mistaken for unset. (WIRE-2)"""
    body = render(7, system_prompt="be brief", temperature=0, max_tokens=99)
    assert body["systemInstruction"] == {"parts": [{"text": "be brief"}]}
    assert body["generationConfig"] == {"temperature": 0, "maxOutputTokens": 7}


def test_parameters_are_translated() -> None:
    """Each known name goes under Gemini's own; a single stop text becomes a list; None is not sent."""
    settings = [{"category": "c", "threshold": "t"}]
    body = render(
        model_params={
            "stop": "END",
            "top_p": 0,
            "top_k": 3,
            "seed": None,
            "thinking_config": {"thinkingBudget": 0},
            "safety_settings": settings,
        }
    )
    assert body["safetySettings"] == settings
    assert body["generationConfig"] == {
        "stopSequences": ["END"],
        "topP": 0,
        "topK": 3,
        "thinkingConfig": {"thinkingBudget": 0},
    }
    assert render(model_params={"stop": ["A", "B"]})["generationConfig"] == {"stopSequences": ["A", "B"]}


def test_a_schema_is_translated() -> None:
    """`json_schema` becomes Gemini's schema and mime type, and wins over a mime type given beside it. (WIRE-4)"""
    schema = {"type": "object"}
    body = render(model_params={"json_schema": schema, "response_mime_type": "text/plain"})
    assert body["generationConfig"] == {"responseMimeType": "application/json", "responseJsonSchema": schema}


@pytest.mark.parametrize("name", ["candidate_count", "candidateCount", "maxOutputTokens", "tools", "logit_bias"])
def test_an_unknown_parameter_is_refused(name: str) -> None:
    """What would change the bound, and what only other providers know, is refused by name. (WIRE-3)"""
    with pytest.raises(LLMConfigurationError, match=f"'{name}'.*gemini"):
        render(model_params={name: 1})


def test_a_good_reply_is_an_answer() -> None:
    """Text, model, id and finish reason are taken over; parts are joined and thoughts left out."""
    parts = [{"text": "thinking", "thought": True}, {"text": "a"}, {"inlineData": {}}, "x", {"text": "b"}]
    parsed = answer(good(parts))
    assert (parsed.content, parsed.model, parsed.finish_reason) == ("ab", "g-1", "stop")
    assert (parsed.request_id, parsed.cost) == ("r1", None)


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("STOP", "stop"),
        ("MAX_TOKENS", "length"),
        ("SAFETY", "content_filter"),
        ("RECITATION", "content_filter"),
        ("BLOCKLIST", "content_filter"),
        ("PROHIBITED_CONTENT", "content_filter"),
        ("SPII", "content_filter"),
        ("MALFORMED_FUNCTION_CALL", "error"),
        ("BRAND_NEW", "unknown"),
        (None, "unknown"),
        (3, "unknown"),
    ],
)
def test_finish_reasons_are_one_closed_set(said: Any, meant: str) -> None:
    """What Gemini says is one of ours, or unknown. (MODEL-9, WIRE-9)"""
    assert answer(good(finish=said)).finish_reason == meant


@pytest.mark.parametrize("content", [None, {}, {"parts": None}, {"parts": []}, {"role": "model"}])
def test_an_answer_without_text_is_an_answer(content: Any) -> None:
    """A model that spent its limit thinking was paid for: empty text, `length` and a hint. (WIRE-10)"""
    parsed = answer({"candidates": [{"content": content, "finishReason": "MAX_TOKENS"}]})
    assert (parsed.content, parsed.finish_reason) == ("", "length")
    assert parsed.hint is not None


def test_a_blocked_prompt_is_content_filter() -> None:
    """A block is an answer with the usage of the prompt, not an error. (WIRE-9)"""
    parsed = answer(
        {
            "promptFeedback": {"blockReason": "PROHIBITED_CONTENT"},
            "usageMetadata": {"promptTokenCount": 9, "totalTokenCount": 9},
        }
    )
    assert (parsed.content, parsed.finish_reason) == ("", "content_filter")
    assert parsed.usage == Usage(prompt_tokens=9, completion_tokens=0)


def test_usage_is_in_the_normal_form() -> None:
    """Thoughts are output beside the candidates, and tool use is input beside the prompt. (WIRE-8)"""
    assert usage(
        promptTokenCount=10,
        cachedContentTokenCount=4,
        toolUsePromptTokenCount=3,
        candidatesTokenCount=20,
        thoughtsTokenCount=50,
        totalTokenCount=83,
    ) == Usage(prompt_tokens=13, completion_tokens=70, cached_tokens=4, reasoning_tokens=50)


def test_a_total_beyond_its_parts_is_output() -> None:
    """What only the total tells is booked, and booked as the dearer side."""
    assert usage(promptTokenCount=5, totalTokenCount=12) == Usage(prompt_tokens=5, completion_tokens=7)


@pytest.mark.parametrize(
    "said", [None, [], {}, {"promptTokenCount": "5"}, {"totalTokenCount": 12}, {"candidatesTokenCount": 3}]
)
def test_what_does_not_say_both_is_no_usage(said: Any) -> None:
    """A usage that cannot be read is unknown, not zero. (WIRE-8)"""
    assert answer(good(usageMetadata=said)).usage is None


@pytest.mark.parametrize(
    ("status", "kind", "retryable"),
    [
        (400, LLMAPIError, False),
        (401, LLMAuthenticationError, False),
        (403, LLMAuthenticationError, False),
        (404, LLMAPIError, False),
        (429, LLMRateLimitError, True),
        (500, LLMAPIError, True),
        (503, LLMAPIError, True),
    ],
)
def test_the_status_decides_what_an_error_is(status: int, kind: type[Exception], retryable: bool) -> None:
    """Kind and retry follow from the status, whatever the body; type is Gemini's own word. (WIRE-7)"""
    failed = failure({"error": {"code": status, "message": "m", "status": "WORD"}}, status)
    assert (failed.kind, failed.retryable) == (kind, retryable)
    assert failed.details["response_body"] == {"type": "WORD", "message": "m"}
    assert failure(b"<html>", status).kind is kind


def test_a_bad_key_is_an_authentication_error() -> None:
    """Gemini answers 400 to a bad key; the reason tells it apart from a bad request. (WIRE-7)"""
    error = {"code": 400, "message": "m", "details": [5, {"@type": "x"}, {"reason": "API_KEY_INVALID"}]}
    assert failure({"error": error}, 400).kind is LLMAuthenticationError


@pytest.mark.parametrize(
    ("delay", "seconds"),
    [
        ("2s", 2),
        ("0.25s", 0.25),
        ("7", 7),
        ("", None),
        ("soon", None),
        ("nan", None),
        ("infs", None),
        ("-3s", None),
    ],
)
def test_the_wait_is_in_a_detail(delay: Any, seconds: float | None) -> None:
    """RetryInfo tells how long to wait; what is no wait is not one. (WIRE-13)"""
    error = {"code": 429, "details": [{"x": 1}, {"retryDelay": delay}, {"retryDelay": None}]}
    assert failure({"error": error}, 429).retry_after == seconds


def test_an_error_under_200_is_an_error() -> None:
    """The code in the body decides, and what is no status does not become one. (WIRE-6)"""
    failed = failure({"error": {"code": 503, "message": "m"}})
    assert (failed.details["status_code"], failed.retryable, failed.maybe_billed) == (503, True, True)
    for code in (True, 0, 10**30, "503", None):
        assert failure({"error": {"code": code, "message": "m"}}).details["status_code"] == 200


@pytest.mark.parametrize("error", ["text", True, [1], {"details": {"a": 1}}, {"details": [None]}])
def test_an_error_of_another_shape_is_an_error(error: Any) -> None:
    """Whatever stands under `error` is a failure, never an exception or an answer."""
    assert failure({"error": error}).kind is LLMAPIError
    assert failure({"error": error}, 500).kind is LLMAPIError


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>", b'{"candidates": [', b"[]", b"{}", b'{"candidates": []}', b'{"candidates": [null]}'],
)
def test_a_good_status_without_an_answer_is_a_response_error(body: bytes) -> None:
    """What cannot be read as the format is an LLMResponseError that may be billed and is not retried. (WIRE-5)"""
    failed = failure(body)
    assert failed.kind is LLMResponseError
    assert (failed.retryable, failed.maybe_billed) == (False, True)


def test_an_unreadable_reply_keeps_the_usage_it_tells() -> None:
    """A reply without candidates can still say what it cost."""
    failed = failure({"usageMetadata": {"promptTokenCount": 5, "totalTokenCount": 5}})
    assert failed.usage == Usage(prompt_tokens=5, completion_tokens=0)

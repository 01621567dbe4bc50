"""Responses: what is rendered, what it may use, and what a reply means."""

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
from llm_connect.protocols import responses
from llm_connect.protocols.wire import JSON, Answer, Failure, Reply

USAGE = {"input_tokens": 5, "output_tokens": 1, "total_tokens": 6}


def render(config: RunConfig | None = None, max_tokens: int | None = None, **params: Any) -> JSON:
    config = config or RunConfig(model_params=params)
    return responses.render("hello", config, model="gpt-5", max_tokens=max_tokens)


def parse(body: Any, status: int = 200, **headers: str) -> Answer | Failure:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return responses.parse(Reply(status, headers, raw))


def message(*parts: JSON) -> JSON:
    return {"type": "message", "role": "assistant", "content": list(parts)}


def said(words: str) -> JSON:
    return {"type": "output_text", "text": words}


def good(*items: JSON, status: Any = "completed", **more: Any) -> JSON:
    output = list(items) or [message(said("hi"))]
    return {"id": "resp_1", "model": "m-1", "error": None, "status": status, "output": output, **more}


def answer(*items: JSON, **more: Any) -> Answer:
    parsed = parse(good(*items, **more))
    assert isinstance(parsed, Answer)
    return parsed


def failure(body: Any, status: int = 200, **headers: str) -> Failure:
    parsed = parse(body, status, **headers)
    assert isinstance(parsed, Failure)
    return parsed


# The request


def test_only_what_is_set_is_sent() -> None:
    """Without settings the body is model and message, and that the reply is not to be stored. (MODEL-5, WIRE-2)"""
    assert render() == {"model": "gpt-5", "input": [{"role": "user", "content": "hello"}], "store": False}


def test_what_is_set_is_sent_under_the_right_names() -> None:
    """System prompt, temperature and limit arrive; zero is not mistaken for unset. (WIRE-2)"""
    body = render(RunConfig(system_prompt="be brief", temperature=0, max_tokens=99), max_tokens=20)
    assert (body["instructions"], body["temperature"], body["max_output_tokens"]) == ("be brief", 0, 20)
    assert not {"max_tokens", "max_completion_tokens"} & body.keys()


@pytest.mark.parametrize(("asked", "sent"), [(1, 16), (15, 16), (16, 16), (17, 17)])
def test_a_limit_is_never_below_the_least(asked: int, sent: int) -> None:
    """The format takes no limit below 16, so 16 is sent, and what is bounded is what is sent. (WIRE-2, WIRE-15)"""
    body = render(max_tokens=asked)
    bound = responses.bound(body, asked, own_endpoint=True)
    assert body["max_output_tokens"] == bound.max_tokens == sent
    assert bound.least_max_tokens == 16


def test_parameters_go_to_their_places() -> None:
    """Effort and verbosity are inside of other objects here, the rest is at the top."""
    body = render(reasoning_effort="low", verbosity="high", top_p=0.5, user="u", metadata={"a": "b"})
    assert (body["reasoning"], body["text"]) == ({"effort": "low"}, {"verbosity": "high"})
    assert (body["top_p"], body["user"], body["metadata"]) == (0.5, "u", {"a": "b"})
    assert not {"reasoning_effort", "verbosity"} & body.keys()


def test_a_reply_is_stored_only_by_wish() -> None:
    """What OpenAI stores by default is not stored, unless the parameters say so."""
    assert render(store=True)["store"] is True


def test_a_schema_is_translated() -> None:
    """`json_schema` becomes the format of the text, beside its verbosity. (WIRE-4)"""
    schema = {"type": "object", "title": "A person"}
    body = render(verbosity="low", json_schema=schema, json_schema_strict=True)
    wanted = {"type": "json_schema", "name": "A_person", "schema": schema, "strict": True}
    assert body["text"] == {"format": wanted, "verbosity": "low"}
    assert not {"json_schema", "json_schema_strict"} & body.keys()


def test_rendering_changes_nothing_it_was_given() -> None:
    """The config is the same after a rendering. (ADAPTER-5)"""
    config = RunConfig(model_params={"json_schema": {"type": "object"}, "verbosity": "low"})
    render(config)["text"]["format"]["name"] = "x"
    assert config.model_params == {"json_schema": {"type": "object"}, "verbosity": "low"}


@pytest.mark.parametrize(
    "name",
    [
        "n",
        "stream",
        "background",
        "tools",
        "conversation",
        "previous_response_id",
        "prompt",
        "reasoning",
        "text",
        "seed",
    ],
)
def test_an_unknown_parameter_is_refused(name: str) -> None:
    """What would change the bound, as `reasoning` with its mode "pro" does, or the reading is refused. (WIRE-3)"""
    with pytest.raises(LLMConfigurationError, match=f"'{name}'.*responses"):
        render(RunConfig(model_params={name: 2}))


# The bound


def test_the_bound_counts_all_texts() -> None:
    """Instructions and input count with their bytes at least, in every script; it is proven at OpenAI. (WIRE-15)"""
    body = responses.render("日本" * 50, RunConfig(system_prompt="s" * 70), model="gpt-5", max_tokens=20)
    bound = responses.bound(body, 20, own_endpoint=True)
    assert 370 <= bound.prompt_tokens <= 450
    assert (bound.max_tokens, bound.outputs, bound.calls, bound.grade) == (20, 1, 1, "proven")


def test_only_what_is_known_is_proven() -> None:
    """A schema, a foreign endpoint or a model that may be given a further prompt make it an estimate. (WIRE-15)"""
    plain, schema = render(), render(json_schema={"type": "object"})
    assert responses.bound(plain, 20, own_endpoint=False).grade == "estimated"
    structured = responses.bound(schema, 20, own_endpoint=True)
    assert structured.grade == "estimated"
    assert structured.prompt_tokens > responses.bound(plain, 20, own_endpoint=True).prompt_tokens
    for model in ("gpt-5-pro", "o3-pro-2025-06-10", "gpt-4o-search-preview", "unheard-of"):
        bound = responses.bound(plain | {"model": model}, 20, own_endpoint=True)
        assert (bound.grade, bound.prompt_tokens > 2_000) == ("estimated", True)


# The reply


def test_a_good_reply_is_an_answer() -> None:
    """Text, model, id and finish reason are taken over."""
    parsed = answer()
    assert (parsed.content, parsed.model, parsed.finish_reason) == ("hi", "m-1", "stop")
    assert (parsed.request_id, parsed.cost, parsed.cost_source, parsed.usage) == ("resp_1", None, None, None)
    named = parse(good(), **{"x-request-id": "r1"})
    assert named.request_id == "r1"


def test_text_is_joined_over_messages() -> None:
    """All parts of all messages, in order; reasoning and unknown items add nothing."""
    items = (
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "secret"}], "content": [said("no")]},
        message(said("a"), {"type": "new"}, said("b")),
        {"type": "brand_new", "text": "x"},
        message(said("c")),
    )
    assert answer(*items).content == "abc"


@pytest.mark.parametrize(
    ("status", "reason", "meant"),
    [
        ("completed", None, "stop"),
        ("incomplete", "max_output_tokens", "length"),
        ("incomplete", "content_filter", "content_filter"),
        ("incomplete", "steered", "unknown"),
        ("incomplete", None, "unknown"),
        ("incomplete", {}, "unknown"),
        ("brand_new", None, "unknown"),
        (None, None, "unknown"),
        (7, "max_output_tokens", "unknown"),
    ],
)
def test_finish_reasons_are_one_closed_set(status: Any, reason: Any, meant: str) -> None:
    """Status and reason together are one of ours, or unknown. (MODEL-9, WIRE-9)"""
    assert answer(status=status, incomplete_details={"reason": reason}).finish_reason == meant


def test_a_function_call_is_tool_calls() -> None:
    """A completed reply that calls a function has not stopped by itself. (WIRE-9)"""
    assert answer({"type": "function_call", "name": "f"}).finish_reason == "tool_calls"


def test_an_answer_that_was_all_thinking_is_an_answer() -> None:
    """Reasoning without text was paid for: empty text, `length` and a hint. (WIRE-10)"""
    details = {"reason": "max_output_tokens"}
    parsed = answer({"type": "reasoning", "summary": []}, status="incomplete", incomplete_details=details)
    assert (parsed.content, parsed.finish_reason) == ("", "length")
    assert parsed.hint is not None
    assert "max_tokens" in parsed.hint
    assert answer({"type": "reasoning", "summary": []}).hint is None


def test_a_finished_reply_without_output_is_an_answer() -> None:
    """A limit that was spent before the first item leaves no items at all. (WIRE-10)"""
    for status in ("completed", "incomplete"):
        parsed = parse({"status": status, "output": [], "usage": USAGE})
        assert isinstance(parsed, Answer)
        assert (parsed.content, parsed.usage) == ("", Usage(prompt_tokens=5, completion_tokens=1))


def test_a_refusal_is_content_filter() -> None:
    """The refusal is the text where there is no other. (WIRE-9)"""
    refusal = {"type": "refusal", "refusal": "I cannot."}
    parsed = answer(message(refusal))
    assert (parsed.content, parsed.finish_reason) == ("I cannot.", "content_filter")
    parsed = answer(message(said("hi"), refusal))
    assert (parsed.content, parsed.finish_reason) == ("hi", "stop")


def test_usage_is_in_the_normal_form() -> None:
    """All figures of a full reply are read. (WIRE-8)"""
    figures = {
        "input_tokens": 10,
        "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 2},
        "output_tokens": 8,
        "output_tokens_details": {"reasoning_tokens": 5},
        "total_tokens": 18,
    }
    wanted = Usage(prompt_tokens=10, completion_tokens=8, cached_tokens=4, cache_write_tokens=2, reasoning_tokens=5)
    assert answer(usage=figures).usage == wanted


@pytest.mark.parametrize("figures", [None, {}, [], {"prompt_tokens": 5, "completion_tokens": 1}, {"input_tokens": 5}])
def test_a_reply_without_usage_gives_none(figures: Any) -> None:
    """What is not said is not zero, and chat completions' names are not read here. (WIRE-8)"""
    assert answer(usage=figures).usage is None


def test_a_cost_is_not_read() -> None:
    """This format has no cost: whatever a server says there beside the tokens is none. (WIRE-12)"""
    parsed = answer(usage=USAGE | {"cost": 4e-05})
    assert (parsed.cost, parsed.cost_source) == (None, None)


@pytest.mark.parametrize(
    ("code", "kind", "status", "retryable"),
    [
        ("server_error", LLMAPIError, 500, True),
        ("rate_limit_exceeded", LLMRateLimitError, 429, True),
        ("invalid_prompt", LLMAPIError, 200, False),
        ("brand_new", LLMAPIError, 200, False),
        (429, LLMRateLimitError, 429, True),
        (None, LLMAPIError, 200, False),
    ],
)
def test_a_failed_reply_is_an_error(code: Any, kind: type[Exception], status: int, retryable: bool) -> None:
    """The code of a failed reply says what kind of error it is; it may have been billed. (WIRE-6, WIRE-11)"""
    body = good(status="failed", usage=USAGE) | {"error": {"code": code, "message": "It broke."}}
    failed = failure(body)
    assert (failed.kind, failed.details["status_code"], failed.retryable) == (kind, status, retryable)
    assert failed.maybe_billed is True
    assert failed.usage == Usage(prompt_tokens=5, completion_tokens=1)
    assert "It broke." in failed.message


def test_a_used_up_quota_is_not_retried() -> None:
    """A quota does not come back by trying again."""
    failed = failure({"error": {"message": "m", "code": "insufficient_quota"}}, 429)
    assert (failed.kind, failed.retryable) == (LLMRateLimitError, False)


@pytest.mark.parametrize(
    ("status", "kind", "retryable", "maybe_billed"),
    [
        (400, LLMAPIError, False, False),
        (401, LLMAuthenticationError, False, False),
        (404, LLMAPIError, False, False),
        (429, LLMRateLimitError, True, False),
        (500, LLMAPIError, True, True),
    ],
)
def test_the_status_decides_what_an_error_is(
    status: int, kind: type[Exception], retryable: bool, maybe_billed: bool
) -> None:
    """Kind, retry and whether it may be billed follow from the status, whatever the body. (WIRE-7, WIRE-11)"""
    for body in ({"error": {"message": "m", "code": "server_error"}}, b"<html>", b"", [1]):
        failed = failure(body, status)
        assert (failed.kind, failed.retryable, failed.maybe_billed) == (kind, retryable, maybe_billed)
        assert failed.details["status_code"] == status


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>hello</html>",
        b'{"output": [',
        b"[]",
        b"{}",
        {"output": None},
        {"output": []},
        {"output": {"0": 1}},
        {"output": [None]},
        {"choices": [{"message": {"content": "hi"}}]},
        good(status="failed"),
        good(status="cancelled"),
        good(status="queued"),
        good(status="in_progress"),
    ],
)
def test_a_good_status_without_an_answer_is_a_response_error(body: Any) -> None:
    """What is no answer, or not one yet, is an LLMResponseError that may be billed and is not retried. (WIRE-5)"""
    failed = failure(body)
    assert failed.kind is LLMResponseError
    assert (failed.retryable, failed.maybe_billed) == (False, True)

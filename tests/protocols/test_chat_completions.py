"""Chat completions: what is rendered, and what a reply means."""

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
from llm_connect.protocols import chat_completions
from llm_connect.protocols.chat_completions import Dialect
from llm_connect.protocols.wire import JSON, Answer, Failure, Reply

PLAIN = Dialect(provider="test")
FIXED = Dialect(
    provider="fixed",
    limit_field="max_tokens",
    params=frozenset({"provider"}),
    fixed={"provider": {"require_parameters": True}},
)


def render(config: RunConfig | None = None, dialect: Dialect = PLAIN, max_tokens: int | None = None) -> JSON:
    return chat_completions.render("hello", config or RunConfig(), model="m", max_tokens=max_tokens, dialect=dialect)


def parse(body: Any, status: int = 200, **headers: str) -> Answer | Failure:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return chat_completions.parse(Reply(status, headers, raw))


def good(message: Any = None, finish: Any = "stop", **more: Any) -> JSON:
    choice = {"message": {"content": "hi"} if message is None else message, "finish_reason": finish}
    return {"id": "c1", "model": "m-1", "choices": [choice], **more}


def answer(*arguments: Any, **more: Any) -> Answer:
    parsed = parse(good(*arguments, **more))
    assert isinstance(parsed, Answer)
    return parsed


def failure(body: Any, status: int = 200, **headers: str) -> Failure:
    parsed = parse(body, status, **headers)
    assert isinstance(parsed, Failure)
    return parsed


def usage(**figures: Any) -> Usage | None:
    return answer(usage=figures).usage


def test_only_what_is_set_is_sent() -> None:
    """Without settings the body is model and message, and nothing else. (MODEL-5, WIRE-2)"""
    assert render() == {"model": "m", "messages": [{"role": "user", "content": "hello"}]}


def test_what_is_set_is_sent_under_the_right_names() -> None:
    """System prompt, temperature and limit arrive; zero and empty are not mistaken for unset."""
    body = render(RunConfig(system_prompt="be brief", temperature=0), max_tokens=7)
    assert body["messages"][0] == {"role": "system", "content": "be brief"}
    assert body["temperature"] == 0
    assert body["max_completion_tokens"] == 7
    assert "max_tokens" not in body


def test_the_limit_that_is_sent_is_the_one_given_not_the_configs() -> None:
    """A hold decides the limit: the config's own is not sent beside it. (WIRE-2)"""
    body = render(RunConfig(max_tokens=99), FIXED, max_tokens=5)
    assert body["max_tokens"] == 5
    assert "max_completion_tokens" not in body


def test_known_parameters_are_passed_through() -> None:
    """A parameter of the dialect goes into the body as it is."""
    assert render(RunConfig(model_params={"seed": 5, "stop": ["x"]})).items() >= {"seed": 5, "stop": ["x"]}.items()


def test_a_schema_is_translated() -> None:
    """`json_schema` becomes a response format, and strict is the caller's choice. (WIRE-4)"""
    schema = {"type": "object", "title": "A person"}
    body = render(RunConfig(model_params={"json_schema": schema, "json_schema_strict": True}))
    wrapped = {"name": "A_person", "schema": schema, "strict": True}
    assert body["response_format"] == {"type": "json_schema", "json_schema": wrapped}
    assert "json_schema" not in body
    assert "json_schema_strict" not in body


def test_rendering_changes_nothing_it_was_given() -> None:
    """Config and dialect are the same after a rendering. (ADAPTER-5)"""
    config = RunConfig(model_params={"json_schema": {"type": "object"}, "provider": {"sort": "price"}})
    render(config, FIXED)["provider"]["require_parameters"] = False
    assert config.model_params == {"json_schema": {"type": "object"}, "provider": {"sort": "price"}}
    assert render(dialect=FIXED)["provider"] == {"require_parameters": True}


def test_a_fixed_field_is_merged_and_wins() -> None:
    """A user's object joins the fixed one, and cannot turn it off."""
    config = RunConfig(model_params={"provider": {"sort": "price", "require_parameters": False}})
    assert render(config, FIXED)["provider"] == {"sort": "price", "require_parameters": True}


@pytest.mark.parametrize("value", [None, "openai", ["openai"], False])
def test_a_fixed_field_cannot_be_replaced(value: Any) -> None:
    """What is no object would push the fixed field out, and with it the promise that limits are honoured."""
    with pytest.raises(LLMConfigurationError, match="provider"):
        render(RunConfig(model_params={"provider": value}), FIXED)


@pytest.mark.parametrize("name", ["n", "stream", "max_tokens", "max_completion_tokens", "messages", "model", "x"])
def test_an_unknown_parameter_is_refused(name: str) -> None:
    """What would change the bound or the reading of the reply is refused like any unknown key, by name. (WIRE-3)"""
    with pytest.raises(LLMConfigurationError, match=f"'{name}'.*test"):
        render(RunConfig(model_params={name: 2}))


def test_a_good_reply_is_an_answer() -> None:
    """Text, model, id and finish reason are taken over."""
    parsed = answer()
    assert (parsed.content, parsed.model, parsed.finish_reason) == ("hi", "m-1", "stop")
    assert (parsed.request_id, parsed.cost, parsed.cost_source, parsed.usage) == ("c1", None, None, None)


def test_the_header_names_the_request_before_the_body_does() -> None:
    """`x-request-id` is what support asks for; OpenRouter tells costs by its generation id, which comes before it."""
    for headers in ({"x-request-id": "r1"}, {"x-generation-id": "r1", "x-request-id": "r2"}, {"request-id": "r1"}):
        parsed = parse(good(), 200, **headers)
        assert parsed.request_id == "r1"


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("stop", "stop"),
        ("length", "length"),
        ("content_filter", "content_filter"),
        ("tool_calls", "tool_calls"),
        ("function_call", "tool_calls"),
        ("error", "error"),
        ("brand_new", "unknown"),
        (None, "unknown"),
        (7, "unknown"),
        ({}, "unknown"),
    ],
)
def test_finish_reasons_are_one_closed_set(said: Any, meant: str) -> None:
    """What a provider says is one of ours, or unknown. (MODEL-9, WIRE-9)"""
    assert answer(finish=said).finish_reason == meant


@pytest.mark.parametrize("content", ["", None, 5, {}])
def test_an_answer_without_text_is_an_answer(content: Any) -> None:
    """A model that spent its limit thinking was paid for: empty text, `length` and a hint. (WIRE-10)"""
    parsed = answer({"content": content}, "length")
    assert (parsed.content, parsed.finish_reason) == ("", "length")
    assert parsed.hint is not None
    assert "max_tokens" in parsed.hint
    assert answer({"content": content}, "stop").hint is None
    assert answer({"content": "x"}, "length").hint is None


def test_text_in_parts_is_put_together() -> None:
    """Servers that give the content in parts lose none of it; parts without text add nothing."""
    parts = [{"type": "text", "text": "a"}, {"type": "thinking"}, "x", {"type": "text", "text": "b"}]
    assert answer({"content": parts}).content == "ab"


def test_a_refusal_is_content_filter() -> None:
    """The refusal is the text where there is no other. (WIRE-9)"""
    parsed = answer({"content": None, "refusal": "I cannot."})
    assert (parsed.content, parsed.finish_reason) == ("I cannot.", "content_filter")
    assert answer({"content": "hi", "refusal": None}).finish_reason == "stop"


def test_half_a_character_is_replaced() -> None:
    """A surrogate that a cut left alone would break whoever prints the text or asks with it again."""
    parsed = answer({"content": "smile \ud83d"})
    assert parsed.content == "smile ?"
    assert parsed.content.encode()


def test_usage_is_in_the_normal_form() -> None:
    """All figures of a full reply are read. (WIRE-8)"""
    assert usage(
        prompt_tokens=10,
        completion_tokens=8,
        total_tokens=18,
        prompt_tokens_details={"cached_tokens": 4, "cache_write_tokens": 2},
        completion_tokens_details={"reasoning_tokens": 5},
    ) == Usage(prompt_tokens=10, completion_tokens=8, cached_tokens=4, cache_write_tokens=2, reasoning_tokens=5)


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"total_tokens": 5},
        {"prompt_tokens": 5},
        {"completion_tokens": 5},
        {"prompt_tokens": None, "completion_tokens": None},
        {"prompt_tokens": True, "completion_tokens": True},
        {"prompt_tokens": -5, "completion_tokens": 5},
        {"prompt_tokens": 5, "completion_tokens": 5.5},
    ],
)
def test_what_does_not_say_both_is_no_usage(said: JSON) -> None:
    """A figure that cannot be one is not booked as zero: the usage is unknown. (WIRE-8)"""
    assert usage(**said) is None


@pytest.mark.parametrize("said", [None, 5, "x", []])
def test_usage_of_another_kind_is_none(said: Any) -> None:
    """A usage field that is no object says nothing, and does not harm the answer."""
    assert answer(usage=said).usage is None


def test_whole_floats_are_counts() -> None:
    """Some servers write every number with a point."""
    assert usage(prompt_tokens=5.0, completion_tokens=6.0) == Usage(prompt_tokens=5, completion_tokens=6)


def test_a_total_beyond_its_parts_is_output() -> None:
    """Servers that leave thinking out of the output, but not out of the total, are booked in full. (WIRE-8)"""
    read = usage(
        prompt_tokens=10,
        completion_tokens=5,
        total_tokens=115,
        completion_tokens_details={"reasoning_tokens": 100},
    )
    assert read == Usage(prompt_tokens=10, completion_tokens=105, reasoning_tokens=100)
    assert usage(prompt_tokens=10, total_tokens=12) == Usage(prompt_tokens=10, completion_tokens=2)


@pytest.mark.parametrize("cost", [0, 0.5, 1, "0.002"])
def test_a_cost_is_not_read_where_the_format_has_none(cost: Any) -> None:
    """Only OpenRouter defines a cost in this format; whatever another server says there is no cost. (WIRE-12)"""
    parsed = answer(usage={"cost": cost, "prompt_tokens": 5, "completion_tokens": 1})
    assert (parsed.cost, parsed.cost_source) == (None, None)


def test_not_a_number_in_json_is_unknown() -> None:
    """Python's JSON reader takes NaN and Infinity; neither becomes a cost or a count."""
    for word in (b"NaN", b"Infinity", b"-Infinity"):
        body = b'{"choices":[{"message":{"content":"x"}}],"usage":{"cost":%s,"prompt_tokens":%s}}'
        parsed = parse(body % (word, word))
        assert isinstance(parsed, Answer)
        assert (parsed.cost, parsed.usage) == (None, None)


@pytest.mark.parametrize(
    ("status", "kind", "retryable", "maybe_billed"),
    [
        (307, LLMAPIError, False, False),
        (400, LLMAPIError, False, False),
        (401, LLMAuthenticationError, False, False),
        (402, LLMAPIError, False, False),
        (403, LLMAuthenticationError, False, False),
        (404, LLMAPIError, False, False),
        (408, LLMAPIError, True, False),
        (429, LLMRateLimitError, True, False),
        (500, LLMAPIError, True, True),
        (503, LLMAPIError, True, True),
        (529, LLMAPIError, True, True),
    ],
)
def test_the_status_decides_what_an_error_is(
    status: int, kind: type[Exception], retryable: bool, maybe_billed: bool
) -> None:
    """Kind, retry and whether it may be billed follow from the status, whatever the body. (WIRE-7, WIRE-11)"""
    for body in ({"error": {"message": "m", "code": "c", "type": "t", "param": "p"}}, b"<html>", b"", [1]):
        failed = failure(body, status)
        assert failed.kind is kind
        assert (failed.retryable, failed.maybe_billed) == (retryable, maybe_billed)
        assert failed.details["status_code"] == status
        assert f"HTTP {status}" in failed.message


def test_an_error_shows_its_public_fields_only() -> None:
    """Code, type, param and message are kept; whatever else a body holds is not. (ERROR-6)"""
    error = {"message": "m", "code": "c", "type": "t", "param": "p", "metadata": {"user": "secret"}}
    failed = failure({"error": error, "user_id": "u"}, 400)
    assert failed.details["response_body"] == {"code": "c", "type": "t", "param": "p", "message": "m"}


def test_an_error_in_plain_text_keeps_its_text() -> None:
    """Servers that give `error` as text are understood."""
    assert "no such model" in failure({"error": "no such model"}, 404).message


@pytest.mark.parametrize("code", sorted(["insufficient_quota", "billing_hard_limit_reached", "billing_not_active"]))
@pytest.mark.parametrize("field", ["code", "type"])
def test_a_used_up_quota_is_not_retried(code: str, field: str) -> None:
    """A quota does not come back by trying again."""
    failed = failure({"error": {"message": "m", field: code}}, 429)
    assert failed.kind is LLMRateLimitError
    assert failed.retryable is False


def test_an_error_under_200_is_an_error() -> None:
    """The body's status decides; what it used is kept, and it may have been billed. (WIRE-6)"""
    body = {"error": {"code": 429, "message": "slow"}, "usage": {"prompt_tokens": 5, "completion_tokens": 1}}
    failed = failure(body)
    assert failed.kind is LLMRateLimitError
    assert failed.details["status_code"] == 429
    assert (failed.retryable, failed.maybe_billed) == (True, True)
    assert failed.usage == Usage(prompt_tokens=5, completion_tokens=1)


def test_an_error_in_a_choice_is_an_error() -> None:
    """OpenRouter reports what failed during generation inside the choice. (WIRE-6)"""
    body = {
        "choices": [{"error": {"code": 502, "message": "upstream"}, "message": {"content": "par"}}],
        "usage": {"prompt_tokens": 5, "completion_tokens": 1},
    }
    failed = failure(body)
    assert failed.details["status_code"] == 502
    assert failed.usage == Usage(prompt_tokens=5, completion_tokens=1)


@pytest.mark.parametrize("code", [0, -1, 7, 200, 10**30, True, 1.5, "some_error", None, [], {}])
def test_a_code_that_is_no_status_does_not_become_one(code: Any) -> None:
    """Only 400 to 599, or a word that stands for one of these, can be an error's status under HTTP 200."""
    failed = failure({"error": {"code": code, "message": "m"}})
    assert failed.details["status_code"] == 200
    assert failed.kind is LLMAPIError


def test_the_status_of_the_transport_wins_over_the_bodys_code() -> None:
    """A code in the body says nothing against a status that is an error itself."""
    assert failure({"error": {"code": 429}}, 500).details["status_code"] == 500


@pytest.mark.parametrize("nothing", [None, "", {}, [], 0, False])
def test_an_empty_error_is_none(nothing: Any) -> None:
    """Servers that always write the field do not fail every answer."""
    assert answer(error=nothing).content == "hi"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" \n",
        b"<html>hello</html>",
        b'{"choices": [',
        b"\xff\xfe\x00",
        b"[]",
        b"null",
        b'"text"',
        b"5",
        b"{}",
        b'{"choices": null}',
        b'{"choices": []}',
        b'{"choices": [null]}',
        b'{"choices": [{}]}',
        b'{"choices": [{"message": null}]}',
        b'{"choices": {"0": 1}}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
    ],
)
def test_a_good_status_without_an_answer_is_a_response_error(body: bytes) -> None:
    """What cannot be read as the format is an LLMResponseError that may be billed and is not retried. (WIRE-5)"""
    failed = failure(body)
    assert failed.kind is LLMResponseError
    assert (failed.retryable, failed.maybe_billed) == (False, True)
    assert "base_url" in failed.message


def test_an_unreadable_reply_keeps_the_usage_it_tells() -> None:
    """A reply without choices can still say what it cost."""
    failed = failure({"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 0}})
    assert failed.usage == Usage(prompt_tokens=5, completion_tokens=0)

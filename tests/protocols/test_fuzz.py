"""Whatever comes over the wire is an answer or a failure, never an exception."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llm_connect import LLMError
from llm_connect.protocols import chat_completions, claude_cli, generate_content, responses
from llm_connect.protocols.wire import Answer, Failure, Reply
from llm_connect.types.response import FINISH_REASONS

pytestmark = pytest.mark.slow

FUZZED = settings(max_examples=80, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])

Parse = Callable[[Reply], Answer | Failure]
FORMATS = (chat_completions, responses, generate_content, claude_cli)
PARSERS = pytest.mark.parametrize(
    "parse", [module.parse for module in FORMATS], ids=[module.__name__.rpartition(".")[2] for module in FORMATS]
)

#: The names that the formats know, so that random objects reach further than the first field.
NAMES = [
    "error",
    "code",
    "message",
    "type",
    "param",
    "status",
    "details",
    "reason",
    "retryDelay",
    "choices",
    "finish_reason",
    "content",
    "refusal",
    "text",
    "candidates",
    "finishReason",
    "parts",
    "thought",
    "promptFeedback",
    "blockReason",
    "model",
    "modelVersion",
    "id",
    "responseId",
    "usage",
    "prompt_tokens",
    "completion_tokens",
    "total_tokens",
    "prompt_tokens_details",
    "completion_tokens_details",
    "cached_tokens",
    "cache_write_tokens",
    "reasoning_tokens",
    "cost",
    "is_byok",
    "cost_details",
    "upstream_inference_cost",
    "output",
    "incomplete_details",
    "input_tokens",
    "output_tokens",
    "input_tokens_details",
    "output_tokens_details",
    "result",
    "subtype",
    "is_error",
    "stop_reason",
    "terminal_reason",
    "api_error",
    "api_error_status",
    "structured_output",
    "modelUsage",
    "total_cost_usd",
    "usageMetadata",
    "promptTokenCount",
    "candidatesTokenCount",
    "thoughtsTokenCount",
    "totalTokenCount",
    "cachedContentTokenCount",
    "toolUsePromptTokenCount",
]
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["stop", "length", "1e999999", "NaN", "2s", "\ud800", "insufficient_quota", 429, 503])
)
names = st.sampled_from(NAMES) | st.text(max_size=3)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=6),
    max_leaves=25,
)
figures = st.integers(0, 50) | st.floats() | st.none() | st.booleans() | st.integers()
statuses = st.just(200) | st.integers(100, 999)
headers = st.dictionaries(
    st.sampled_from(["retry-after", "retry-after-ms", "x-request-id", "content-type"]),
    st.text() | st.from_regex(r"\A(Mon, )?\d{1,2} Jan \d{1,6} \d\d:\d\d:\d\d [+-]?\d{0,12}\Z"),
)


def check(parsed: Answer | Failure) -> None:
    if isinstance(parsed, Failure):
        check_failure(parsed)
    else:
        check_answer(parsed)
    check_usage(parsed)


def check_failure(failure: Failure) -> None:
    error = failure.kind(failure.message, retry_after=failure.retry_after, **failure.details)
    assert isinstance(error, LLMError)
    assert "\n" not in str(error)
    assert len(str(error)) < 600
    assert failure.retry_after is None or 0 <= failure.retry_after < float("inf")
    json.dumps(failure.details)


def check_answer(answer: Answer) -> None:
    assert answer.content.encode() is not None
    assert answer.model.encode() is not None
    assert answer.finish_reason in FINISH_REASONS
    assert answer.cost is None or (answer.cost.is_finite() and answer.cost >= 0)
    assert (answer.cost is None) == (answer.cost_source is None)


def check_usage(parsed: Answer | Failure) -> None:
    usage = parsed.usage
    if usage is None:
        return
    assert all(type(value) is int and value >= 0 for name, value in usage.to_dict().items() if name != "estimated")
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert usage.cached_tokens + usage.cache_write_tokens <= usage.prompt_tokens
    assert usage.reasoning_tokens <= usage.completion_tokens


@PARSERS
@FUZZED
@given(status=statuses, headers=headers, body=st.binary())
def test_any_bytes(parse: Parse, status: int, headers: dict[str, str], body: bytes) -> None:
    """Any bytes under any status and headers are an answer or a failure."""
    check(parse(Reply(status, headers, body)))


@PARSERS
@FUZZED
@given(status=statuses, headers=headers, body=st.dictionaries(names, values, max_size=6))
def test_any_json(parse: Parse, status: int, headers: dict[str, str], body: dict[str, Any]) -> None:
    """Any JSON object under any status and headers is an answer or a failure."""
    check(parse(Reply(status, headers, json.dumps(body).encode())))


@PARSERS
@FUZZED
@given(error=values, status=statuses)
def test_any_error(parse: Parse, error: Any, status: int) -> None:
    """Anything under `error` gives a failure, or is empty and no error."""
    check(parse(Reply(status, {}, json.dumps({"error": error}).encode())))


@FUZZED
@given(message=values, finish=values, usage=st.dictionaries(names, values | figures))
def test_any_choice(message: Any, finish: Any, usage: dict[str, Any]) -> None:
    """Any choice of a chat completion is read without an exception."""
    body = {"choices": [{"message": message, "finish_reason": finish}], "usage": usage}
    check(chat_completions.parse(Reply(200, {}, json.dumps(body).encode())))


@FUZZED
@given(
    content=values,
    status=st.sampled_from(["completed", "incomplete", "failed", "queued"]) | values,
    details=values,
    usage=st.dictionaries(names, values | figures),
)
def test_any_output(content: Any, status: Any, details: Any, usage: dict[str, Any]) -> None:
    """Any output of responses is read without an exception."""
    items = [{"type": "message", "content": content}, content]
    body = {"status": status, "output": items, "incomplete_details": details, "usage": usage}
    check(responses.parse(Reply(200, {}, json.dumps(body).encode())))


@FUZZED
@given(
    result=st.dictionaries(names, values | figures, max_size=8),
    message=st.dictionaries(names, values, max_size=5),
    headers=st.fixed_dictionaries(
        {"exit-code": st.integers(-64, 255).map(str), "stderr": st.text()},
        optional={"sent": st.sampled_from(["yes", "no"]), "request-id": st.text()},
    ),
)
def test_any_line_of_the_command(result: dict[str, Any], message: dict[str, Any], headers: dict[str, str]) -> None:
    """Any message and any result of the `claude` command are read without an exception."""
    lines = [{"type": "assistant", "message": message}, {"type": "result", **result}]
    body = "\n".join(map(json.dumps, lines)).encode()
    check(claude_cli.parse(Reply(0, headers, body)))


@FUZZED
@given(content=values, finish=values, usage=st.dictionaries(names, values | figures))
def test_any_candidate(content: Any, finish: Any, usage: dict[str, Any]) -> None:
    """Any candidate of Gemini is read without an exception."""
    body = {"candidates": [{"content": content, "finishReason": finish}], "usageMetadata": usage}
    check(generate_content.parse(Reply(200, {}, json.dumps(body).encode())))

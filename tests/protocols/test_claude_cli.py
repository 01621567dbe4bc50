"""The output of the `claude` command: what the real one printed, and what must never be made of it."""

from __future__ import annotations

import copy
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from llm_connect.errors import (
    LLMAPIError,
    LLMAuthenticationError,
    LLMConfigurationError,
    LLMConnectionError,
    LLMError,
    LLMRateLimitError,
    LLMResponseError,
    LLMSubprocessError,
)
from llm_connect.interface.config import RunConfig
from llm_connect.protocols import claude_cli
from llm_connect.protocols.error_bodies import said_in
from llm_connect.protocols.http_failures import error_reply
from llm_connect.protocols.wire import Answer, Failure, Reply

DATA = Path(__file__).parent.parent / "providers" / "data" / "claude"
SCHEMA = {"type": "object", "properties": {"answer": {"type": "integer"}}, "required": ["answer"]}


def reply(stdout: bytes, *, exit_code: int = 1, stderr: str = "") -> Reply:
    return Reply(0, {"exit-code": str(exit_code), "stderr": stderr}, stdout)


def stream(name: str) -> Reply:
    return reply((DATA / "one_request" / f"{name}.jsonl").read_bytes())


def envelope(name: str) -> Reply:
    captured = json.loads((DATA / f"{name}.json").read_text())
    return reply(json.dumps(captured["stdout"]).encode(), exit_code=captured["exit"])


def answer(of: Reply) -> Answer:
    parsed = claude_cli.parse(of)
    assert isinstance(parsed, Answer), parsed
    return parsed


def failure(of: Reply) -> Failure:
    parsed = claude_cli.parse(of)
    assert isinstance(parsed, Failure), parsed
    return parsed


def render(prompt: str = "hi", **fields: Any) -> dict[str, Any]:
    return claude_cli.render(prompt, RunConfig(**fields), model="m", max_tokens=fields.get("max_tokens"))


def test_budget_exhausted_is_the_good_end() -> None:
    """An error by subtype, is_error and exit code is the normal end of one request."""
    parsed = answer(stream("ok"))
    assert (parsed.content, parsed.finish_reason) == ("Hello from loopback.", "stop")
    assert (parsed.model, parsed.request_id) == ("claude-haiku-4-5-20251001", "req_1")


@pytest.mark.parametrize(
    ("name", "content", "finish"),
    [
        ("max_tokens", "Hello from loopback.", "length"),
        ("refusal", "Hello from loopback.", "content_filter"),
        ("empty", "", "stop"),
        ("structured", '{"answer":42}', "stop"),
        ("structured_cut", '{"answer": 4', "length"),
    ],
)
def test_text_and_finish_reason(name: str, content: str, finish: str) -> None:
    """The text of every paid answer is kept, and its end is told in the closed set. (WIRE-9)"""
    parsed = answer(stream(name))
    assert (parsed.content, parsed.finish_reason) == (content, finish)
    assert parsed.usage is not None
    assert parsed.usage.total_tokens == 120


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("end_turn", "stop"),
        ("max_tokens", "length"),
        ("refusal", "content_filter"),
        ("brand_new", "unknown"),
    ],
)
def test_finish_reasons_are_one_closed_set(said: str, meant: str) -> None:
    """What the command says is one of ours, or unknown. (MODEL-9, WIRE-9)"""
    result = {"type": "result", "terminal_reason": "completed", "stop_reason": said, "modelUsage": {"m": {}}}
    assert answer(reply(json.dumps(result).encode())).finish_reason == meant


def test_usage_is_the_greater_of_the_two_accounts() -> None:
    """The `usage` of a stopped run is all zeros, and modelUsage has the figures. (WIRE-8)"""
    usage = answer(stream("cached")).usage
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens) == (180, 25)
    assert (usage.cached_tokens, usage.cache_write_tokens, usage.reasoning_tokens) == (50, 30, 7)


def test_usage_of_zeros_is_unknown() -> None:
    """A run that reports no tokens at all has an unknown usage and cost, never one of 0. (MODEL-3, WIRE-8)"""
    result = {
        "type": "result",
        "terminal_reason": "completed",
        "stop_reason": "end_turn",
        "total_cost_usd": 0,
    }
    parsed = answer(reply(json.dumps(result).encode()))
    assert (parsed.usage, parsed.cost) == (None, None)


@pytest.mark.parametrize(
    ("end", "tokens"), [({}, 10), ({"stop_reason": "max_tokens"}, None), ({"api_error": "max_output_tokens"}, None)]
)
def test_an_answer_that_reached_its_limit_has_output(end: dict[str, str], tokens: int | None) -> None:
    """An output of 0 is not believed at a limit that was reached, even if the answer has no text. (WIRE-31)"""
    result = {"type": "result", "terminal_reason": "completed", "stop_reason": "end_turn", **end}
    parsed = answer(reply(json.dumps(result | {"usage": {"input_tokens": 10, "output_tokens": 0}}).encode()))
    assert (parsed.usage and parsed.usage.total_tokens) == tokens


def test_cost_is_exact_and_names_its_source() -> None:
    """The command's float becomes the decimal it prints as. (MODEL-3, WIRE-12)"""
    parsed = answer(stream("cached"))
    assert (parsed.cost, parsed.cost_source) == (Decimal("0.0002675"), "claude-cli")


def test_guessed_cost_is_none() -> None:
    """A model that the command does not know is priced by a guess, which is no cost. (MODEL-3, WIRE-12)"""
    parsed = answer(stream("unknown_model"))
    assert (parsed.cost, parsed.cost_source, parsed.model) == (None, None, "my-model")


@pytest.mark.parametrize("name", ["cut_after_text", "cut_in_text"])
def test_cut_stream_is_no_answer(name: str) -> None:
    """A stream cut before its stop reason also ends by the budget: its text is not passed on as whole."""
    failed = failure(stream(name))
    assert failed.kind is LLMConnectionError
    assert failed.retryable
    assert failed.maybe_billed
    assert failed.usage is None


def test_dropped_connection() -> None:
    """A connection that breaks may have been billed; one that never came about was not. (WIRE-11)"""
    failed = failure(envelope("drop"))
    assert (failed.kind, failed.maybe_billed) == (LLMConnectionError, True)
    refused = json.loads(envelope("drop").body) | {"result": "Connection refused (ECONNREFUSED)"}
    assert not failure(reply(json.dumps(refused).encode())).maybe_billed


@pytest.mark.parametrize(
    ("name", "kind", "status", "retryable", "maybe_billed"),
    [
        ("err_400", LLMAPIError, 400, False, False),
        ("err_401", LLMAuthenticationError, 401, False, False),
        ("err_429", LLMRateLimitError, 429, True, False),
        ("err_500", LLMAPIError, 500, True, True),
        ("err_529", LLMAPIError, 529, True, True),
    ],
)
def test_api_errors(name: str, kind: type[LLMError], status: int, retryable: bool, maybe_billed: bool) -> None:
    """An API error is told by its status, under a subtype that says success. (WIRE-6, WIRE-7, WIRE-11)"""
    failed = failure(envelope(name))
    assert failed.kind is kind
    assert failed.details["status_code"] == status
    assert (failed.retryable, failed.maybe_billed) == (retryable, maybe_billed)


def test_the_providers_own_error_is_told_like_any_other() -> None:
    """Status, text, type, request id and the wait asked for are those of the reply. (WIRE-7, WIRE-11, WIRE-13)"""
    body = b'{"type": "error", "error": {"type": "rate_limit_error", "message": "slow down"}}'
    failed = error_reply(Reply(429, {"request-id": "req_9", "retry-after": "7"}, body), said_in(body))
    assert (failed.kind, failed.retryable, failed.maybe_billed) == (LLMRateLimitError, True, False)
    assert (failed.request_id, failed.retry_after) == ("req_9", 7.0)
    assert failed.details["response_body"] == {"type": "rate_limit_error", "message": "slow down"}


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"error": "no"}', b"\xff"])
def test_an_error_without_an_error_body_is_told_by_its_status(body: bytes) -> None:
    """A page of a proxy is no answer, whatever is in it. (WIRE-7)"""
    failed = error_reply(Reply(503, {}, body), said_in(body))
    assert (failed.kind, failed.details["status_code"], failed.maybe_billed) == (LLMAPIError, 503, True)


def test_a_redirect_is_an_error() -> None:
    """It is told as for every other provider, and was not billed. (WIRE-11)"""
    failed = error_reply(Reply(307, {"location": "http://127.0.0.1:9"}, b""), {})
    assert "a redirect, which is not followed" in failed.message
    assert (failed.retryable, failed.maybe_billed) == (False, False)


def seen(of: Reply, sent: str) -> Reply:
    """The same, by a relay that saw a request go out, or none."""
    return Reply(of.status, {**of.headers, "sent": sent}, of.body)


ENDS = [reply(b""), reply(b"", exit_code=-9), stream("not_logged_in"), stream("cut_after_text"), envelope("garbage")]


@pytest.mark.parametrize("of", ENDS)
def test_a_request_that_was_seen_is_never_free(of: Reply) -> None:
    """Where a request went out, and no error came back for it, the failure may have been billed. (WIRE-11)"""
    assert failure(seen(of, "yes")).maybe_billed


@pytest.mark.parametrize(
    "of", [reply(b""), reply(b"", exit_code=-9), reply(b"x", exit_code=3), stream("not_logged_in")]
)
def test_without_a_request_nothing_is_billed(of: Reply) -> None:
    """A command that came to nothing before it asked cost nothing. (WIRE-11)"""
    assert not failure(seen(of, "no")).maybe_billed


@pytest.mark.parametrize("name", ["cut_after_text", "structured_text"])
def test_a_request_that_went_another_way_is_not_free(name: str) -> None:
    """Where the output tells of a reply that no relay saw, the output is believed. (WIRE-11)"""
    assert failure(seen(stream(name), "no")).maybe_billed


def test_a_second_request_is_not_taken_for_the_providers_error() -> None:
    """What the command calls an error of the API was our refusal: its first request stays paid for. (WIRE-11)"""
    failed = failure(seen(envelope("err_400"), "yes"))
    assert (failed.kind, failed.maybe_billed, failed.usage) == (LLMResponseError, True, None)
    assert "asked again" in failed.message


def test_the_request_id_that_a_relay_saw_is_kept() -> None:
    """It stands in where the command names none."""
    of = envelope("garbage")
    assert failure(Reply(0, {**of.headers, "request-id": "req_5"}, of.body)).request_id == "req_5"
    ok = stream("ok")
    assert answer(Reply(0, {**ok.headers, "request-id": "req_5"}, ok.body)).request_id == "req_1"


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        (b'{"max_tokens": 7}', True),
        (b'{"max_tokens": 1}', True),
        (b'{"max_tokens": 8}', False),
        (b'{"max_tokens": 7.5}', False),
        (b'{"max_tokens": "7"}', False),
        (b"{}", False),
        (b"\x1f\x8b", False),
    ],
)
def test_a_limit_is_kept_or_the_request_is_not_known(sent: bytes, kept: bool) -> None:
    """A request is let through when it can be read, and asks for no more than the limit. (WIRE-2)"""
    assert claude_cli.keeps_the_limit({"max_tokens": 7}, sent) is kept
    assert claude_cli.keeps_the_limit({}, sent)


def test_request_id_of_an_error() -> None:
    """An API error carries the id of its request."""
    assert failure(stream("err_429")).request_id == "req_1"


def test_not_logged_in_says_what_to_do() -> None:
    """Without credentials nothing is sent, and the error says how to give some. (WIRE-11)"""
    failed = failure(stream("not_logged_in"))
    assert (failed.kind, failed.maybe_billed) == (LLMConfigurationError, False)
    assert "api_key=" in failed.message


@pytest.mark.parametrize("name", ["garbage", "structured_bad"])
def test_reply_that_cannot_be_used(name: str) -> None:
    """A reply that is not the format, or not JSON by the schema, may have been billed. (WIRE-5)"""
    failed = failure(envelope(name))
    assert (failed.kind, failed.maybe_billed) == (LLMResponseError, True)


def test_usage_of_a_paid_failure_is_kept() -> None:
    """What failed after it was paid for says what it used."""
    usage = failure(envelope("structured_bad")).usage
    assert usage is not None
    assert usage.total_tokens == 600


def test_text_instead_of_json_may_be_tried_again() -> None:
    """A model that answers with text where JSON was asked for has failed, and may succeed next time."""
    failed = failure(stream("structured_text"))
    assert (failed.kind, failed.retryable) == (LLMResponseError, True)
    assert failed.usage is not None


def test_limit_after_continuations_keeps_the_text() -> None:
    """Even where the command went on by itself up to its limit, nothing that was paid for is lost."""
    assert answer(envelope("max_tokens")).finish_reason == "length"


def test_local_window_limit_is_not_billed() -> None:
    """A prompt that the command itself holds to be too long was not sent."""
    result = {"type": "result", "terminal_reason": "blocking_limit", "result": "Prompt is too long"}
    failed = failure(reply(json.dumps(result).encode()))
    assert (failed.kind, failed.maybe_billed) == (LLMConfigurationError, False)


def test_command_that_acted_on_a_prompt_is_a_failure() -> None:
    """A run that took its prompt for a command has no terminal reason, and is never an answer."""
    result = {"type": "result", "subtype": "success", "is_error": False, "result": "Estimated cost: $0"}
    assert failure(reply(json.dumps(result).encode(), exit_code=0)).kind is LLMSubprocessError


@pytest.mark.parametrize(
    ("stdout", "exit_code", "maybe_billed"),
    [(b"", 1, False), (b"", -9, True), (b"", 0, True), (b'{"type":"system","subtype":"init"}\n', 1, True)],
)
def test_no_result_line(stdout: bytes, exit_code: int, maybe_billed: bool) -> None:
    """A run without a result carries exit code and stderr; only one that refused its input was free. (WIRE-11)"""
    failed = failure(reply(stdout, exit_code=exit_code, stderr="Error: piped stdin"))
    assert failed.kind is LLMSubprocessError
    assert failed.details == {"return_code": exit_code, "stderr": "Error: piped stdin"}
    assert failed.maybe_billed is maybe_billed


def test_wrong_schema_is_the_callers() -> None:
    """A schema that the command refuses is a configuration error."""
    failed = failure(reply(b"", stderr="Error: --json-schema is not a valid JSON Schema: data/type"))
    assert (failed.kind, failed.maybe_billed) == (LLMConfigurationError, False)


@pytest.mark.parametrize(
    "stdout", [b"\xff\xfe", b"[1]\n2\nnull\n", b"{" * 100_000, b'{"type":"result"}', b'{"type":"assistant"}']
)
def test_broken_output_is_a_failure(stdout: bytes) -> None:
    """Whatever is printed, parsing gives an answer or a failure."""
    assert failure(reply(stdout)).kind is LLMSubprocessError


def test_unknown_lines_and_fields_are_left_out() -> None:
    """Lines of a later version, or that are no JSON, do not hide the answer."""
    lines = b'warning\n{"type":"news"}\n{"type":"assistant"}\n' + stream("ok").body + b"\n\n"
    assert answer(reply(lines)).content == "Hello from loopback."


@pytest.mark.parametrize("damage", [None, 1, "x", [], {"a": 1}, [1]])
@pytest.mark.parametrize("name", ["usage", "modelUsage", "total_cost_usd", "stop_reason", "errors"])
def test_damaged_fields_never_raise(name: str, damage: object) -> None:
    """A field of another type than known is as good as absent."""
    lines = [json.loads(line) for line in stream("ok").body.splitlines()]
    lines[-1][name] = damage
    claude_cli.parse(reply("\n".join(map(json.dumps, lines)).encode()))


@pytest.mark.parametrize(
    ("prompt", "sent"),
    [("/clear", "\n/clear"), ("/", "\n/"), (" /clear", " /clear"), ("a /clear", "a /clear"), ("-x", "-x")],
)
def test_slash_is_disarmed(prompt: str, sent: str) -> None:
    """Only a slash as the very first character makes a command, and one newline takes that away."""
    assert render(prompt)["prompt"] == sent


def test_prompt_limit_counts_bytes_as_sent() -> None:
    """Ten MiB pass, one byte more is refused before anything is started."""
    render("x" * (10 * 2**20))
    for prompt in ("x" * (10 * 2**20 + 1), "/" + "x" * (10 * 2**20 - 1), "é" * (5 * 2**20 + 1)):
        with pytest.raises(LLMConfigurationError, match="10 MiB"):
            render(prompt)


def test_render_holds_what_is_sent() -> None:
    """The body names the model and the prompts always, the rest only when it was asked for. (MODEL-5, WIRE-2)"""
    assert render() == {"model": "m", "system_prompt": "", "prompt": "hi"}
    body = render(system_prompt="S", max_tokens=7, model_params={"effort": "low"})
    assert body == {"model": "m", "system_prompt": "S", "prompt": "hi", "max_tokens": 7, "effort": "low"}


def test_the_limit_that_is_sent_is_the_one_given_not_the_configs() -> None:
    """A hold decides the limit: the config's own is not sent in its place. (WIRE-2)"""
    config = RunConfig(max_tokens=99)
    assert claude_cli.render("hi", config, model="m", max_tokens=7)["max_tokens"] == 7
    assert "max_tokens" not in claude_cli.render("hi", config, model="m", max_tokens=None)


def test_rendering_changes_nothing_it_was_given() -> None:
    """The config is the same after a rendering, the schema in it included. (ADAPTER-5)"""
    config = RunConfig(system_prompt="S", model_params={"json_schema": copy.deepcopy(SCHEMA), "effort": "low"})
    claude_cli.render("hi", config, model="m", max_tokens=7)
    assert config == RunConfig(system_prompt="S", model_params={"json_schema": SCHEMA, "effort": "low"})


def test_blank_system_prompt_is_none() -> None:
    """A system prompt of blanks is not sent, because the API refuses blank text."""
    assert render(system_prompt=" \n")["system_prompt"] == ""


def test_json_schema_asks_for_the_tool() -> None:
    """The command offers a tool for the answer but does not tell the model to use it: we do. (WIRE-4)"""
    body = render(system_prompt="S", model_params={"json_schema": SCHEMA})
    assert json.loads(body["json_schema"]) == SCHEMA
    assert body["system_prompt"].startswith("S\n\n")
    assert "StructuredOutput" in body["system_prompt"]


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"temperature": 0.0}, "temperature"),
        ({"model_params": {"top_p": 1}}, "top_p"),
        ({"model_params": {"effort": "silly"}}, "effort"),
        ({"model_params": {"effort": ["low"]}}, "effort"),
        ({"model_params": {"json_schema": {"type": "array"}}}, "json_schema"),
        ({"model_params": {"json_schema": SCHEMA | {"title": "x" * 110_000}}}, "json_schema"),
    ],
)
def test_what_cannot_be_sent_is_refused(fields: dict[str, Any], text: str) -> None:
    """A parameter is neither dropped nor passed on blindly: the error names it. (PROVIDER-14, WIRE-3)"""
    with pytest.raises(LLMConfigurationError, match=text):
        render(**fields)

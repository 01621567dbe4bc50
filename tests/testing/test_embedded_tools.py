"""A request that forces the call of a tool gets one, in every format and as a stream, too."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai import OpenAI

from llm_connect.testing import WIRE_FORMATS, Behaviour, EmbeddedProvider, WireFormat

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 18}},
    "required": ["name", "age"],
}
NAMES = ("look_up", "book")
FITS = {"name": "text", "age": 18}


def offered(wire_format: WireFormat) -> list[dict[str, Any]]:
    """Two tools, as the format describes them."""
    if wire_format == "generate_content":
        return [{"functionDeclarations": [{"name": name, "parameters": PERSON} for name in NAMES]}]
    if wire_format == "anthropic_messages":
        return [{"name": name, "input_schema": PERSON} for name in NAMES]
    if wire_format == "openai_responses":
        return [{"type": "function", "name": name, "parameters": PERSON} for name in NAMES]
    return [{"type": "function", "function": {"name": name, "parameters": PERSON}} for name in NAMES]


def forced(wire_format: WireFormat, name: str | None) -> dict[str, Any]:
    """What forces the call of the tool of this name, or (None) of any."""
    if wire_format == "generate_content":
        config = {"mode": "ANY"} | ({"allowedFunctionNames": [name]} if name else {})
        return {"toolConfig": {"functionCallingConfig": config}}
    if wire_format == "anthropic_messages":
        return {"tool_choice": {"type": "tool", "name": name} if name else {"type": "any"}}
    if wire_format == "openai_responses":
        return {"tool_choice": {"type": "function", "name": name} if name else "required"}
    return {"tool_choice": {"type": "function", "function": {"name": name}} if name else "required"}


def call_in(wire_format: WireFormat, reply: dict[str, Any]) -> tuple[str, Any, str]:
    """Name, arguments and finish of the only call in a reply."""
    if wire_format == "generate_content":
        (candidate,) = reply["candidates"]
        (part,) = candidate["content"]["parts"]
        return part["functionCall"]["name"], part["functionCall"]["args"], candidate["finishReason"]
    if wire_format == "anthropic_messages":
        (block,) = reply["content"]
        return block["name"], block["input"], reply["stop_reason"]
    if wire_format == "openai_responses":
        (item,) = reply["output"]
        assert item["type"] == "function_call"
        return item["name"], json.loads(item["arguments"]), reply["status"]
    (choice,) = reply["choices"]
    assert choice["message"]["content"] is None
    (call,) = choice["message"]["tool_calls"]
    return call["function"]["name"], json.loads(call["function"]["arguments"]), choice["finish_reason"]


FINISH: dict[WireFormat, str] = {
    "openai_chat": "tool_calls",
    "openrouter": "tool_calls",
    "openai_responses": "completed",
    "generate_content": "STOP",
    "anthropic_messages": "tool_use",
}


@pytest.mark.parametrize("wire_format", WIRE_FORMATS)
@pytest.mark.parametrize("name", [None, *NAMES])
def test_a_forced_tool_is_called(
    wire_format: WireFormat, name: str | None, wire: Any, provider: EmbeddedProvider
) -> None:
    """The tool that is named, or the first of all, is called with arguments that fit, and billed. (TESTKIT-31)"""
    body = wire.body(wire_format) | {"tools": offered(wire_format)} | forced(wire_format, name)
    assert call_in(wire_format, wire.ask(wire_format, body)) == (name or NAMES[0], FITS, FINISH[wire_format])
    assert provider.meter.completion_tokens > 0


@pytest.mark.parametrize("wire_format", WIRE_FORMATS)
def test_a_tool_that_is_not_forced_is_not_called(wire_format: WireFormat, wire: Any) -> None:
    """Tools that are only offered change nothing: the answer is text."""
    reply = wire.ask(wire_format, wire.body(wire_format) | {"tools": offered(wire_format)})
    with pytest.raises((KeyError, AssertionError)):
        call_in(wire_format, reply)


@pytest.mark.parametrize("wire_format", WIRE_FORMATS)
@pytest.mark.parametrize("tools", [None, [], "odd", 5, [5]])
@pytest.mark.parametrize("name", [None, "unknown"])
def test_a_choice_that_cannot_be_kept_is_400(wire_format: WireFormat, tools: Any, name: str | None, wire: Any) -> None:
    """A tool that is not offered cannot be called: the real provider says 400, too."""
    status, _, _ = wire.post(wire_format, wire.body(wire_format) | {"tools": tools} | forced(wire_format, name))
    assert status == 400


@pytest.mark.parametrize("choice", ["any", {"type": "allowed_tools", "allowed_tools": {"mode": "required"}}])
def test_other_spellings_of_a_forced_call(choice: Any, wire: Any) -> None:
    """`any` of compatible servers and a list of allowed tools force a call as well."""
    if isinstance(choice, dict):
        choice["allowed_tools"]["tools"] = [{"type": "function", "function": {"name": NAMES[1]}}]
    body = wire.body("openai_chat") | {"tools": offered("openai_chat"), "tool_choice": choice}
    assert call_in("openai_chat", wire.ask("openai_chat", body))[0] == (NAMES[0] if choice == "any" else NAMES[1])


def test_the_sdk_reads_a_forced_call_from_a_stream(provider: EmbeddedProvider) -> None:
    """Chunks, events and pieces carry the call as the SDK expects it. (TESTKIT-31, TESTKIT-1)"""
    with OpenAI(base_url=provider.openai_url, api_key="any", max_retries=0) as client:
        with client.chat.completions.stream(
            model="m", messages=[{"role": "user", "content": "x"}], tools=offered("openai_chat"), tool_choice="required"
        ) as stream:  # type: ignore[call-overload]
            (call,) = stream.get_final_completion().choices[0].message.tool_calls
        assert (call.function.name, json.loads(call.function.arguments)) == (NAMES[0], FITS)
        with client.responses.stream(
            model="m", input="x", tools=offered("openai_responses"), tool_choice="required"
        ) as events:  # type: ignore[call-overload]
            kinds = [event.type for event in events]
            (item,) = events.get_final_response().output
        assert (item.name, json.loads(item.arguments)) == (NAMES[0], FITS)
        assert "response.function_call_arguments.delta" in kinds


def test_geminis_stream_has_the_call_as_a_part(wire: Any) -> None:
    """A call comes whole, as the real one does. (TESTKIT-31)"""
    body = wire.body("generate_content") | {"tools": offered("generate_content")} | forced("generate_content", None)
    status, _, raw = wire.post("generate_content", body, path="/v1beta/models/m:streamGenerateContent?alt=sse")
    assert status == 200
    said = [json.loads(line[6:]) for line in raw.decode().splitlines() if line.startswith("data: ")]
    parts = [part for event in said for part in event["candidates"][0]["content"].get("parts", [])]
    assert parts == [{"functionCall": {"name": NAMES[0], "args": FITS}}]


def test_a_call_is_cut_at_the_output_limit(wire: Any) -> None:
    """Arguments that the limit cuts say so by their finish reason. (TESTKIT-2)"""
    body = wire.body("openai_chat", limit=2) | {"tools": offered("openai_chat")} | forced("openai_chat", None)
    (choice,) = wire.ask("openai_chat", body)["choices"]
    assert choice["finish_reason"] == "length"
    with pytest.raises(json.JSONDecodeError):
        json.loads(choice["message"]["tool_calls"][0]["function"]["arguments"])


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        (lambda p: p.script(Behaviour(), wire_format="openai"), "openai_chat"),
        (lambda p: p.script(Behaviour(), wire_format="generation "), "count_tokens"),
        (lambda p: p.script(Behaviour(), times=0), "at least 1"),
        (lambda p: p.script(Behaviour(), times="2"), "at least 1"),
        (lambda p: p.script({"status": 429}), "Behaviour"),
        (lambda p: p.script(429), "Behaviour"),
        (lambda p: p.script(Behaviour(), count=2), "count"),
        (lambda p: Behaviour(stall="in_the_stream"), "in_stream"),
        (lambda p: Behaviour(usage="none"), "missing"),
        (lambda p: Behaviour(cut="before"), "before_reply"),
        (lambda p: Behaviour(status="429"), "error status"),
        (lambda p: Behaviour(statuss=429), "statuss"),
        (lambda p: EmbeddedProvider(reply_tokens="limits"), "'limit'"),
        (lambda p: EmbeddedProvider(reply_tokens=0), "at least 1"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_the_names(wrong: Any, named: str, provider: EmbeddedProvider) -> None:
    """A script that would silently never apply is refused where it is written. (TESTKIT-32)"""
    with pytest.raises((ValueError, TypeError), match=named):
        wrong(provider)

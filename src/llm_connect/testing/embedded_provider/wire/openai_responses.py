"""OpenAI responses: `POST /v1/responses`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from .._answer import Answer
from .._behaviour import Behaviour
from .._faults import Fault, InvalidRequest
from .._received import ReceivedRequest
from . import openai_chat, openai_responses_stream
from .events import Events
from .fields import Asked, object_of, required_text, texts_of, whole_number
from .tools import Tool, arguments_of


def read(body: Mapping[str, Any]) -> Asked:
    """Model, limit (at least 16, as with the real one), instructions, input and text.format."""
    items = _input_items(body.get("input"))
    system = [item for item in items if item.get("role") in openai_chat.SYSTEM_ROLES]
    others = [item for item in items if item.get("role") not in openai_chat.SYSTEM_ROLES]
    tool = forced_tool(body)
    return Asked(
        model=required_text(body, "model"),
        output_limit=whole_number(body, "max_output_tokens", minimum=16),
        system=tuple(texts_of([body.get("instructions"), *system])),
        conversation=tuple(texts_of(others)),
        schema=tool.schema if tool else _wanted_schema(object_of(object_of(body, "text"), "format")),
    )


def forced_tool(body: Mapping[str, Any]) -> Tool | None:
    """The function that `tool_choice` names, or the first one if it wants any."""
    return openai_chat.chosen_by(body, lambda offered: offered if offered.get("type") == "function" else {})


def _input_items(value: Any) -> list[Mapping[str, Any]]:
    if isinstance(value, str):
        return [{"role": "user", "content": value}]
    if isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
        return value
    raise InvalidRequest("'input' is required and is a text or a list of objects.", param="input")


def _wanted_schema(text_format: Mapping[str, Any]) -> Mapping[str, Any] | None:
    if text_format.get("type") == "json_schema":
        return object_of(text_format, "schema")
    return openai_chat.wanted_schema(text_format)


def key(headers: Mapping[str, str], query: Mapping[str, str]) -> str | None:
    """The bearer token."""
    return openai_chat.key(headers, query)


def reply(request: ReceivedRequest, answer: Answer, behaviour: Behaviour, number: int) -> dict[str, Any]:
    """A `response` object."""
    status, reason = _status(answer, behaviour.finish_reason)
    failed = {"code": "server_error", "message": "The model failed."} if status == "failed" else None
    body: dict[str, Any] = {
        "id": f"resp_embedded{number:010d}",
        "object": "response",
        "created_at": int(time.time()),
        "status": status,
        "background": False,
        "error": failed,
        "incomplete_details": {"reason": reason} if reason else None,
        "model": request.model,
        "output": _output(answer, status, number, forced_tool(request.body)),
    } | _echo(request.body)
    if behaviour.usage != "missing":
        body["usage"] = _usage(answer, factor=0 if behaviour.usage == "zero" else 1)
    return body


def streams(request: ReceivedRequest) -> bool:
    """By `stream` in the body."""
    return bool(request.body.get("stream"))


def events(request: ReceivedRequest, message: Mapping[str, Any]) -> Events:
    """The events of a response."""
    return openai_responses_stream.events(message)


def error_event(error: Mapping[str, Any]) -> bytes:
    """An error event."""
    return openai_responses_stream.error_event(error)


def _status(answer: Answer, finish_reason: str | None) -> tuple[str, str | None]:
    match finish_reason:
        case None:
            return ("incomplete", "max_output_tokens") if answer.cut else ("completed", None)
        case "completed" | "failed" | "in_progress" | "cancelled" | "queued":
            return finish_reason, None
    return "incomplete", finish_reason


def _output(answer: Answer, status: str, number: int, tool: Tool | None) -> list[dict[str, Any]]:
    output: list[dict[str, Any]] = []
    if answer.reasoning_tokens:
        output.append({"id": f"rs_embedded{number:010d}", "type": "reasoning", "summary": []})
    if answer.texts[0] or not output:
        said = _said(answer, number, tool)
        output.append({**said, "status": "completed" if status == "completed" else "incomplete"})
    return output


def _said(answer: Answer, number: int, tool: Tool | None) -> dict[str, Any]:
    text = answer.texts[0]
    arguments = None if tool is None else arguments_of(text, answer)
    if tool is None or arguments is None:
        content = [{"type": "output_text", "text": text, "annotations": [], "logprobs": []}]
        return {"id": f"msg_embedded{number:010d}", "type": "message", "role": "assistant", "content": content}
    call = {"call_id": f"call_embedded{number:010d}", "name": tool.name, "arguments": arguments}
    return {"id": f"fc_embedded{number:010d}", "type": "function_call", **call}


def _echo(body: Mapping[str, Any]) -> dict[str, Any]:
    tier = body.get("service_tier")
    return {
        "instructions": body.get("instructions"),
        "max_output_tokens": body.get("max_output_tokens"),
        "metadata": body.get("metadata") or {},
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "reasoning": {"effort": object_of(body, "reasoning").get("effort"), "summary": None},
        "service_tier": tier if isinstance(tier, str) and tier != "auto" else "default",
        "store": body.get("store", True),
        "temperature": body.get("temperature", 1.0),
        "text": {"format": {"type": "text"}, **object_of(body, "text")},
        "tool_choice": body.get("tool_choice") or "auto",
        "tools": body.get("tools") or [],
        "top_p": body.get("top_p", 1.0),
        "truncation": "disabled",
    }


def _usage(answer: Answer, *, factor: int) -> dict[str, Any]:
    return {
        "input_tokens": factor * answer.prompt_tokens,
        "input_tokens_details": {"cached_tokens": factor * answer.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": factor * answer.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": factor * answer.reasoning_tokens},
        "total_tokens": factor * answer.total_tokens,
    }


def error(fault: Fault) -> dict[str, Any]:
    """As in chat completions."""
    return openai_chat.error(fault)


def headers(number: int) -> dict[str, str]:
    """As in chat completions."""
    return openai_chat.headers(number)

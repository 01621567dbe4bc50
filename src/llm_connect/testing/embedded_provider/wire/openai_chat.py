"""OpenAI chat completions: `POST /v1/chat/completions`."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from .._answer import Answer
from .._behaviour import Behaviour
from .._faults import Fault
from .._received import ReceivedRequest
from . import openai_chat_stream
from .events import Events
from .fields import (
    Asked,
    bearer,
    object_of,
    required_list,
    required_text,
    texts_of,
    whole_number,
)
from .tools import Tool, arguments_of, chosen, listed

SYSTEM_ROLES = ("system", "developer")
_DEFAULTS: Mapping[int, tuple[str, str | None]] = {
    404: ("invalid_request_error", "model_not_found"),
    429: ("requests", "rate_limit_exceeded"),
}


def read(body: Mapping[str, Any]) -> Asked:
    """Model, limit, messages, n and response_format."""
    messages = required_list(body, "messages")
    system = [item for item in messages if item.get("role") in SYSTEM_ROLES]
    others = [item for item in messages if item.get("role") not in SYSTEM_ROLES]
    return Asked(
        model=required_text(body, "model"),
        output_limit=whole_number(body, "max_completion_tokens", "max_tokens"),
        system=tuple(texts_of(system)),
        conversation=tuple(texts_of(others)),
        choices=whole_number(body, "n") or 1,
        schema=tool.schema if (tool := forced_tool(body)) else wanted_schema(object_of(body, "response_format")),
    )


def forced_tool(body: Mapping[str, Any]) -> Tool | None:
    """The function that `tool_choice` names, or the first one if it wants any."""
    return chosen_by(body, lambda offered: object_of(offered, "function"))


def chosen_by(body: Mapping[str, Any], function: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> Tool | None:
    """The same for another place of functions: `function` finds one in a tool, or in a choice."""
    offered = [function(item) for item in listed(body.get("tools"))]
    tools = [Tool(item["name"], object_of(item, "parameters")) for item in offered if isinstance(item.get("name"), str)]
    choice = body.get("tool_choice")
    if choice in ("required", "any"):
        return chosen(tools, None)
    if not isinstance(choice, Mapping):
        return None
    if choice.get("type") == "allowed_tools":
        allowed = object_of(choice, "allowed_tools") or choice
        names = [function(item).get("name") for item in listed(allowed.get("tools"))]
        return chosen(tools, names) if allowed.get("mode") == "required" else None
    return chosen(tools, [function(choice).get("name")]) if choice.get("type") == "function" else None


def wanted_schema(response_format: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The schema of a `response_format`; any object for `json_object`."""
    match response_format.get("type"):
        case "json_schema":
            return object_of(object_of(response_format, "json_schema"), "schema")
        case "json_object":
            return {"type": "object"}
    return None


def key(headers: Mapping[str, str], query: Mapping[str, str]) -> str | None:
    """The bearer token."""
    return bearer(headers)


def reply(request: ReceivedRequest, answer: Answer, behaviour: Behaviour, number: int) -> dict[str, Any]:
    """A `chat.completion` object."""
    tool = forced_tool(request.body)
    body: dict[str, Any] = {
        "id": f"chatcmpl-embedded{number:010d}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": request.model,
        "choices": [
            {"index": index, "logprobs": None, **_said(text, answer, behaviour, tool, f"call_embedded{number}_{index}")}
            for index, text in enumerate(answer.texts)
        ],
        "service_tier": _tier(request.body.get("service_tier")),
        "system_fingerprint": "fp_embedded",
    }
    if behaviour.usage != "missing":
        body["usage"] = _usage(answer, factor=0 if behaviour.usage == "zero" else 1)
    return body


def streams(request: ReceivedRequest) -> bool:
    """By `stream` in the body."""
    return bool(request.body.get("stream"))


def events(request: ReceivedRequest, message: Mapping[str, Any]) -> Events:
    """The chunks of a completion, with usage if `stream_options` asks for it."""
    asked = object_of(request.body, "stream_options").get("include_usage")
    return openai_chat_stream.events(message, tells_usage=bool(asked))


def error_event(error: Mapping[str, Any]) -> bytes:
    """An error where the next chunk would be."""
    return openai_chat_stream.error_event(error)


def _said(text: str, answer: Answer, behaviour: Behaviour, tool: Tool | None, call_id: str) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None, "annotations": []}
    arguments = None if tool is None else arguments_of(text, answer)
    if tool is not None and arguments is not None:
        function = {"name": tool.name, "arguments": arguments}
        message |= {"content": None, "tool_calls": [{"id": call_id, "type": "function", "function": function}]}
    natural = "tool_calls" if "tool_calls" in message else "stop"
    return {"message": message, "finish_reason": behaviour.finish_reason or ("length" if answer.cut else natural)}


def _tier(asked: Any) -> str:
    return asked if isinstance(asked, str) and asked != "auto" else "default"


def _usage(answer: Answer, *, factor: int) -> dict[str, Any]:
    return {
        "prompt_tokens": factor * answer.prompt_tokens,
        "completion_tokens": factor * answer.completion_tokens,
        "total_tokens": factor * answer.total_tokens,
        "prompt_tokens_details": {
            "cached_tokens": factor * answer.cached_tokens,
            "cache_write_tokens": 0,
            "audio_tokens": 0,
        },
        "completion_tokens_details": {
            "reasoning_tokens": factor * answer.reasoning_tokens,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def error(fault: Fault) -> dict[str, Any]:
    """`{"error": {message, type, param, code}}`."""
    kind, code = _DEFAULTS.get(fault.status, ("server_error" if fault.status >= 500 else "invalid_request_error", None))
    if fault.key == "bad":
        code = "invalid_api_key"
    return {
        "error": {
            "message": fault.message,
            "type": fault.type or kind,
            "param": fault.param,
            "code": code if fault.code is None else fault.code,
        }
    }


def headers(number: int) -> dict[str, str]:
    """`x-request-id`."""
    return {"x-request-id": f"req_embedded{number:010d}"}

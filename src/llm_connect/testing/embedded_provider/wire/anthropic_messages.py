"""Anthropic messages: `POST /v1/messages`; the format of the claude command."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .._answer import Answer
from .._behaviour import Behaviour
from .._faults import Fault, InvalidRequest
from .._received import ReceivedRequest
from . import anthropic_stream
from .events import Events
from .fields import Asked, bearer, object_of, required_list, required_text, texts_of, whole_number
from .tools import Tool, chosen, listed, object_of_arguments

# The claude command's own tool: it stands for the flag --json-schema.
_STRUCTURED_OUTPUT = "StructuredOutput"
_ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}


def read(body: Mapping[str, Any]) -> Asked:
    """Model, limit (required, as with the real one), system, messages and the wanted schema."""
    limit = whole_number(body, "max_tokens")
    if limit is None:
        raise InvalidRequest("max_tokens: Field required", param="max_tokens")
    tool = forced_tool(body)
    return Asked(
        model=required_text(body, "model"),
        output_limit=limit,
        system=tuple(texts_of(body.get("system"))),
        conversation=tuple(texts_of(list(required_list(body, "messages")))),
        schema=tool.schema if tool is not None else _wanted_schema(body),
    )


def forced_tool(body: Mapping[str, Any]) -> Tool | None:
    """The tool that the model must call: the chosen one, any, or the claude command's own until it was called."""
    tools = [Tool(str(item.get("name")), object_of(item, "input_schema")) for item in listed(body.get("tools"))]
    choice = object_of(body, "tool_choice")
    if choice.get("type") in ("tool", "any"):
        return chosen(tools, [choice.get("name")] if choice["type"] == "tool" else None)
    if _tool_was_called(body):
        return None
    return next((tool for tool in tools if tool.name == _STRUCTURED_OUTPUT), None)


def _tool_was_called(body: Mapping[str, Any]) -> bool:
    messages = body.get("messages")
    last = messages[-1] if isinstance(messages, list) and messages else {}
    content = last.get("content") if isinstance(last, Mapping) else None
    parts = content if isinstance(content, list) else []
    results = [part for part in parts if isinstance(part, Mapping) and part.get("type") == "tool_result"]
    return any(not part.get("is_error") for part in results)


def _wanted_schema(body: Mapping[str, Any]) -> Mapping[str, Any] | None:
    wanted = object_of(object_of(body, "output_config"), "format") or object_of(body, "output_format")
    return object_of(wanted, "schema") if wanted.get("type") == "json_schema" else None


def key(headers: Mapping[str, str], query: Mapping[str, str]) -> str | None:
    """The key header, or the bearer token of a login."""
    return headers.get("x-api-key") or bearer(headers)


def reply(request: ReceivedRequest, answer: Answer, behaviour: Behaviour, number: int) -> dict[str, Any]:
    """A `message` object."""
    tool = forced_tool(request.body)
    content = _content(answer, tool, number)
    natural = "tool_use" if any(block["type"] == "tool_use" for block in content) else "end_turn"
    body: dict[str, Any] = {
        "id": f"msg_embedded{number:010d}",
        "type": "message",
        "role": "assistant",
        "model": request.model,
        "content": content,
        "stop_reason": behaviour.finish_reason or ("max_tokens" if answer.cut else natural),
        "stop_sequence": None,
    }
    if behaviour.usage != "missing":
        body["usage"] = _usage(answer, factor=0 if behaviour.usage == "zero" else 1)
    return body


def streams(request: ReceivedRequest) -> bool:
    """By `stream` in the body."""
    return bool(request.body.get("stream"))


def events(request: ReceivedRequest, message: Mapping[str, Any]) -> Events:
    """The events of a message."""
    return anthropic_stream.events(message)


def error_event(error: Mapping[str, Any]) -> bytes:
    """An error event."""
    return anthropic_stream.error_event(error)


def _content(answer: Answer, tool: Tool | None, number: int) -> list[dict[str, Any]]:
    text = answer.texts[0]
    arguments = object_of_arguments(text, answer) if tool is not None else None
    if tool is None or arguments is None:
        return [{"type": "text", "text": text}] if text else []
    identity = f"toolu_embedded{number:010d}"
    return [{"type": "tool_use", "id": identity, "name": tool.name, "input": arguments}]


def _usage(answer: Answer, *, factor: int) -> dict[str, Any]:
    figures: dict[str, Any] = {
        "input_tokens": factor * (answer.prompt_tokens - answer.cached_tokens),
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": factor * answer.cached_tokens,
        "output_tokens": factor * answer.completion_tokens,
        "service_tier": "standard",
    }
    if answer.reasoning_tokens:
        figures["output_tokens_details"] = {"thinking_tokens": factor * answer.reasoning_tokens}
    return figures


def error(fault: Fault) -> dict[str, Any]:
    """`{"type": "error", "error": {type, message}}`."""
    kind = "api_error" if fault.status >= 500 else "invalid_request_error"
    inner: dict[str, Any] = {
        "type": fault.type or _ERROR_TYPES.get(fault.status, kind),
        "message": fault.message,
    }
    if fault.code is not None:
        inner["code"] = fault.code
    return {"type": "error", "error": inner}


def headers(number: int) -> dict[str, str]:
    """`request-id`."""
    return {"request-id": f"req_embedded{number:010d}"}

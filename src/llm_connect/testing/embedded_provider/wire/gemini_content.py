"""Gemini: `POST /{version}/models/{model}:generateContent`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .._answer import Answer
from .._behaviour import Behaviour
from .._faults import Fault
from .._received import ReceivedRequest
from . import gemini_content_stream
from .events import Events
from .fields import Asked, object_of, required_list, texts_of, whole_number
from .tools import Tool, chosen, listed, object_of_arguments

_DECLARATIONS = ("functionDeclarations", "function_declarations")
_STATUSES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "ABORTED",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


def read(body: Mapping[str, Any]) -> Asked:
    """Contents, system instruction and generation config; the model is in the path."""
    config = object_of(body, "generationConfig", "generation_config")
    return Asked(
        model=None,
        output_limit=whole_number(config, "maxOutputTokens", "max_output_tokens"),
        system=tuple(texts_of(object_of(body, "systemInstruction", "system_instruction"))),
        conversation=tuple(texts_of(list(required_list(body, "contents")))),
        choices=whole_number(config, "candidateCount", "candidate_count") or 1,
        schema=tool.schema if (tool := forced_tool(body)) else _wanted_schema(config),
    )


def forced_tool(body: Mapping[str, Any]) -> Tool | None:
    """The first allowed function, if the function calling mode is ANY."""
    config = object_of(object_of(body, "toolConfig", "tool_config"), "functionCallingConfig", "function_calling_config")
    if str(config.get("mode")).upper() != "ANY":
        return None
    lists = [item.get(name) for item in listed(body.get("tools")) for name in _DECLARATIONS]
    declared = [function for functions in lists for function in listed(functions)]
    names = ("parametersJsonSchema", "parameters", "parameters_json_schema")
    tools = [Tool(str(item.get("name")), object_of(item, *names)) for item in declared]
    allowed = config.get("allowedFunctionNames", config.get("allowed_function_names"))
    return chosen(tools, allowed if isinstance(allowed, list) and allowed else None)


def _wanted_schema(config: Mapping[str, Any]) -> Mapping[str, Any] | None:
    names = ("responseJsonSchema", "responseSchema", "response_json_schema", "response_schema")
    if any(isinstance(config.get(name), Mapping) for name in names):
        return object_of(config, *names)
    mime_type = config.get("responseMimeType", config.get("response_mime_type"))
    return {"type": "object"} if mime_type == "application/json" else None


def key(headers: Mapping[str, str], query: Mapping[str, str]) -> str | None:
    """The key header, or the query's `key`."""
    return headers.get("x-goog-api-key") or query.get("key") or None


def reply(request: ReceivedRequest, answer: Answer, behaviour: Behaviour, number: int) -> dict[str, Any]:
    """A GenerateContentResponse; a candidate without text has no parts."""
    finish = behaviour.finish_reason or ("MAX_TOKENS" if answer.cut else "STOP")
    tool = forced_tool(request.body)
    said = [_parts(text, answer, tool) for text in answer.texts]
    body: dict[str, Any] = {
        "candidates": [_candidate(index, parts, finish) for index, parts in enumerate(said)],
        "modelVersion": request.model,
        "responseId": f"embedded{number:010d}",
    }
    if behaviour.usage != "missing":
        body["usageMetadata"] = _usage(answer, factor=0 if behaviour.usage == "zero" else 1)
    return body


def streams(request: ReceivedRequest) -> bool:
    """By the path."""
    return request.path.endswith(":streamGenerateContent")


def events(request: ReceivedRequest, message: Mapping[str, Any]) -> Events:
    """The events of a response."""
    return gemini_content_stream.events(message)


def error_event(error: Mapping[str, Any]) -> bytes:
    """An error where the next response would be."""
    return gemini_content_stream.error_event(error)


def _parts(text: str, answer: Answer, tool: Tool | None) -> list[dict[str, Any]]:
    arguments = None if tool is None else object_of_arguments(text, answer)
    if tool is not None and arguments is not None:
        return [{"functionCall": {"name": tool.name, "args": arguments}}]
    return [{"text": text}] if text else []


def _candidate(index: int, parts: list[dict[str, Any]], finish: str) -> dict[str, Any]:
    content: dict[str, Any] = {"role": "model"}
    if parts:
        content["parts"] = parts
    return {"content": content, "finishReason": finish, "index": index}


def _usage(answer: Answer, *, factor: int) -> dict[str, Any]:
    visible = answer.completion_tokens - answer.reasoning_tokens
    figures: dict[str, Any] = {
        "promptTokenCount": factor * answer.prompt_tokens,
        "totalTokenCount": factor * answer.total_tokens,
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": factor * answer.prompt_tokens}],
        "serviceTier": "standard",
    }
    optional = {
        "candidatesTokenCount": visible,
        "thoughtsTokenCount": answer.reasoning_tokens,
        "cachedContentTokenCount": answer.cached_tokens,
    }
    return figures | {name: factor * count for name, count in optional.items() if count}


def error(fault: Fault) -> dict[str, Any]:
    """`{"error": {code, message, status, details}}`; the time to wait is a RetryInfo detail."""
    details: list[dict[str, Any]] = []
    reason = "API_KEY_INVALID" if fault.key else fault.code
    if reason is not None:
        details.append(
            {
                "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                "reason": str(reason),
                "domain": "googleapis.com",
            }
        )
    if fault.retry_after is not None:
        details.append({"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": f"{fault.retry_after:g}s"})
    # A bad key is a 400 here; all other providers say 401.
    status = 400 if fault.key else fault.status
    name = fault.type or _STATUSES.get(status, "INTERNAL" if status >= 500 else "INVALID_ARGUMENT")
    return {
        "error": {"code": status, "message": fault.message, "status": name} | ({"details": details} if details else {})
    }


def headers(number: int) -> dict[str, str]:
    """None: the reply's id is in its body."""
    return {}

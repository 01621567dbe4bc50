"""Gemini: `POST /{version}/models/{model}:generateContent`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..answer import Answer
from ..behaviour import Behaviour
from ..faults import Fault
from ..received import ReceivedRequest
from . import generate_content_stream
from .events import Events
from .fields import Asked, object_of, required_list, texts_of, whole_number

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
        schema=_wanted_schema(config),
    )


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
    body: dict[str, Any] = {
        "candidates": [_candidate(index, text, finish) for index, text in enumerate(answer.texts)],
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
    return generate_content_stream.events(message)


def error_event(error: Mapping[str, Any]) -> bytes:
    """An error where the next response would be."""
    return generate_content_stream.error_event(error)


def _candidate(index: int, text: str, finish: str) -> dict[str, Any]:
    content: dict[str, Any] = {"role": "model"}
    if text:
        content["parts"] = [{"text": text}]
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
    # A bad key is 400 here, where everybody else says 401.
    status = 400 if fault.key else fault.status
    name = fault.type or _STATUSES.get(status, "INTERNAL" if status >= 500 else "INVALID_ARGUMENT")
    return {
        "error": {"code": status, "message": fault.message, "status": name} | ({"details": details} if details else {})
    }


def headers(number: int) -> dict[str, str]:
    """None: the reply's id is in its body."""
    return {}

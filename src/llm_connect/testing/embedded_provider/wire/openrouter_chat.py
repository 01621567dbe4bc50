"""OpenRouter: `POST /api/v1/chat/completions`; chat completions that know their cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any

from .._answer import Answer
from .._behaviour import Behaviour
from .._faults import Fault
from .._received import ReceivedRequest
from . import openai_chat, openai_chat_stream
from .events import Events
from .fields import Asked

_PROCESSING = b": OPENROUTER PROCESSING\n\n"
_BYOK_FEE = Decimal("0.05")


def read(body: Mapping[str, Any]) -> Asked:
    """As in chat completions; `max_tokens` and `max_completion_tokens` mean the same."""
    return openai_chat.read(body)


def key(headers: Mapping[str, str], query: Mapping[str, str]) -> str | None:
    """The bearer token."""
    return openai_chat.key(headers, query)


def reply(request: ReceivedRequest, answer: Answer, behaviour: Behaviour, number: int) -> dict[str, Any]:
    """A `chat.completion` with provider, native finish reason and `usage.cost` in USD."""
    body = openai_chat.reply(request, answer, behaviour, number) | {
        "id": generation_id(number),
        "provider": "Embedded",
        "system_fingerprint": None,
    }
    for choice in body["choices"]:
        choice["native_finish_reason"] = choice["finish_reason"]
        said = choice["message"]
        choice["message"] = {
            **{name: value for name, value in said.items() if name == "tool_calls"},
            "role": "assistant",
            "content": said["content"],
            "refusal": None,
            "reasoning": "Some thoughts." if answer.reasoning_tokens else None,
        }
    if "usage" in body:
        body["usage"] |= _money(answer, behaviour)
    return body


def generation(identity: str, request: ReceivedRequest, answer: Answer, *, byok: bool) -> dict[str, Any]:
    """The reply to `GET /generation`; with the user's own key the total is the fee."""
    return {
        "data": {
            "id": identity,
            "model": request.model,
            "provider_name": "Embedded",
            "cancelled": False,
            "streamed": False,
            "is_byok": byok,
            "total_cost": float(answer.cost * (_BYOK_FEE if byok else 1)),
            "upstream_inference_cost": float(answer.cost) if byok else None,
            "tokens_prompt": answer.prompt_tokens,
            "tokens_completion": answer.completion_tokens,
            "native_tokens_prompt": answer.prompt_tokens,
            "native_tokens_completion": answer.completion_tokens,
            "native_tokens_reasoning": answer.reasoning_tokens,
            "native_tokens_cached": answer.cached_tokens,
        }
    }


def streams(request: ReceivedRequest) -> bool:
    """By `stream` in the body."""
    return bool(request.body.get("stream"))


def events(request: ReceivedRequest, message: Mapping[str, Any]) -> Events:
    """As in chat completions, with usage unasked, after comments that keep the connection alive."""
    made = openai_chat_stream.events(message, tells_usage=True)
    return replace(made, opening=(_PROCESSING, *made.opening))


def error_event(error: Mapping[str, Any]) -> bytes:
    """As in chat completions."""
    return openai_chat_stream.error_event(error)


def _money(answer: Answer, behaviour: Behaviour) -> dict[str, Any]:
    factor = 0 if behaviour.usage == "zero" else 1
    fee = _BYOK_FEE if behaviour.byok else 1
    return {
        "cost": float(factor * answer.cost * fee),
        "is_byok": behaviour.byok,
        "cost_details": {
            "upstream_inference_cost": float(factor * answer.cost),
            "upstream_inference_prompt_cost": float(factor * answer.prompt_cost),
            "upstream_inference_completions_cost": float(factor * answer.completion_cost),
        },
    }


def error(fault: Fault) -> dict[str, Any]:
    """`{"error": {code: int, message, metadata?}}`."""
    inner: dict[str, Any] = {
        "code": fault.status if fault.code is None else fault.code,
        "message": fault.message,
    }
    if fault.type is not None:
        inner["metadata"] = {"error_type": fault.type}
    return {"error": inner, "user_id": "user_embedded"}


def headers(number: int) -> dict[str, str]:
    """`x-generation-id`: the id of the reply."""
    return {"x-generation-id": generation_id(number)}


def generation_id(number: int) -> str:
    """The id for the later report on an answer."""
    return f"gen-embedded-{number:010d}"

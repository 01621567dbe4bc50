"""Recorded pairs of request and reply, read without the library's own code.

A shape that is not known here gives None or nothing, never an exception: there are more recordings than anybody
has looked at.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from llm_connect import LLMAPIError, LLMAuthenticationError, LLMError, LLMRateLimitError, LLMResponseError, Usage

#: Fields of a request that bring nothing into the prompt but the texts that the tests send, too.
PLAIN_FIELDS = frozenset(
    [
        "background",
        "contents",
        "context_management",
        "frequency_penalty",
        "generationConfig",
        "include",
        "input",
        "instructions",
        "logprobs",
        "max_completion_tokens",
        "max_output_tokens",
        "max_tokens",
        "messages",
        "metadata",
        "model",
        "moderation",
        "n",
        "parallel_tool_calls",
        "presence_penalty",
        "prompt_cache_key",
        "reasoning",
        "reasoning_effort",
        "response_format",
        "safety_identifier",
        "safetySettings",
        "seed",
        "service_tier",
        "stop",
        "store",
        "stream",
        "systemInstruction",
        "temperature",
        "text",
        "top_logprobs",
        "top_p",
        "truncation",
        "usage",
        "user",
        "verbosity",
    ]
)
PROVIDERS = ("gemini", "openai", "openrouter")
FORMATS = {
    "chat": "chat_completions",
    "responses": "responses",
    "generateContent": "generate_content",
    "stream": "generate_content",
}
PLAIN_REASONING = frozenset({"effort", "summary", "context", "enabled", "exclude", "max_tokens"})


@dataclass(frozen=True)
class Asked:
    """What a request asks, in one form for all formats; `turns` are (role, text)."""

    system: str
    turns: tuple[tuple[str, str], ...]
    limit: int | None
    schema: Any

    @property
    def is_one_prompt(self) -> bool:
        """Whether our adapters can ask the same."""
        good_limit = self.limit is None or (type(self.limit) is int and self.limit > 0)
        return good_limit and len(self.turns) == 1 and self.turns[0][0] == "user" and bool(self.turns[0][1].strip())


@dataclass(frozen=True)
class Said:
    """What a reply says: an answer, or the class of an error."""

    error: type[LLMError] | None = None
    text: str = ""
    model: str = ""
    finish: str = "unknown"
    usage: Usage | None = None
    cost: Decimal | None = None


@dataclass(frozen=True)
class Recording:
    """One recorded exchange."""

    name: str
    provider: str
    endpoint: str
    status: int
    request: dict[str, Any]
    raw: Any
    #: What there was beside text: tools, media, earlier turns.
    has: tuple[str, ...] = ()

    @property
    def response(self) -> dict[str, Any]:
        """The reply; one that is no object says nothing."""
        return _object(self.raw)

    @property
    def wire(self) -> str:
        """The format, by the name of the protocol's module."""
        return FORMATS[self.endpoint]

    @property
    def body(self) -> bytes:
        return json.dumps(self.raw).encode()

    @property
    def model(self) -> str:
        """The model that was asked; Gemini's is in the address, which is not recorded, so the one that answered."""
        return self.request.get("model") or self.response.get("modelVersion") or "gemini-2.5-flash"

    @property
    def asked(self) -> Asked:
        return asked(self.request)

    @property
    def is_plain(self) -> bool:
        """Whether the provider was given nothing but the texts that our adapters can send, too."""
        reasoning = self.request.get("reasoning")
        known = set(self.request) <= PLAIN_FIELDS and set(_object(reasoning)) <= PLAIN_REASONING
        return known and self.asked.is_one_prompt and not self.has

    @property
    def said(self) -> Said:
        return _SAID[self.wire](self)


def recordings() -> list[Recording]:
    """All recorded pairs in JSON of the folder that LLM_CONNECT_RECORDINGS names."""
    return [one for one in _all("json") if one.endpoint in FORMATS]


def streams() -> list[Recording]:
    """All recorded streams of that folder, whose `raw` is their text."""
    return [one for one in _all("sse") if one.endpoint in FORMATS and one.raw]


def _all(kind: str) -> list[Recording]:
    paths = sorted(Path(os.environ["LLM_CONNECT_RECORDINGS"]).glob("*.json"))
    items = [item for path in paths for item in json.loads(path.read_text("utf-8"))]
    return [_recording(item) for item in items if item.get("provider") in PROVIDERS and item["kind"] == kind]


def asked(request: dict[str, Any]) -> Asked:
    """What a request of any format asks."""
    turns = [*_turns(request.get("messages")), *_turns(request.get("input")), *_turns(request.get("contents"))]
    system = [text for role, text in turns if role in ("system", "developer")]
    generation = _object(request.get("generationConfig"))
    limits = (request.get(name) for name in ("max_completion_tokens", "max_output_tokens", "max_tokens"))
    return Asked(
        system="\n".join(filter(None, [request.get("instructions"), _text(request.get("systemInstruction")), *system])),
        turns=tuple(turn for turn in turns if turn[0] not in ("system", "developer")),
        limit=next((limit for limit in (*limits, generation.get("maxOutputTokens")) if limit is not None), None),
        schema=_schema(request) or _object(generation.get("responseJsonSchema")) or None,
    )


def _recording(item: dict[str, Any]) -> Recording:
    name = f"{item['provider']}-{item['endpoint']}-{item['id']}"
    request, has = _object(item["request"]), tuple(item.get("has", ()))
    return Recording(name, item["provider"], item["endpoint"], item["status"], request, item["response"], has)


def _schema(request: dict[str, Any]) -> Any:
    chat = _object(_object(request.get("response_format")).get("json_schema"))
    return chat.get("schema") or _object(_object(request.get("text")).get("format")).get("schema")


def _turns(messages: Any) -> list[tuple[str, str]]:
    if isinstance(messages, str):
        return [("user", messages)]
    items = [_object(message) for message in messages or ()]
    return [(str(item.get("role") or item.get("type") or "user"), _text(item) or "") for item in items]


def _text(value: Any) -> str:
    """The text of a message in whatever form; two parts are two lines."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "\n".join(filter(None, map(_text, value)))
    return next((_text(value[name]) for name in ("text", "content", "parts") if _object(value).get(name)), "")


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _objects(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _first(value: Any) -> dict[str, Any]:
    return _object(value[0]) if isinstance(value, list) and value else {}


# What a reply says, by format


def _class_of(status: Any) -> type[LLMError]:
    return {429: LLMRateLimitError, 401: LLMAuthenticationError, 403: LLMAuthenticationError}.get(status, LLMAPIError)


def _error(recording: Recording, error: Any) -> Said:
    code = _object(error).get("code")
    under_200 = {"rate_limit_exceeded": 429}.get(code, code) if recording.wire == "responses" else code
    if any(detail.get("reason") == "API_KEY_INVALID" for detail in _objects(_object(error).get("details"))):
        return Said(error=LLMAuthenticationError)
    return Said(error=_class_of(under_200 if recording.status == 200 else recording.status))


def _chat(recording: Recording) -> Said:
    body = recording.response
    choice = _first(body.get("choices"))
    error = body.get("error") or choice.get("error")
    if recording.status != 200 or error:
        return _error(recording, error)
    if not choice:
        return Said(error=LLMResponseError)
    message = _object(choice.get("message"))
    content = message.get("content")
    text = content if isinstance(content, str) else "".join(part.get("text") or "" for part in _objects(content))
    finish = {"function_call": "tool_calls"}.get(choice.get("finish_reason"), choice.get("finish_reason"))
    if not text and message.get("refusal"):
        text, finish = message["refusal"], "content_filter"
    known = ("stop", "length", "content_filter", "tool_calls", "error")
    return Said(
        text=text,
        model=body.get("model") or "",
        finish=finish if finish in known else "unknown",
        usage=_openai_usage(body.get("usage"), "prompt", "completion"),
        cost=_cost(_object(body.get("usage"))),
    )


def _responses(recording: Recording) -> Said:
    body = recording.response
    if recording.status != 200 or body.get("error"):
        return _error(recording, body.get("error"))
    if body.get("status") in ("failed", "cancelled", "queued", "in_progress"):
        return Said(error=LLMResponseError)
    if not body.get("output") and body.get("status") not in ("completed", "incomplete"):
        return Said(error=LLMResponseError)
    items = _objects(body.get("output"))
    parts = [part for item in items if item.get("type") == "message" for part in _objects(item.get("content"))]
    text = "".join(part.get("text") or "" for part in parts if part.get("type") == "output_text")
    reason = _object(body.get("incomplete_details")).get("reason")
    finish = {"completed": "stop"}.get(body.get("status"), "unknown")
    finish = {"max_output_tokens": "length", "content_filter": "content_filter"}.get(reason, finish)
    if finish == "stop" and any(item.get("type") == "function_call" for item in items):
        finish = "tool_calls"
    refusal = "".join(part.get("refusal") or "" for part in parts)
    return Said(
        text=text or refusal,
        model=body.get("model") or "",
        finish="content_filter" if refusal and not text else finish,
        usage=_openai_usage(body.get("usage"), "input", "output"),
        cost=_cost(_object(body.get("usage"))),
    )


def _generate_content(recording: Recording) -> Said:
    body = recording.response
    if recording.status != 200 or body.get("error"):
        return _error(recording, body.get("error"))
    candidate = _first(body.get("candidates"))
    blocked = _object(body.get("promptFeedback")).get("blockReason")
    if not candidate and not blocked:
        return Said(error=LLMResponseError)
    parts = [] if blocked else _objects(_object(candidate.get("content")).get("parts"))
    safety = ("SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII")
    finishes = {"STOP": "stop", "MAX_TOKENS": "length", "MALFORMED_FUNCTION_CALL": "error"}
    finishes |= dict.fromkeys(safety, "content_filter")
    return Said(
        text="".join(part.get("text") or "" for part in parts if not part.get("thought")),
        model=body.get("modelVersion") or "",
        finish="content_filter" if blocked else finishes.get(candidate.get("finishReason"), "unknown"),
        usage=_gemini_usage(_object(body.get("usageMetadata"))),
    )


_SAID: dict[str, Callable[[Recording], Said]] = {
    "chat_completions": _chat,
    "responses": _responses,
    "generate_content": _generate_content,
}


def _openai_usage(usage: Any, prompt: str, completion: str) -> Usage | None:
    if not isinstance(usage, dict) or not usage.get(f"{prompt}_tokens"):
        # One recorded reply says zeros beside its calls, which cannot be true.
        return None
    inputs, outputs = (_object(usage.get(f"{name}_tokens_details")) for name in (prompt, completion))
    sent, written = usage[f"{prompt}_tokens"], usage.get(f"{completion}_tokens") or 0
    return Usage(
        prompt_tokens=sent,
        completion_tokens=max(written, (usage.get("total_tokens") or 0) - sent),
        cached_tokens=inputs.get("cached_tokens") or 0,
        cache_write_tokens=inputs.get("cache_write_tokens") or 0,
        reasoning_tokens=outputs.get("reasoning_tokens") or 0,
    )


def _gemini_usage(usage: dict[str, Any]) -> Usage | None:
    """What of the total is no input is output, thoughts among it."""
    if not usage:
        return None
    sent = usage.get("promptTokenCount", 0) + usage.get("toolUsePromptTokenCount", 0)
    return Usage(
        prompt_tokens=sent,
        completion_tokens=usage.get("totalTokenCount", sent) - sent,
        cached_tokens=usage.get("cachedContentTokenCount", 0),
        reasoning_tokens=usage.get("thoughtsTokenCount", 0),
    )


def _cost(usage: dict[str, Any]) -> Decimal | None:
    if usage.get("cost") is None:
        return None
    upstream = _object(usage.get("cost_details")).get("upstream_inference_cost")
    if not usage.get("is_byok"):
        return Decimal(str(usage["cost"]))
    return None if upstream is None else Decimal(str(usage["cost"])) + Decimal(str(upstream))

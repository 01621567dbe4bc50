"""A chat completion as server-sent events; OpenRouter's, too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .events import Events, data, pieces_of

DONE = b"data: [DONE]\n\n"


def events(message: Mapping[str, Any], *, tells_usage: bool) -> Events:
    """The chunks of a whole reply, and `[DONE]`."""
    choice = message["choices"][0]
    last = [_chunk(message, {"delta": {}, "finish_reason": choice["finish_reason"]})]
    if tells_usage and "usage" in message:
        last.append({**_chunk(message, None), "usage": message["usage"]})
    return Events(
        opening=(data(_chunk(message, {"delta": {"role": "assistant", "content": ""}})),),
        pieces=tuple(data(_chunk(message, {"delta": delta})) for delta in _deltas(choice["message"])),
        closing=(*map(data, last), DONE),
    )


def error_event(error: Mapping[str, Any]) -> bytes:
    """An error where the next chunk would be."""
    return data({**error, "object": "error"})


def _deltas(said: Mapping[str, Any]) -> list[dict[str, Any]]:
    calls = said.get("tool_calls")
    if not calls:
        return [{"content": piece} for piece in pieces_of(said["content"])]
    (call,) = calls
    first = {**call, "index": 0, "function": {**call["function"], "arguments": ""}}
    pieces = pieces_of(call["function"]["arguments"])
    return [{"tool_calls": [item]} for item in (first, *({"index": 0, "function": {"arguments": it}} for it in pieces))]


def _chunk(message: Mapping[str, Any], choice: Mapping[str, Any] | None) -> dict[str, Any]:
    head = {name: message[name] for name in ("id", "created", "model", "provider", "service_tier") if name in message}
    choices = [] if choice is None else [{"index": 0, "finish_reason": None, "logprobs": None, **choice}]
    return {**head, "object": "chat.completion.chunk", "choices": choices}

"""A message of Anthropic's format as server-sent events."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from .events import Events, named

_PIECE = 64


def events(message: Mapping[str, Any]) -> Events:
    """The events of a whole message; the last ones begin with the stop reason."""
    parts = (_opening(message), _blocks(message), _closing(message))
    return Events(*(tuple(named(event) for event in part) for part in parts))


def error_event(error: Mapping[str, Any]) -> bytes:
    """An error event."""
    return named(error)


def _opening(message: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    start = {**message, "content": [], "stop_reason": None}
    if "usage" in message:
        usage = message["usage"]
        start["usage"] = {**usage, "output_tokens": min(1, usage["output_tokens"])}
        start["usage"].pop("output_tokens_details", None)
    yield {"type": "message_start", "message": start}
    yield {"type": "ping"}


def _blocks(message: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for index, block in enumerate(message["content"]):
        is_text = block["type"] == "text"
        start = {**block, "text": ""} if is_text else {**block, "input": {}}
        whole = block["text"] if is_text else json.dumps(block["input"])
        yield {"type": "content_block_start", "index": index, "content_block": start}
        for position in range(0, len(whole), _PIECE):
            piece = whole[position : position + _PIECE]
            delta = _text_delta(piece) if is_text else _json_delta(piece)
            yield {"type": "content_block_delta", "index": index, "delta": delta}
        yield {"type": "content_block_stop", "index": index}


def _text_delta(piece: str) -> dict[str, str]:
    return {"type": "text_delta", "text": piece}


def _json_delta(piece: str) -> dict[str, str]:
    return {"type": "input_json_delta", "partial_json": piece}


def _closing(message: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    end: dict[str, Any] = {
        "type": "message_delta",
        "delta": {"stop_reason": message["stop_reason"], "stop_sequence": None},
    }
    if "usage" in message:
        end["usage"] = {name: value for name, value in message["usage"].items() if name.startswith("output_tokens")}
    yield end
    yield {"type": "message_stop"}

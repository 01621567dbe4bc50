"""A message of Anthropic's format as server-sent events."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

_PIECE = 64


def event_stream(message: Mapping[str, Any], *, unfinished: bool = False) -> bytes:
    """The events of a whole message; `unfinished` leaves out the last ones, from the stop reason on."""
    events = [*_opening(message), *_blocks(message)]
    return _encoded(events if unfinished else [*events, *_closing(message)])


def failed_stream(message: Mapping[str, Any], error: Mapping[str, Any]) -> bytes:
    """A stream that begins well and ends in an error event."""
    return _encoded([*_opening(message), dict(error)])


def _encoded(events: list[dict[str, Any]]) -> bytes:
    return "".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events).encode()


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

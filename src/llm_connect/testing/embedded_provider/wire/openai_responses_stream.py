"""A reply of responses as server-sent events."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .events import Events, named, numbered, pieces_of

#: Items whose contents come in pieces, and the names of these.
_KINDS = {"message": "output_text", "function_call": "function_call_arguments"}


def events(message: Mapping[str, Any]) -> Events:
    """The events of a whole reply; the last one holds all of it."""
    items: list[dict[str, Any]] = message["output"]
    index, item = next((found for found in enumerate(items) if found[1]["type"] in _KINDS), (0, dict[str, Any]()))
    place: dict[str, Any] = {"item_id": item.get("id", ""), "output_index": index}
    if "content" in item:
        place["content_index"] = 0
    content = _content(item)
    kind = _KINDS[item.get("type", "message")]
    deltas = ({"type": f"response.{kind}.delta", **place, "delta": piece} for piece in pieces_of(content))
    opening = numbered(_opening(message, item, place))
    pieces = numbered(deltas, len(opening))
    return Events(opening, pieces, numbered(_closing(message, item, place, content), len(opening) + len(pieces)))


def _content(item: Mapping[str, Any]) -> str:
    return str(item["content"][0]["text"] if "content" in item else item.get("arguments", ""))


def error_event(error: Mapping[str, Any]) -> bytes:
    """An error event; its fields are its own, not in an object."""
    fields = error["error"]
    said = {name: fields[name] for name in ("code", "message", "param")}
    return named({"type": "error", **said, "code": fields["code"] or fields["type"], "sequence_number": 99})


def _opening(message: Mapping[str, Any], item: Mapping[str, Any], place: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    unfinished = {**message, "status": "in_progress", "output": [], "usage": None, "incomplete_details": None}
    yield {"type": "response.created", "response": {**unfinished, "error": None}}
    yield {"type": "response.in_progress", "response": {**unfinished, "error": None}}
    if item:
        empty: dict[str, Any] = {"content": []} if "content" in item else {"arguments": ""}
        added = {**item, "status": "in_progress", **empty}
        yield {"type": "response.output_item.added", "output_index": place["output_index"], "item": added}
    if "content" in item:
        yield {"type": "response.content_part.added", **place, "part": {"type": "output_text", "text": ""}}


def _closing(
    message: Mapping[str, Any], item: Mapping[str, Any], place: Mapping[str, Any], content: str
) -> Iterator[dict[str, Any]]:
    if "content" in item:
        yield {"type": "response.output_text.done", **place, "text": content}
        yield {"type": "response.content_part.done", **place, "part": item["content"][0]}
    elif item:
        yield {"type": "response.function_call_arguments.done", **place, "name": item["name"], "arguments": content}
    if item:
        yield {"type": "response.output_item.done", "output_index": place["output_index"], "item": item}
    yield {"type": f"response.{message['status']}", "response": message}

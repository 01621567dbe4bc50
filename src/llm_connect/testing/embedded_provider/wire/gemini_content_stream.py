"""A GenerateContentResponse as server-sent events: each a response of its own, with a piece of the text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .events import Events, data, pieces_of


def events(message: Mapping[str, Any]) -> Events:
    """The events of a whole reply. The figures grow from one to the next; the last ones are those of the answer."""
    candidate = message["candidates"][0]
    parts = candidate["content"].get("parts", [])
    pieces = [{"text": piece} for part in parts if "text" in part for piece in pieces_of(part["text"])]
    pieces += [part for part in parts if "text" not in part]
    return Events(
        opening=(
            _event({**message, "candidates": [{"content": {"role": "model"}, "index": 0}], **_figures(message, 0)}),
        ),
        pieces=tuple(_event(_piece(message, piece, number)) for number, piece in enumerate(pieces)),
        closing=(_event({**message, "candidates": [{**candidate, "content": {"role": "model"}}]}),),
    )


def error_event(error: Mapping[str, Any]) -> bytes:
    """An error where the next response would be."""
    return _event(error)


def _piece(message: Mapping[str, Any], part: Mapping[str, Any], number: int) -> dict[str, Any]:
    content = {"role": "model", "parts": [part]}
    return {**message, "candidates": [{"content": content, "index": 0}], **_figures(message, number + 1)}


def _figures(message: Mapping[str, Any], number: int) -> dict[str, Any]:
    if "usageMetadata" not in message:
        return {}
    whole = message["usageMetadata"]
    prompt = whole["promptTokenCount"]
    total = min(prompt + number, whole["totalTokenCount"])
    return {"usageMetadata": {"promptTokenCount": prompt, "totalTokenCount": total}}


def _event(value: Mapping[str, Any]) -> bytes:
    return data(value, line_end="\r\n")

"""The requests besides calls of a model: for a token count, and for the cost of a generation."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ._answer import Answer
from ._faults import Fault
from ._received import ReceivedRequest, WireFormat
from .wire import openrouter_chat


class NoSuchGeneration(Exception):
    """No answer has this id; becomes a 404."""

    fault: Fault = Fault(status=404, message="Generation not found")


def counted_body(wire_format: WireFormat, body: Mapping[str, Any]) -> Mapping[str, Any]:
    """The request whose prompt is to be counted, without the fields that a count does not need."""
    if wire_format == "anthropic_messages":
        return {"max_tokens": 1, **body}
    whole = body.get("generateContentRequest")
    return whole if wire_format == "generate_content" and isinstance(whole, Mapping) else body


def count_reply(wire_format: WireFormat, tokens: int) -> dict[str, Any]:
    """The count in the form of each format."""
    if wire_format == "generate_content":
        return {"totalTokens": tokens, "promptTokensDetails": [{"modality": "TEXT", "tokenCount": tokens}]}
    told: dict[str, Any] = {"input_tokens": tokens}
    return {"object": "response.input_tokens", **told} if wire_format == "openai_responses" else told


@dataclass(frozen=True, slots=True)
class Generation:
    """The record of one answer in OpenRouter's format."""

    request: ReceivedRequest
    answer: Answer
    byok: bool


class Generations:
    """The records of the last answers in OpenRouter's format, by id; thread-safe."""

    def __init__(self, keep: int) -> None:
        self._lock = threading.Lock()
        self._keep = keep
        self._known: dict[str, Generation] = {}

    def add(self, number: int, generation: Generation) -> None:
        """Remember the answer of that number, and forget the oldest if there are too many."""
        with self._lock:
            self._known[openrouter_chat.generation_id(number)] = generation
            if len(self._known) > self._keep:
                del self._known[next(iter(self._known))]

    def told(self, identity: str) -> dict[str, Any]:
        """OpenRouter's report on an answer. Raises NoSuchGeneration."""
        with self._lock:
            known = self._known.get(identity)
        if known is None:
            raise NoSuchGeneration
        return openrouter_chat.generation(identity, known.request, known.answer, byok=known.byok)

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._known.clear()

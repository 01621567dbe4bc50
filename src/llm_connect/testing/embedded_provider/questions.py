"""What a provider is asked beside calls of a model: what a prompt counts, and what a generation has cost."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .answer import Answer
from .faults import Fault
from .received import ReceivedRequest, WireFormat
from .wire import openrouter


class NoSuchGeneration(Exception):
    """Nothing has been answered under this id; told as 404."""

    fault: Fault = Fault(status=404, message="Generation not found")


def counted_body(wire_format: WireFormat, body: Mapping[str, Any]) -> Mapping[str, Any]:
    """The request whose prompt is to be counted: as to the model, but without what a count has no need of."""
    if wire_format == "anthropic_messages":
        return {"max_tokens": 1, **body}
    whole = body.get("generateContentRequest")
    return whole if wire_format == "generate_content" and isinstance(whole, Mapping) else body


def count_reply(wire_format: WireFormat, tokens: int) -> dict[str, Any]:
    """The count, as each format tells it."""
    if wire_format == "generate_content":
        return {"totalTokens": tokens, "promptTokensDetails": [{"modality": "TEXT", "tokenCount": tokens}]}
    told: dict[str, Any] = {"input_tokens": tokens}
    return {"object": "response.input_tokens", **told} if wire_format == "openai_responses" else told


@dataclass(frozen=True, slots=True)
class Generation:
    """One answer at OpenRouter's, as it is remembered."""

    request: ReceivedRequest
    answer: Answer
    byok: bool


class Generations:
    """The last answers at OpenRouter's, by their ids; thread-safe."""

    def __init__(self, keep: int) -> None:
        self._lock = threading.Lock()
        self._keep = keep
        self._known: dict[str, Generation] = {}

    def add(self, number: int, generation: Generation) -> None:
        """Remember the answer of that number, and forget the oldest when there are too many."""
        with self._lock:
            self._known[openrouter.generation_id(number)] = generation
            if len(self._known) > self._keep:
                del self._known[next(iter(self._known))]

    def told(self, identity: str) -> dict[str, Any]:
        """What OpenRouter tells of an answer. Raises NoSuchGeneration."""
        with self._lock:
            known = self._known.get(identity)
        if known is None:
            raise NoSuchGeneration
        return openrouter.generation(identity, known.request, known.answer, byok=known.byok)

    def clear(self) -> None:
        """Forget all."""
        with self._lock:
            self._known.clear()

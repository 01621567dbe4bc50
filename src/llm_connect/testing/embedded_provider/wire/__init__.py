"""The wire formats: pure functions between JSON objects and the types of the rest of the provider."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from .._answer import Answer
from .._behaviour import Behaviour
from .._faults import Fault
from .._received import ReceivedRequest, WireFormat
from . import anthropic_messages, gemini_content, openai_chat, openai_responses, openrouter_chat
from .events import Events
from .fields import Asked

__all__ = ["WIRES", "Asked", "Wire"]


class Wire(Protocol):
    """The functions of each module of this package."""

    def read(self, body: Mapping[str, Any]) -> Asked:
        """Read a request; raises InvalidRequest if the real provider would answer 400."""
        ...

    def key(self, headers: Mapping[str, str], query: Mapping[str, str]) -> str | None:
        """The API key, or None."""
        ...

    def reply(self, request: ReceivedRequest, answer: Answer, behaviour: Behaviour, number: int) -> dict[str, Any]:
        """The whole reply; `number` makes its ids."""
        ...

    def streams(self, request: ReceivedRequest) -> bool:
        """True if the request wants a stream."""
        ...

    def events(self, request: ReceivedRequest, message: Mapping[str, Any]) -> Events:
        """The whole reply as a stream."""
        ...

    def error_event(self, error: Mapping[str, Any]) -> bytes:
        """An error within a stream."""
        ...

    def error(self, fault: Fault) -> dict[str, Any]:
        """The error body."""
        ...

    def headers(self, number: int) -> dict[str, str]:
        """The headers that name the request."""
        ...


WIRES: Mapping[WireFormat, Wire] = {
    "openai_chat": openai_chat,
    "openai_responses": openai_responses,
    "openrouter": openrouter_chat,
    "generate_content": gemini_content,
    "anthropic_messages": anthropic_messages,
}

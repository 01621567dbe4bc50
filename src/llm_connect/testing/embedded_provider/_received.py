"""The requests a provider has seen, kept without their secrets."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

WireFormat = Literal["openai_chat", "openai_responses", "openrouter", "generate_content", "anthropic_messages"]

#: The requests that are not calls of a model: for a token count, or for the cost of a generation.
Question = Literal["count_tokens", "generation"]

WIRE_FORMATS: tuple[WireFormat, ...] = get_args(WireFormat)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedRequest:
    """One request to a model, as it came in.

        request = provider.requests[-1]
        request.body["temperature"], request.output_limit, request.prompt

    `headers` have lower-case names; those that carry a key say only "present". `output_limit` is in tokens,
    None when the request sets none; `choices` is the number of wanted answers. `prompt` is the text of the
    conversation, `system_prompt` the text of the instructions.
    """

    wire_format: WireFormat
    path: str
    headers: Mapping[str, str]
    body: Mapping[str, Any] = field(repr=False)
    model: str
    output_limit: int | None
    choices: int = 1
    system_prompt: str = field(default="", repr=False)
    prompt: str = field(default="", repr=False)


class RequestLog:
    """The last requests, oldest first; thread-safe."""

    def __init__(self, keep: int) -> None:
        self._arrival = threading.Condition()
        self._requests: deque[ReceivedRequest] = deque(maxlen=keep)
        self._arrived = 0

    def add(self, request: ReceivedRequest) -> None:
        """Notes a request and wakes its waiters."""
        with self._arrival:
            self._requests.append(request)
            self._arrived += 1
            self._arrival.notify_all()

    def all(self) -> list[ReceivedRequest]:
        """A copy of the kept requests."""
        with self._arrival:
            return list(self._requests)

    def clear(self) -> None:
        """Forgets everything, the count of arrivals too."""
        with self._arrival:
            self._requests.clear()
            self._arrived = 0

    def wait_for(self, count: int, timeout: float) -> bool:
        """Waits until `count` requests have arrived; False when `timeout` seconds were not enough."""
        with self._arrival:
            return self._arrival.wait_for(lambda: self._arrived >= count, timeout)

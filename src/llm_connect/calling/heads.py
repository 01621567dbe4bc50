"""The headers of a reply whose body never came: by the id in them, the provider can be asked later."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar

from llm_connect.protocols.wire import request_id_in


class Head:
    """The headers of a reply, as far as they have come."""

    __slots__ = ("headers",)

    def __init__(self) -> None:
        self.headers: Mapping[str, str] = {}

    def await_it(self) -> None:
        """Let this be the head of the reply to the request that this thread or task sends next.

        It stays until the next one: a coroutine that is dropped may end in another context.
        """
        _awaited.set(self)

    @property
    def request_id(self) -> str | None:
        return request_id_in(self.headers)


#: The head of the reply that this thread or task is waiting for.
_awaited: ContextVar[Head | None] = ContextVar("llm_connect_head", default=None)


def note_headers(headers: Mapping[str, str]) -> None:
    """Say that a reply with these headers has begun to come."""
    head = _awaited.get()
    if head is not None:
        head.headers = headers

"""What is known of an attempt before its reply is whole: whether its request has begun to leave, and its headers.

The transport says both as they happen. An attempt that ends before its request has begun to leave costs nothing; by the
id in the headers the provider can be asked later.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar

from llm_connect.protocols.wire import request_id_in


class Head:
    """The beginning of one exchange: what was sent, and what came before the body."""

    __slots__ = ("headers", "sent")

    def __init__(self, *, sent: bool = False) -> None:
        #: Whether the provider may have any byte of the request.
        self.sent: bool = sent
        self.headers: Mapping[str, str] = {}

    def await_it(self) -> None:
        """Let this be the head of the request that this thread or task sends next.

        It stays until the next one: a coroutine that is dropped may end in another context.
        """
        _awaited.set(self)

    @property
    def request_id(self) -> str | None:
        return request_id_in(self.headers)


#: The head of the request that this thread or task sends.
_awaited: ContextVar[Head | None] = ContextVar("llm_connect_head", default=None)


def awaited_head() -> Head:
    """The head of the request that this thread or task sends; one that nobody reads where there is none."""
    return _awaited.get() or Head()


def note_sent() -> None:
    """Say that the first byte of the request leaves now. Said just before: said after it, it could come too late."""
    head = _awaited.get()
    if head is not None:
        head.sent = True


def note_headers(headers: Mapping[str, str]) -> None:
    """Say that a reply with these headers has begun to come."""
    head = _awaited.get()
    if head is not None:
        head.headers = headers

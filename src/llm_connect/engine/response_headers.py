"""Facts about an attempt before its reply is complete: the first byte of its request has left, and the reply's headers.

The transport notes both as they happen. An attempt that ends before the first byte has left costs nothing. With the
request id of the headers, one can ask the provider later.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar

from llm_connect.protocols.wire import request_id_in


class Head:
    """The beginning of one exchange: if its request left, and the headers that came back."""

    __slots__ = ("headers", "sent")

    def __init__(self, *, sent: bool = False) -> None:
        #: True if the provider may have a byte of the request.
        self.sent: bool = sent
        self.headers: Mapping[str, str] = {}

    def await_it(self) -> None:
        """Make this the head of the next request that this thread or task sends.

        It stays until the next one, because a dropped coroutine may end in another context.
        """
        _awaited.set(self)

    @property
    def request_id(self) -> str | None:
        return request_id_in(self.headers)


#: The head of the request that this thread or task is sending.
_awaited: ContextVar[Head | None] = ContextVar("llm_connect_head", default=None)


def awaited_head() -> Head:
    """The head of the request that this thread or task is sending; an unused one if there is no request."""
    return _awaited.get() or Head()


def note_sent() -> None:
    """Note that the first byte of the request is about to leave. A note after the fact could come too late."""
    head = _awaited.get()
    if head is not None:
        head.sent = True


def note_headers(headers: Mapping[str, str]) -> None:
    """Note that a reply with these headers has begun to arrive."""
    head = _awaited.get()
    if head is not None:
        head.headers = headers

"""The moment by which a call must be over, and the facts about an exchange that are known before its reply is complete.

The transport notes two facts as they happen: the first byte of the request has left, and the headers of the reply. An
attempt that ends before the first byte has left costs nothing. With the request id of the headers, one can ask the
provider later.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass

from llm_connect.errors import LLMTimeoutError
from llm_connect.protocols.wire import Failure, request_id_in


@dataclass(frozen=True, slots=True)
class Deadline:
    """A moment on the monotonic clock.

    deadline = Deadline.after(20.0)
    deadline.remaining()
    """

    at: float

    @classmethod
    def after(cls, seconds: float) -> Deadline:
        return cls(time.monotonic() + seconds)

    def remaining(self) -> float:
        """Seconds left, never below 0."""
        return max(0.0, self.at - time.monotonic())

    @property
    def passed(self) -> bool:
        return time.monotonic() >= self.at


class Head:
    """The beginning of one exchange: if its request left, and the headers that came back."""

    #: True if the provider may have a byte of the request.
    sent: bool = False
    headers: Mapping[str, str] = {}
    #: The moment by which the sockets of a sync client must be done; None while it sends and reads nothing.
    until: float | None = None

    @property
    def request_id(self) -> str | None:
        return request_id_in(self.headers)


#: The head of the request that this thread or task is sending. It stays until the next one, because a dropped coroutine
#: may end in another context.
awaited: ContextVar[Head | None] = ContextVar("llm_connect_head", default=None)


def awaited_head() -> Head:
    """The head of the request that this thread or task is sending; an unused one if there is no request."""
    return awaited.get() or Head()


def note_sent() -> None:
    """Note that the first byte of the request is about to leave. A note after the fact could come too late."""
    awaited_head().sent = True


def timed_out(what: str, *, maybe_billed: bool, limit: str = "timeout_seconds") -> Failure:
    """The failure of a call that passed its deadline, or the given `limit`."""
    message = f"{limit} is over: {what}. Raise it, or send less at once."
    return Failure(kind=LLMTimeoutError, message=message, maybe_billed=maybe_billed)

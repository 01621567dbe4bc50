"""The I/O effects of a call, each with a sync and an async runner."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from llm_connect.engine.concurrency_limit import Place, Slots, Turn
from llm_connect.engine.deadline import Deadline
from llm_connect.engine.response_headers import Head
from llm_connect.errors import LLMConnectionError, LLMTimeoutError
from llm_connect.protocols.wire import Failure, Reply

if TYPE_CHECKING:
    from llm_connect.engine.exchange import Exchange, Request


@dataclass(slots=True)
class TakeSlot:
    """Takes one of the adapter's concurrency slots, or fails."""

    slots: Slots
    turn: Turn
    limit: str = "max_queue_seconds"

    def run(self) -> Place | Failure:
        return self.slots.take(self.turn) or self._failure()

    async def arun(self) -> Place | Failure:
        return await self.slots.atake(self.turn) or self._failure()

    def _failure(self) -> Failure:
        if time.monotonic() >= self.turn.until:
            what = "no concurrency slot of the adapter came free"
            return timed_out(what, maybe_billed=False, limit=self.limit)
        message = (
            "Streams that are past their own deadlines hold all concurrency slots of the adapter: "
            "close streams, or raise max_concurrency."
        )
        return Failure(kind=LLMTimeoutError, message=message, maybe_billed=False)


@dataclass(slots=True)
class Send:
    """Sends one request and reads its whole reply within the deadline; errors on the way become a `Failure`."""

    adapter: Exchange
    request: Request
    deadline: Deadline
    #: Facts about the exchange that are known before the whole reply.
    head: Head

    def run(self) -> Reply | Failure:
        self.head.await_it()
        try:
            return self.adapter.send(self.request, self.deadline)
        except Exception as error:
            return self._failure(error)

    async def arun(self) -> Reply | Failure:
        self.head.await_it()
        try:
            async with asyncio.timeout(self.deadline.remaining()):
                return await self.adapter.asend(self.request, self.deadline)
        except Exception as error:
            return self._failure(error)

    def _failure(self, error: Exception) -> Failure:
        if self.deadline.passed:
            return late(self.head, "no whole reply came")
        return broken(self.adapter, self.head, error)


@dataclass(slots=True)
class Pause:
    """Waits before the next attempt."""

    seconds: float

    def run(self) -> None:
        time.sleep(self.seconds)

    async def arun(self) -> None:
        await asyncio.sleep(self.seconds)


def late(head: Head, missing: str, limit: str = "timeout_seconds") -> Failure:
    """The failure of an exchange that did not end in time."""
    what = missing if head.sent else "no connection was made in time, so nothing was sent"
    return replace(timed_out(what, maybe_billed=head.sent, limit=limit), request_id=head.request_id)


def broken(adapter: Exchange, head: Head, error: Exception) -> Failure:
    """The failure of an exchange that an exception ended. If nothing was sent, it costs nothing and may be retried."""
    failure = adapter.transport_failure(error)
    if head.sent:
        return replace(failure, request_id=failure.request_id or head.request_id)
    retryable = failure.retryable or failure.kind is LLMConnectionError
    return replace(failure, maybe_billed=False, retryable=retryable)


def timed_out(what: str, *, maybe_billed: bool, limit: str = "timeout_seconds") -> Failure:
    """The failure of a call that passed its deadline, or the given `limit`."""
    message = f"{limit} is over: {what}. Raise it, or send less at once."
    return Failure(kind=LLMTimeoutError, message=message, maybe_billed=maybe_billed)

"""What a call waits for, one class each, in a sync and an async form."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from llm_connect.calling.deadline import Deadline
from llm_connect.calling.heads import Head
from llm_connect.calling.slots import Place, Slots, Turn
from llm_connect.core.exceptions import LLMConnectionError, LLMTimeoutError
from llm_connect.core.holds import Hold
from llm_connect.core.terms import Terms
from llm_connect.core.waiting import aadmit, admit
from llm_connect.protocols.wire import Failure, Reply

if TYPE_CHECKING:
    from llm_connect.calling.ports import Exchange, Request


@dataclass(slots=True)
class Reserve:
    """A hold on the terms of the call, under its arrival number; if it has to wait, after the place was given back."""

    terms: Terms
    arrival: int | None
    place: Place

    def run(self) -> Hold:
        asked = self.terms
        return admit(asked.tracker, asked.demand, asked.facts, **self._place())

    async def arun(self) -> Hold:
        asked = self.terms
        return await aadmit(asked.tracker, asked.demand, asked.facts, **self._place())

    def _place(self) -> dict[str, Any]:
        return {"arrival": self.arrival, "before_waiting": self.place.give_back, **self.terms.place}


@dataclass(slots=True)
class Dispatch:
    """Whether the request of a hold may be sent; from then on an unknown outcome counts as spent."""

    hold: Hold

    def run(self) -> bool:
        return self.hold.try_dispatch()

    async def arun(self) -> bool:
        return await self.hold.atry_dispatch()


@dataclass(slots=True)
class Booked:
    """The entry of a hold that has ended: the worker of a store makes it, so it may not be there yet."""

    hold: Hold

    def run(self) -> None:
        self.hold.booked()

    async def arun(self) -> None:
        await self.hold.abooked()


@dataclass(slots=True)
class TakeSlot:
    """A place among the adapter's concurrent requests, or why there was none."""

    slots: Slots
    turn: Turn
    limit: str = "max_queue_seconds"

    def run(self) -> Place | Failure:
        return self.slots.take(self.turn) or self._failure()

    async def arun(self) -> Place | Failure:
        return await self.slots.atake(self.turn) or self._failure()

    def _failure(self) -> Failure:
        if time.monotonic() >= self.turn.until:
            what = "no place came free among the adapter's concurrent requests"
            return timed_out(what, maybe_billed=False, limit=self.limit)
        message = (
            "Every place among the adapter's concurrent requests is held by a stream that is over its own deadline: "
            "close streams, or raise max_concurrency."
        )
        return Failure(kind=LLMTimeoutError, message=message, maybe_billed=False)


@dataclass(slots=True)
class Send:
    """One request and its whole reply, within the deadline; what goes wrong on the way is a `Failure`."""

    adapter: Exchange
    request: Request
    deadline: Deadline
    #: What is known of the exchange before the whole reply has come.
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
    """Time that passes before the next attempt."""

    seconds: float

    def run(self) -> None:
        time.sleep(self.seconds)

    async def arun(self) -> None:
        await asyncio.sleep(self.seconds)


def late(head: Head, missing: str, limit: str = "timeout_seconds") -> Failure:
    """The failure of an exchange that was not over in time."""
    what = missing if head.sent else "no connection was made in time, so nothing was sent"
    return replace(timed_out(what, maybe_billed=head.sent, limit=limit), request_id=head.request_id)


def broken(adapter: Exchange, head: Head, error: Exception) -> Failure:
    """The failure of an exchange that an exception ended: before anything was sent, it costs nothing and may pass."""
    failure = adapter.transport_failure(error)
    if head.sent:
        return replace(failure, request_id=failure.request_id or head.request_id)
    retryable = failure.retryable or failure.kind is LLMConnectionError
    return replace(failure, maybe_billed=False, retryable=retryable)


def timed_out(what: str, *, maybe_billed: bool, limit: str = "timeout_seconds") -> Failure:
    """The failure of a call that is over its deadline, or over a `limit` of its own."""
    message = f"{limit} is over: {what}. Raise it, or send less at once."
    return Failure(kind=LLMTimeoutError, message=message, maybe_billed=maybe_billed)

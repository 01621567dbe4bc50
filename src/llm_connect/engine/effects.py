"""The I/O effects of a call and of a stream, each with a sync and an async runner."""

from __future__ import annotations

import asyncio
import random
import time
from abc import abstractmethod
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from llm_connect.engine.deadline import Deadline, Head, awaited, timed_out
from llm_connect.engine.exchange import AsyncOpenReply, Exchange, OpenReply, Request
from llm_connect.errors import LLMConnectionError
from llm_connect.protocols.wire import Failure, Reply

_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a step waits, and the words for its failure."""

    deadline: Deadline
    missing: str = "no whole reply came"
    limit: str = "timeout_seconds"

    def late(self, head: Head) -> Failure:
        """The failure of an exchange that did not end in time."""
        what = self.missing if head.sent else "no connection was made in time, so nothing was sent"
        return replace(timed_out(what, maybe_billed=head.sent, limit=self.limit), request_id=head.request_id)


@dataclass(slots=True)
class _Step:
    """A part of an exchange with the provider, until the end of `patience`; errors on the way become a `Failure`."""

    adapter: Exchange
    patience: Patience
    #: Facts about the exchange that are known before the whole reply.
    head: Head

    def run(self) -> Any:
        self.head.until = self.patience.deadline.at
        awaited.set(self.head)
        try:
            return self._do()
        except Exception as error:
            return self._failure(error)
        finally:
            self.head.until = None

    async def arun(self) -> Any:
        awaited.set(self.head)
        try:
            async with asyncio.timeout(self.patience.deadline.remaining()):
                return await self._ado()
        except Exception as error:
            return self._failure(error)

    @abstractmethod
    def _do(self) -> Any: ...
    @abstractmethod
    async def _ado(self) -> Any: ...

    def _failure(self, error: Exception) -> Failure:
        """Translate an exception. If nothing was sent, the attempt costs nothing and may be retried."""
        if self.patience.deadline.passed:
            return self.patience.late(self.head)
        failure = self.adapter.transport_failure(error)
        if self.head.sent:
            return replace(failure, request_id=failure.request_id or self.head.request_id)
        retryable = failure.retryable or failure.kind is LLMConnectionError
        return replace(failure, maybe_billed=False, retryable=retryable)


@dataclass(slots=True)
class Send(_Step):
    """Sends one request and reads its whole reply."""

    request: Request

    def _do(self) -> Reply:
        return self.adapter.send(self.request, self.patience.deadline)

    async def _ado(self) -> Reply:
        return await self.adapter.asend(self.request, self.patience.deadline)


@dataclass(slots=True)
class Open(_Step):
    """Sends one request and waits for the status of its reply."""

    request: Request

    def _do(self) -> OpenReply:
        return self.adapter.open(self.request, self.patience.deadline)

    async def _ado(self) -> AsyncOpenReply:
        return await self.adapter.aopen(self.request, self.patience.deadline)


@dataclass(slots=True)
class Next(_Step):
    """Reads the next bytes of an open reply, none at its end."""

    reply: OpenReply | AsyncOpenReply

    def _do(self) -> bytes:
        return self.reply.read(self.patience.deadline)  # type: ignore[union-attr]

    async def _ado(self) -> bytes:
        return await self.reply.aread()  # type: ignore[union-attr]


@dataclass(frozen=True, slots=True)
class Breathe:
    """A moment for other tasks, while much has come that is to be read; a `Failure` once the deadline has passed."""

    patience: Patience
    head: Head

    def run(self) -> Failure | None:
        return self.patience.late(self.head) if self.patience.deadline.passed else None

    async def arun(self) -> Failure | None:
        await asyncio.sleep(0)
        return self.run()


@dataclass(frozen=True, slots=True)
class Close:
    """Closes an open reply; the only step that a stream takes on its way out."""

    reply: OpenReply | AsyncOpenReply

    def run(self) -> None:
        with suppress(Exception):
            self.reply.close()  # type: ignore[union-attr]

    async def arun(self) -> None:
        with suppress(Exception):
            await self.reply.aclose()  # type: ignore[union-attr]

    def abandon(self) -> None:
        """The same when nothing can be awaited."""
        with suppress(Exception):
            self.reply.abandon()


@dataclass(slots=True)
class Pause:
    """Waits before the next attempt."""

    seconds: float

    def run(self) -> None:
        time.sleep(self.seconds)

    async def arun(self) -> None:
        await asyncio.sleep(self.seconds)


def pause_before_retry(failure: Failure, attempt: int, max_retries: int, deadline: Deadline) -> float | None:
    """Seconds to wait before the next attempt, or None if there should be no other.

    A pause that the provider asks for is kept in full; otherwise pauses double, with jitter. A pause that would pass
    the deadline is not begun.
    """
    if not failure.retryable or attempt > max_retries:
        return None
    pause = _backoff(attempt) if failure.retry_after is None else failure.retry_after
    return pause if pause < deadline.remaining() else None


def _backoff(attempt: int) -> float:
    longest = min(_LONGEST_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * 2.0 ** (attempt - 1))
    return longest * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, not a secret

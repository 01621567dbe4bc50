"""The additional I/O effects of a stream, each with a sync and an async runner."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llm_connect.engine.deadline import Deadline
from llm_connect.engine.effects import broken, late
from llm_connect.engine.response_headers import Head
from llm_connect.engine.response_stream import AsyncOpenReply, OpenReply
from llm_connect.protocols.wire import Failure

if TYPE_CHECKING:
    from llm_connect.engine.exchange import Exchange, Request


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a step waits, and the words for its failure."""

    deadline: Deadline
    missing: str = "no whole reply came"
    limit: str = "timeout_seconds"

    def failure(self, adapter: Exchange, head: Head, error: Exception) -> Failure:
        """Translate an exception of a wait."""
        if self.deadline.passed:
            return late(head, self.missing, self.limit)
        return broken(adapter, head, error)


@dataclass(frozen=True, slots=True)
class Open:
    """Sends one request and waits for the status of its reply; errors on the way become a `Failure`."""

    adapter: Exchange
    request: Request
    patience: Patience
    head: Head

    def run(self) -> OpenReply | Failure:
        self.head.await_it()
        try:
            return self.adapter.open(self.request, self.patience.deadline)
        except Exception as error:
            return self.patience.failure(self.adapter, self.head, error)

    async def arun(self) -> AsyncOpenReply | Failure:
        self.head.await_it()
        try:
            async with asyncio.timeout(self.patience.deadline.remaining()):
                return await self.adapter.aopen(self.request, self.patience.deadline)
        except Exception as error:
            return self.patience.failure(self.adapter, self.head, error)


@dataclass(frozen=True, slots=True)
class Next:
    """Reads the next bytes of an open reply, none at its end; errors on the way become a `Failure`."""

    adapter: Exchange
    reply: OpenReply | AsyncOpenReply
    patience: Patience
    head: Head

    def run(self) -> bytes | Failure:
        try:
            return self.reply.read(self.patience.deadline)  # type: ignore[union-attr]
        except Exception as error:
            return self.patience.failure(self.adapter, self.head, error)

    async def arun(self) -> bytes | Failure:
        try:
            async with asyncio.timeout(self.patience.deadline.remaining()):
                return await self.reply.aread()  # type: ignore[union-attr]
        except Exception as error:
            return self.patience.failure(self.adapter, self.head, error)


@dataclass(frozen=True, slots=True)
class Breathe:
    """A moment for other tasks, while much has come that is to be read; a `Failure` once the deadline has passed."""

    patience: Patience
    head: Head

    def run(self) -> Failure | None:
        passed = self.patience.deadline.passed
        return late(self.head, self.patience.missing, self.patience.limit) if passed else None

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

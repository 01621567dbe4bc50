"""What a stream waits for beside what every call does, in a sync and an async form."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llm_connect.calling.deadline import Deadline
from llm_connect.calling.open_reply import AsyncOpenReply, OpenReply
from llm_connect.calling.steps import timed_out
from llm_connect.protocols.wire import Failure

if TYPE_CHECKING:
    from llm_connect.calling.provider import ProviderAdapter, Request


@dataclass(frozen=True, slots=True)
class Patience:
    """How long is waited: for what, and by which limit."""

    deadline: Deadline
    missing: str = "no whole reply came"
    limit: str = "timeout_seconds"

    def failure(self, adapter: ProviderAdapter, error: Exception) -> Failure:
        """What an exception while waiting means."""
        if self.deadline.passed:
            return timed_out(self.missing, maybe_billed=True, limit=self.limit)
        return adapter.transport_failure(error)


@dataclass(frozen=True, slots=True)
class Open:
    """One request, up to the status of its reply; what goes wrong on the way is a `Failure`."""

    adapter: ProviderAdapter
    request: Request
    patience: Patience

    def run(self) -> OpenReply | Failure:
        try:
            return self.adapter.open(self.request, self.patience.deadline)
        except Exception as error:
            return self.patience.failure(self.adapter, error)

    async def arun(self) -> AsyncOpenReply | Failure:
        try:
            async with asyncio.timeout(self.patience.deadline.remaining()):
                return await self.adapter.aopen(self.request, self.patience.deadline)
        except Exception as error:
            return self.patience.failure(self.adapter, error)


@dataclass(frozen=True, slots=True)
class Next:
    """The next bytes of an open reply, none at its end; what goes wrong on the way is a `Failure`."""

    adapter: ProviderAdapter
    reply: OpenReply | AsyncOpenReply
    patience: Patience

    def run(self) -> bytes | Failure:
        try:
            return self.reply.read(self.patience.deadline)  # type: ignore[union-attr]
        except Exception as error:
            return self.patience.failure(self.adapter, error)

    async def arun(self) -> bytes | Failure:
        try:
            async with asyncio.timeout(self.patience.deadline.remaining()):
                return await self.reply.aread()  # type: ignore[union-attr]
        except Exception as error:
            return self.patience.failure(self.adapter, error)


@dataclass(frozen=True, slots=True)
class Close:
    """The end of an open reply; the only step that a stream takes on its way out."""

    reply: OpenReply | AsyncOpenReply

    def run(self) -> None:
        with suppress(Exception):
            self.reply.close()  # type: ignore[union-attr]

    async def arun(self) -> None:
        with suppress(Exception):
            await self.reply.aclose()  # type: ignore[union-attr]

    def abandon(self) -> None:
        """The same where nothing can be awaited."""
        self.reply.abandon()  # type: ignore[union-attr]

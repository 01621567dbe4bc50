"""Prepares the first call: imports the SDK and the list prices, and makes a client, before any budget is held.

An import takes seconds and cannot be interrupted. So it runs in a thread: the call keeps its deadline, can be
cancelled, and does not block an event loop.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from dataclasses import dataclass

from llm_connect.engine import price_lists
from llm_connect.engine.deadline import Deadline, timed_out
from llm_connect.engine.exchange import Exchange
from llm_connect.engine.threads import known
from llm_connect.errors import LLMConfigurationError, LLMError
from llm_connect.protocols.wire import Failure, shown


@dataclass(slots=True)
class WarmUp:
    """Prepares the adapter; returns a failure if that is impossible, else None. No deadline means no time limit."""

    adapter: Exchange
    deadline: Deadline | None
    #: True if calls need list prices.
    priced: bool

    def run(self) -> Failure | None:
        try:
            self._begun().result(None if self.deadline is None else self.deadline.remaining())
            self.adapter.make_client()
        except Exception as error:
            return self._failure(error)
        return None

    async def arun(self) -> Failure | None:
        try:
            async with asyncio.timeout(None if self.deadline is None else self.deadline.remaining()):
                await known(self._begun())
                await self.adapter.amake_client()
        except Exception as error:
            return self._failure(error)
        return None

    def _begun(self) -> Future[None]:
        return self.adapter.warming.begin(self._prepare)

    def _prepare(self) -> None:
        if self.priced:
            price_lists.load()
        self.adapter.prepare()

    def _failure(self, error: Exception) -> Failure:
        if self.deadline is not None and self.deadline.passed:
            return timed_out("the packages that the first call needs were not imported in time", maybe_billed=False)
        if isinstance(error, LLMError):
            return Failure(kind=type(error), message=error.message, maybe_billed=False)
        message = f"A package for calls could not be imported ({type(error).__name__}: {shown(error)}): reinstall it."
        return Failure(kind=LLMConfigurationError, message=message, maybe_billed=False)

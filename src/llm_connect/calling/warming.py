"""What a first call needs before it can be made: the SDK, the list prices, a client. All of it before budget is held.

An import takes seconds and cannot be cut short, so it happens in a thread: the deadline and a cancellation are kept,
and an event loop goes on.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llm_connect.calling import prices
from llm_connect.calling.deadline import Deadline
from llm_connect.calling.steps import timed_out
from llm_connect.calling.threads import known
from llm_connect.core.exceptions import LLMConfigurationError, LLMError
from llm_connect.protocols.wire import Failure, shown

if TYPE_CHECKING:
    from concurrent.futures import Future

    from llm_connect.calling.ports import Exchange


@dataclass(slots=True)
class WarmUp:
    """Why the adapter cannot make calls; None when it can. Without a deadline it takes as long as it takes."""

    adapter: Exchange
    deadline: Deadline | None
    #: Whether calls are priced by the list.
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
            prices.load()
        self.adapter.prepare()

    def _failure(self, error: Exception) -> Failure:
        if self.deadline is not None and self.deadline.passed:
            return timed_out("what the first call needs was not imported in time", maybe_billed=False)
        if isinstance(error, LLMError):
            return Failure(kind=type(error), message=error.message, maybe_billed=False)
        message = f"What calls need could not be imported ({type(error).__name__}: {shown(error)}): install it anew."
        return Failure(kind=LLMConfigurationError, message=message, maybe_billed=False)

"""Leases on shared clients, so that closing an adapter breaks no call that is under way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress
from types import TracebackType
from typing import Generic, Self, TypeVar

from llm_connect import _forks
from llm_connect._closing import close_in_loop, is_closed

C = TypeVar("C")


class Lease(Generic[C]):
    """A shared client, closed once: by the last user to give it back after it was let go.

    Nothing here takes a lock, because a finalizer may run while its thread has one. A fork closes nothing.
    """

    def __init__(self, client: C, end: Callable[[], None]) -> None:
        self.client = client
        self._ends = [end]
        self._users: list[None] = []
        self._is_let_go = False
        self._generation = _forks.generation

    def take(self) -> bool:
        """Begin to use it; False if it was let go meanwhile and the caller must use another one."""
        self._users.append(None)
        if self._is_let_go:
            self.give_back()
            return False
        return True

    def take_too(self) -> None:
        """Begin another use while the caller has one."""
        self._users.append(None)

    def __enter__(self) -> C:
        return self.client

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.give_back()

    def give_back(self) -> None:
        """End one use; leaving the `with` block does the same."""
        self._users.pop()
        if self._is_let_go and not self._users:
            self.end()

    def let_go(self) -> None:
        """Stop new uses."""
        self._is_let_go = True
        if not self._users:
            self.end()

    def end(self) -> None:
        """End it now, whoever uses it."""
        if self._generation != _forks.generation:
            _forks.keep_for_parent(self._ends, self.client)
            return
        # Two users may be the last one at the same time.
        with suppress(IndexError):
            self._ends.pop()()

    def __del__(self) -> None:
        # A call was interrupted before it could give back, or an event loop has gone with its tasks.
        self.end()


class LoopLease(Lease[C]):
    """The client of one event loop, which closes it.

    An open async generator notices the end of the loop, because `asyncio.run` closes generators before its loop. If a
    loop ends without that, nothing can be awaited any more, and the connections of the client are abandoned.
    """

    def __init__(self, client: C, keeper: AsyncGenerator[None], abandon: Callable[[C], None]) -> None:
        loop = asyncio.get_running_loop()
        super().__init__(client, lambda: _end_in_loop(loop, keeper, lambda: abandon(client)))
        self._keeper = keeper

    @classmethod
    async def of(cls, client: C, aclose: Callable[[C], Awaitable[None]], abandon: Callable[[C], None]) -> Self:
        """Lease a client of the running loop."""
        keeper = _keep(client, aclose)
        await anext(keeper)
        return cls(client, keeper, abandon)

    async def alet_go(self) -> None:
        """Like `let_go`, and wait until the client is closed, unless it is still in use."""
        if not self._users:
            await self._keeper.aclose()
        self.let_go()


async def _keep(client: C, aclose: Callable[[C], Awaitable[None]]) -> AsyncGenerator[None]:
    try:
        yield
    finally:
        await aclose(client)


def _end_in_loop(loop: asyncio.AbstractEventLoop, keeper: AsyncGenerator[None], abandon: Callable[[], None]) -> None:
    if is_closed(keeper):
        return
    if loop.is_running():
        with suppress(RuntimeError):
            close_in_loop(loop, keeper)
            return
    abandon()
    # Nothing is left to await. If it stayed open, its loop would have to close it, and may never run again.
    with suppress(StopIteration, Exception):
        keeper.aclose().__await__().send(None)

"""Clients that live as long as their adapter: one for all threads, and one for each running event loop."""

from __future__ import annotations

import threading
import weakref
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress
from typing import Generic, TypeVar

from llm_connect.calling.loops import PerLoop

C = TypeVar("C")
A = TypeVar("A")


class Clients(Generic[C, A]):
    """A sync client and an async client per running loop, made on first use and closed with their owner.

    An async client is bound to the loop that made it. An async generator holds it, so the loop itself closes it:
    `asyncio.run` closes open generators before its loop, and a generator that is garbage collected is closed
    by its loop as well. No client outlives its loop and none is closed from outside it.
    """

    def __init__(
        self,
        owner: object,
        *,
        make: Callable[[], C],
        close: Callable[[C], None],
        amake: Callable[[], A],
        aclose: Callable[[A], Awaitable[None]],
    ) -> None:
        self._make, self._close = make, close
        self._amake, self._aclose = amake, aclose
        self._lock = threading.Lock()
        self._sync: list[C] = []
        self._async: PerLoop[tuple[A, AsyncGenerator[A]]] = PerLoop()
        weakref.finalize(owner, _close_all, self._sync, close)

    def sync(self) -> C:
        """The client that all threads share."""
        with suppress(IndexError):
            return self._sync[0]
        with self._lock:
            if not self._sync:
                self._sync.append(self._make())
            return self._sync[0]

    async def of_loop(self) -> A:
        """The client of the running loop."""
        held = self._async.get()
        if held is None:
            keeper = _keep(self._amake(), self._aclose)
            held = self._async.put((await anext(keeper), keeper))
        return held[0]

    def close(self) -> None:
        """Close the sync client; the clients of loops are let go, and each loop closes its own."""
        with self._lock:
            _close_all(self._sync, self._close)
            self._async.clear()

    async def aclose(self) -> None:
        """Close the sync client and wait until the running loop's client is closed."""
        held = self._async.pop()
        if held is not None:
            await held[1].aclose()
        self.close()


async def _keep(client: A, aclose: Callable[[A], Awaitable[None]]) -> AsyncGenerator[A]:
    try:
        yield client
    finally:
        await aclose(client)


def _close_all(clients: list[C], close: Callable[[C], None]) -> None:
    while clients:
        close(clients.pop())

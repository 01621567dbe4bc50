"""The clients of an adapter that sends over HTTP: one for all threads, and one for each running event loop.

They live as long as their adapter. Calls lease them, so that closing an adapter breaks no call that is under way.
"""

from __future__ import annotations

import asyncio
import weakref
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from llm_connect import _forks
from llm_connect._closing import close_in_loop, is_closed
from llm_connect.engine.deadline import note_sent
from llm_connect.engine.exchange import Request
from llm_connect.engine.loops import PerLoop
from llm_connect.protocols.wire import Failure

if TYPE_CHECKING:
    import httpx2


class Carrier(ABC):
    """One SDK or HTTP library: makes and closes its clients, and sends a request once.

    A carrier's module imports its library, so an adapter imports the carrier on first use.

    hidden, ahidden: True if the user's own client hides the sockets of the sync or the async form, so that nobody
    notes when the first byte leaves. Known once a client exists.
    """

    hidden = False
    ahidden = False

    def prepare(self) -> None:  # noqa: B027 - most have nothing more
        """Let the library do the imports of its first client or request now, in any thread."""

    @abstractmethod
    def make(self) -> Any:
        """Make a client for threads."""

    @abstractmethod
    def amake(self) -> Any:
        """Make a client for the running event loop."""

    @abstractmethod
    def close(self, client: Any) -> None:
        """Close a client of `make`."""

    @abstractmethod
    async def aclose(self, client: Any) -> None:
        """Close a client of `amake`."""

    @abstractmethod
    def send(self, client: Any, request: Request, *, stream: bool) -> httpx2.Response:
        """Send once and read the whole reply, or only its head; the sockets obey the deadline of the call."""

    @abstractmethod
    async def asend(self, client: Any, request: Request, *, stream: bool) -> httpx2.Response:
        """Like `send`; the caller bounds it with a timeout."""

    @abstractmethod
    def abandon(self, client: Any) -> None:
        """Close the connections of a client of `amake` after its loop is gone, when nothing can be awaited."""

    @abstractmethod
    def failure_of(self, error: Exception) -> Failure:
        """Translate an exception of these methods, or of reading an open reply."""


class Lease:
    """A shared client, closed once: by the last user to give it back after it was let go.

    Nothing here takes a lock, because a finalizer may run while its thread has one. A fork closes nothing.
    """

    def __init__(self, client: Any, end: Callable[[], None]) -> None:
        self.client: Any = client
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

    def shared(self) -> Callable[[], None]:
        """Begin another use while the caller has one; return the function that ends it."""
        self._users.append(None)
        return self.give_back

    def __enter__(self) -> Any:
        return self.client

    def __exit__(self, *_: object) -> None:
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


class LoopLease(Lease):
    """The client of one event loop, which closes it.

    An open async generator notices the end of the loop, because `asyncio.run` closes generators before its loop. If a
    loop ends without that, nothing can be awaited any more, and the connections of the client are abandoned.
    """

    def __init__(self, client: Any, keeper: AsyncGenerator[None], abandon: Callable[[Any], None]) -> None:
        loop = asyncio.get_running_loop()
        super().__init__(client, lambda: _end_in_loop(loop, keeper, lambda: abandon(client)))
        self._keeper = keeper

    @classmethod
    async def of(cls, carrier: Carrier) -> LoopLease:
        """Lease a new client of the running loop."""
        client = carrier.amake()
        keeper = _keep(client, carrier)
        await anext(keeper)
        return cls(client, keeper, carrier.abandon)

    async def alet_go(self) -> None:
        """Like `let_go`, and wait until the client is closed, unless it is still in use."""
        if not self._users:
            await self._keeper.aclose()
        self.let_go()


async def _keep(client: Any, carrier: Carrier) -> AsyncGenerator[None]:
    try:
        yield
    finally:
        await carrier.aclose(client)


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


class Clients:
    """A sync client and an async client per running loop, made on first use and closed with their owner.

    A fork makes its own clients. It neither uses nor closes those of its parent, whose sockets it shares.
    """

    def __init__(self, owner: object, carrier: Carrier) -> None:
        self.carrier: Carrier = carrier
        self._first_use = _forks.ForkLock()
        self._kept = _Kept()
        weakref.finalize(owner, self._end)

    def lease(self) -> Lease:
        """Lease the client that all threads share. Give it back afterwards."""
        lease = self._of_this_process().shared or self._made()
        while not lease.take():
            lease = self._made()
        if self.carrier.hidden:
            note_sent()
        return lease

    async def lease_in_loop(self) -> LoopLease:
        """Lease the client of the running loop. Give it back afterwards."""
        loops = self._of_this_process().loops
        lease = loops.get()
        if lease is None or not lease.take():
            lease = loops.put(await LoopLease.of(self.carrier))
            lease.take()
        if self.carrier.ahidden:
            note_sent()
        return lease

    def close(self) -> None:
        """Let the clients go. Their last users close them; each loop closes its own."""
        for lease in self._taken_out():
            lease.let_go()

    def _end(self) -> None:
        """Nobody can use them any more: their owner is gone, or the process ends with a stream left open."""
        for lease in self._taken_out():
            lease.end()

    def _taken_out(self) -> list[Lease]:
        kept = self._of_this_process()
        shared, kept.shared = kept.shared, None
        return [*kept.loops.pop_all(), *([] if shared is None else [shared])]

    async def aclose(self) -> None:
        """Like `close`, and wait until the running loop's client is closed, unless it is still in use."""
        lease = self._of_this_process().loops.pop()
        if lease is not None:
            await lease.alet_go()
        self.close()

    def _made(self) -> Lease:
        with self._first_use:
            kept = self._of_this_process()
            if kept.shared is None:
                client = self.carrier.make()
                kept.shared = Lease(client, lambda: self.carrier.close(client))
            return kept.shared

    def _of_this_process(self) -> _Kept:
        if self._kept.generation != _forks.generation:
            with self._first_use:
                if self._kept.generation != _forks.generation:
                    _forks.keep_for_parent(self._kept)
                    self._kept = _Kept()
        return self._kept


class _Kept:
    """The clients of one process."""

    def __init__(self) -> None:
        self.generation = _forks.generation
        self.shared: Lease | None = None
        self.loops: PerLoop[LoopLease] = PerLoop()

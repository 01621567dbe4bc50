"""Clients that live as long as their adapter: one for all threads, and one for each running event loop."""

from __future__ import annotations

import weakref
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

from llm_connect import _forks
from llm_connect.engine.client_leases import Lease, LoopLease
from llm_connect.engine.loops import PerLoop

C = TypeVar("C")
A = TypeVar("A")


class Clients(Generic[C, A]):
    """A sync client and an async client per running loop, made on first use and closed with their owner.

    A fork makes its own clients. It neither uses nor closes those of its parent, whose sockets it shares.
    """

    def __init__(
        self,
        owner: object,
        *,
        make: Callable[[], C],
        close: Callable[[C], None],
        amake: Callable[[], A],
        aclose: Callable[[A], Awaitable[None]],
        abandon: Callable[[A], None],
    ) -> None:
        self._make, self._close = make, close
        self._amake, self._aclose, self._abandon = amake, aclose, abandon
        self._first_use = _forks.ForkLock()
        self._kept: _Kept[C, A] = _Kept()
        weakref.finalize(owner, self._end)

    def lease(self) -> Lease[C]:
        """Lease the client that all threads share. Give it back afterwards."""
        while True:
            lease = self._of_this_process().shared or self._made()
            if lease.take():
                return lease

    async def lease_in_loop(self) -> LoopLease[A]:
        """Lease the client of the running loop. Give it back afterwards."""
        loops = self._of_this_process().loops
        lease = loops.get()
        if lease is None or not lease.take():
            lease = loops.put(await LoopLease.of(self._amake(), self._aclose, self._abandon))
            lease.take()
        return lease

    def close(self) -> None:
        """Let the clients go. Their last users close them; each loop closes its own."""
        for lease in self._taken_out():
            lease.let_go()

    def _end(self) -> None:
        """Nobody can use them any more: their owner is gone, or the process ends with a stream left open."""
        for lease in self._taken_out():
            lease.end()

    def _taken_out(self) -> list[Lease[Any]]:
        kept = self._of_this_process()
        shared, kept.shared = kept.shared, None
        return [*kept.loops.pop_all(), *([] if shared is None else [shared])]

    async def aclose(self) -> None:
        """Like `close`, and wait until the running loop's client is closed, unless it is still in use."""
        lease = self._of_this_process().loops.pop()
        if lease is not None:
            await lease.alet_go()
        self.close()

    def _made(self) -> Lease[C]:
        with self._first_use:
            kept = self._of_this_process()
            if kept.shared is None:
                client = self._make()
                kept.shared = Lease(client, lambda: self._close(client))
            return kept.shared

    def _of_this_process(self) -> _Kept[C, A]:
        if self._kept.generation != _forks.generation:
            with self._first_use:
                if self._kept.generation != _forks.generation:
                    _forks.keep_for_parent(self._kept)
                    self._kept = _Kept()
        return self._kept


class _Kept(Generic[C, A]):
    """The clients of one process."""

    def __init__(self) -> None:
        self.generation = _forks.generation
        self.shared: Lease[C] | None = None
        self.loops: PerLoop[LoopLease[A]] = PerLoop()

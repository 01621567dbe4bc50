"""A limit on the requests that one adapter has under way at once."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

from llm_connect.calling.deadline import Deadline
from llm_connect.calling.loops import PerLoop
from llm_connect.core import forks
from llm_connect.core.models import check_count

Release = Callable[[], None]


class Slots:
    """`limit` places for all threads together, and as many again for each event loop.

    A loop cannot wait for a thread without a thread of its own, so loops and threads do not share places.
    """

    def __init__(self, limit: int) -> None:
        check_count("max_concurrency", limit, least=1)
        self.limit = limit
        #: By the generation of the process: a fork finds all places free, whoever had them in its parent.
        self._threads = {forks.generation: threading.BoundedSemaphore(limit)}
        self._loops: PerLoop[asyncio.BoundedSemaphore] = PerLoop()

    def take(self, deadline: Deadline) -> Release | None:
        """Wait for a place and return what gives it back; None when the deadline came first."""
        places = self._threads.get(forks.generation) or self._threads.setdefault(
            forks.generation, threading.BoundedSemaphore(self.limit)
        )
        if places.acquire(blocking=False) or places.acquire(timeout=min(deadline.remaining(), threading.TIMEOUT_MAX)):
            return places.release
        return None

    async def atake(self, deadline: Deadline) -> Release | None:
        """Like `take`, for a coroutine."""
        places = self._loops.get()
        if places is None:
            places = self._loops.put(asyncio.BoundedSemaphore(self.limit))
        if not places.locked():
            await places.acquire()
            return places.release
        try:
            async with asyncio.timeout(deadline.remaining()):
                await places.acquire()
        except TimeoutError:
            return None
        return places.release

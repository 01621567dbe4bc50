"""The limit on one adapter's concurrent requests, and the queue before it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from math import inf

from llm_connect import _forks
from llm_connect._validation import check_count
from llm_connect.engine.deadline import timed_out
from llm_connect.engine.loops import PerLoop
from llm_connect.errors import LLMTimeoutError
from llm_connect.protocols.wire import Failure

#: For this long after its deadline a call may still be giving its slot back.
_TO_GIVE_BACK_SECONDS = 2.0


@dataclass(slots=True, eq=False)
class Turn:
    """The turn of a call: its position in the queue, and then its slot.

    seconds: the longest that it will hold a slot. until: the moment until which it waits for one.
    first: True if it goes before calls that have not begun. waited: the seconds for which it was in the queue.
    """

    seconds: float
    until: float = inf
    first: bool = False
    waited: float = 0.0
    #: True while it has a slot.
    granted: bool = False
    places: _Places | None = None
    came: float = 0.0
    wake: Callable[[], object] = bool

    def give_back(self) -> None:
        """Give the slot to the next call; a no-op the second time."""
        if self.granted and self.places is not None:
            self.granted = False
            self.places.give()


class Slots:
    """`limit` slots for all threads together, and as many again for each event loop.

    A loop cannot wait for a thread without a thread of its own, so loops and threads do not share slots. A call waits
    as long as its turn says, but not for ever: once every call with a slot is long overdue, no slot will come free.
    """

    def __init__(self, limit: int) -> None:
        check_count("max_concurrency", limit, least=1)
        self.limit = limit
        #: By the generation of the process: in a fork all slots are free, whoever had them in its parent.
        self._threads = {_forks.generation: _Places(limit)}
        self._loops: PerLoop[_Places] = PerLoop()

    def take(self, turn: Turn) -> Turn | None:
        """Take a slot as soon as one is free; None if none is free in time."""
        process = _forks.generation
        places = self._threads.get(process) or self._threads.setdefault(process, _Places(self.limit))
        if places.take(turn):
            return turn
        came = threading.Event()
        try:
            places.join(turn, came.set)
            while not turn.granted and (seconds := places.seconds_left(turn)) > 0:
                came.wait(min(seconds, threading.TIMEOUT_MAX))
        except BaseException:
            places.give_up(turn)
            raise
        return places.leave(turn)

    async def atake(self, turn: Turn) -> Turn | None:
        """Like `take`, for a coroutine."""
        places = self._loops.get()
        if places is None:
            places = self._loops.put(_Places(self.limit))
        if places.take(turn):
            return turn
        came = asyncio.Event()
        try:
            places.join(turn, partial(_call_in, asyncio.get_running_loop(), came.set))
            while not turn.granted and (seconds := places.seconds_left(turn)) > 0:
                with suppress(TimeoutError):
                    async with asyncio.timeout(seconds):
                        await came.wait()
        except BaseException:
            places.give_up(turn)
            raise
        return places.leave(turn)


@dataclass(slots=True)
class TakeSlot:
    """Takes one of the adapter's concurrency slots, or fails."""

    slots: Slots
    turn: Turn
    limit: str = "max_queue_seconds"

    def run(self) -> Turn | Failure:
        return self.slots.take(self.turn) or self._failure()

    async def arun(self) -> Turn | Failure:
        return await self.slots.atake(self.turn) or self._failure()

    def _failure(self) -> Failure:
        if time.monotonic() >= self.turn.until:
            what = "no concurrency slot of the adapter came free"
            return timed_out(what, maybe_billed=False, limit=self.limit)
        message = (
            "Streams that are past their own deadlines hold all concurrency slots of the adapter: "
            "close streams, or raise max_concurrency."
        )
        return Failure(kind=LLMTimeoutError, message=message, maybe_billed=False)


class _Places:
    """Slots of one side. A slot that comes free goes to the next call in the queue, so nobody overtakes."""

    def __init__(self, limit: int) -> None:
        # A finalizer may give a slot back while its own thread is in here.
        self._lock = threading.RLock()
        self._free = limit
        self._first: deque[Turn] = deque()
        self._others: deque[Turn] = deque()
        #: The moment by which every call with a slot should be over.
        self._over_at = 0.0

    def take(self, turn: Turn) -> bool:
        with self._lock:
            if self._free == 0:
                return False
            self._free -= 1
            self._grant(turn)
            return True

    def join(self, turn: Turn, wake: Callable[[], object]) -> None:
        turn.came, turn.wake = time.monotonic(), wake
        with self._lock:
            if not self.take(turn):
                (self._first if turn.first else self._others).append(turn)

    def give(self) -> None:
        with self._lock:
            queue = self._first or self._others
            if queue:
                self._grant(queue.popleft())
            else:
                self._free += 1

    def leave(self, turn: Turn) -> Turn | None:
        """Leave the queue with the slot that was given; None if there is none."""
        with self._lock:
            if turn.granted:
                turn.waited = time.monotonic() - turn.came
                return turn
            with suppress(ValueError):
                (self._first if turn.first else self._others).remove(turn)
            return None

    def give_up(self, turn: Turn) -> None:
        """End an interrupted wait, and pass on a slot that has just been given."""
        if self.leave(turn) is not None:
            turn.give_back()

    def seconds_left(self, turn: Turn) -> float:
        """The seconds for which waiting makes sense, by present knowledge."""
        return min(turn.until, self._over_at + _TO_GIVE_BACK_SECONDS) - time.monotonic()

    def _grant(self, turn: Turn) -> None:
        turn.granted, turn.places = True, self
        self._over_at = max(self._over_at, time.monotonic() + turn.seconds)
        turn.wake()


def _call_in(loop: asyncio.AbstractEventLoop, function: Callable[[], object]) -> None:
    # A waiter whose loop is closed has left.
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(function)

"""Runs several strands side by side in one call, each waiting for its own sockets and pipes.

A strand is a generator that never blocks: it yields the files that it waits for, or a pause, and goes on when the first
of them is ready or over.
All strands of a call share one selector. A thread waits on it, and an event loop watches it as one more file. So both
forms of a call run the same code, without a thread or a task that could outlive it.
"""

from __future__ import annotations

import asyncio
import selectors
import socket
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeAlias

from llm_connect.engine.deadline import Deadline
from llm_connect.protocols.wire import Failure

READ = selectors.EVENT_READ
WRITE = selectors.EVENT_WRITE


class RunFailed(Exception):
    """The run of a command cannot go on; `failure` is its meaning for the call."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


@dataclass(frozen=True, slots=True)
class Pause:
    """A wait without a file."""

    seconds: float


#: A strand's wait: files, each with READ or WRITE, and pauses. The first one that is ready or over wakes the strand.
Wants: TypeAlias = tuple[tuple[int | socket.socket, int] | Pause, ...]
Strand: TypeAlias = Generator[Wants, None, Any]

#: The longest wait: `poll` takes milliseconds as a C int.
_LONGEST_WAIT_SECONDS = 1_000_000.0


class Strands:
    """The strands of one call; leaving the `with` block closes those that have not ended.

        with Strands() as strands:
            strands.start(strand)
            strands.run(lambda: done, deadline)

    An exception of a strand ends `run`. Closing awaits nothing, so it works even after the event loop is gone.
    """

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._waiting: dict[Strand, Wants] = {}
        self._pauses: dict[Strand, float] = {}

    def start(self, strand: Strand) -> None:
        """Run `strand` up to its first wait."""
        self._resume(strand)

    def run(self, done: Callable[[], bool], deadline: Deadline) -> None:
        """Run all strands until `done()`. Raises TimeoutError at the deadline."""
        while not done():
            ready = self._selector.select(min(seconds_left(deadline), self._next_pause()))
            # Even if something is ready: a file that always is must not hold the call beyond its deadline.
            if deadline.passed:
                raise TimeoutError
            self._turn(ready)

    async def arun(self, done: Callable[[], bool]) -> None:
        """Like `run`, for a coroutine; the caller bounds it with a timeout."""
        loop = asyncio.get_running_loop()
        ready = asyncio.Event()
        # Every selector of Linux, macOS and the BSDs is a file that can be watched itself.
        watched = self._selector.fileno()  # type: ignore[attr-defined,unused-ignore]
        loop.add_reader(watched, ready.set)
        try:
            while not done():
                alarm = loop.call_later(self._next_pause(), ready.set) if self._pauses else None
                try:
                    await ready.wait()
                finally:
                    if alarm is not None:
                        alarm.cancel()
                ready.clear()
                self._turn(self._selector.select(0))
        finally:
            if not loop.is_closed():
                loop.remove_reader(watched)

    def close(self) -> None:
        """Close all strands, and their resources with them."""
        waiting, self._waiting = self._waiting, {}
        for strand in waiting:
            strand.close()
        self._selector.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _turn(self, ready: list[tuple[selectors.SelectorKey, int]]) -> None:
        over = [strand for strand, at in self._pauses.items() if at <= time.monotonic()] if self._pauses else []
        for strand in dict.fromkeys((*(key.data for key, _ in ready), *over)):
            # A strand that ran before it may have ended it.
            if strand in self._waiting:
                self._resume(strand)

    def end(self, strand: Strand) -> None:
        """Close a waiting strand, and its resources with it."""
        self._forget(strand)
        strand.close()

    def _resume(self, strand: Strand) -> None:
        self._forget(strand)
        wants = next(strand, None)
        if wants is not None:
            self._waiting[strand] = wants
            for want in wants:
                if isinstance(want, Pause):
                    self._pauses[strand] = time.monotonic() + want.seconds
                else:
                    self._selector.register(*want, strand)

    def _forget(self, strand: Strand) -> None:
        self._pauses.pop(strand, None)
        for want in self._waiting.pop(strand, ()):
            if not isinstance(want, Pause):
                self._selector.unregister(want[0])

    def _next_pause(self) -> float:
        """Seconds until the first pause ends; without a pause, the longest possible wait."""
        if not self._pauses:
            return _LONGEST_WAIT_SECONDS
        return max(0.0, min(self._pauses.values()) - time.monotonic())


def seconds_left(deadline: Deadline) -> float:
    """The rest of the deadline, capped to the system's longest wait."""
    return min(deadline.remaining(), _LONGEST_WAIT_SECONDS)

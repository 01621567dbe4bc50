"""Several things done side by side in one call, each waiting for its own sockets and pipes.

A strand is a generator that never blocks: it yields the files that it waits for, and goes on when one of them is ready.
All strands of a call wait on one selector, which a thread waits on itself and an event loop watches as one more file.
So both forms of a call run the same code, without a thread or a task that could outlive it.
"""

from __future__ import annotations

import asyncio
import selectors
import socket
from collections.abc import Callable, Generator
from types import TracebackType
from typing import Any, Self, TypeAlias

from llm_connect.calling.deadline import Deadline

READ = selectors.EVENT_READ
WRITE = selectors.EVENT_WRITE

#: What a strand waits for: files, each with READ or WRITE. The first that is ready wakes it.
Wants: TypeAlias = tuple[tuple[int | socket.socket, int], ...]
Strand: TypeAlias = Generator[Wants, None, Any]

#: What `poll` takes at most, in milliseconds, is a C int.
_LONGEST_WAIT_SECONDS = 1_000_000.0


class Strands:
    """The strands of one call; leaving its `with` block closes all that are not at their end.

        with Strands() as strands:
            strands.start(strand)
            strands.run(lambda: done, deadline)

    What a strand raises ends `run`. Closing awaits nothing, so it also works where the event loop is gone.
    """

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._waiting: dict[Strand, Wants] = {}

    def start(self, strand: Strand) -> None:
        """Run `strand` up to where it first waits."""
        self._resume(strand)

    def run(self, done: Callable[[], bool], deadline: Deadline) -> None:
        """Run all strands until `done()`. Raises TimeoutError at the deadline."""
        while not done():
            ready = self._selector.select(seconds_left(deadline))
            # Whether or not something is ready: a file that always is must not hold the call beyond its deadline.
            if deadline.passed:
                raise TimeoutError
            self._turn(ready)

    async def arun(self, done: Callable[[], bool]) -> None:
        """Like `run`, for a coroutine, whose caller bounds it in time."""
        loop = asyncio.get_running_loop()
        ready = asyncio.Event()
        # Every selector of Linux, macOS and the BSDs is a file that can be watched itself.
        watched = self._selector.fileno()  # type: ignore[attr-defined,unused-ignore]
        loop.add_reader(watched, ready.set)
        try:
            while not done():
                await ready.wait()
                ready.clear()
                self._turn(self._selector.select(0))
        finally:
            if not loop.is_closed():
                loop.remove_reader(watched)

    def close(self) -> None:
        """Close all strands, and with them what they hold."""
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
        for strand in dict.fromkeys(key.data for key, _ in ready):
            self._resume(strand)

    def _resume(self, strand: Strand) -> None:
        for file, _ in self._waiting.pop(strand, ()):
            self._selector.unregister(file)
        wants = next(strand, None)
        if wants is not None:
            for file, events in wants:
                self._selector.register(file, events, strand)
            self._waiting[strand] = wants


def seconds_left(deadline: Deadline) -> float:
    """What is left of the deadline, as the operating system takes it for one wait."""
    return min(deadline.remaining(), _LONGEST_WAIT_SECONDS)

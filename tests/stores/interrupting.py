"""Exceptions during an exchange with a server, injected line by line or raised by real signals."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from llm_connect.stores.redis.server import Server

#: The code that sends a command and reads its answer, down to the socket.
EXCHANGE = ("stores/redis/server.py", "redis/connection.py", "redis/_parsers/")


class Interruption(BaseException):
    """The exception of an interruption, which no code expects."""


def in_exchange(frame: FrameType | None) -> bool:
    """True if `frame` belongs to a command or was called by it."""
    while frame is not None:
        if frame.f_code is Server.patiently.__code__:
            return True
        frame = frame.f_back
    return False


class Injector:
    """Raises at the line with this number among those of an exchange; only counts them without a number."""

    def __init__(self, at: int | None = None) -> None:
        self._at = at
        self.passed = 0

    def run(self, work: Callable[[], Any]) -> bool:
        """Do `work`; return True if it was interrupted."""
        before = sys.gettrace()
        sys.settrace(self._called)
        try:
            work()
        except Interruption:
            return True
        finally:
            sys.settrace(before)
        return False

    def _called(self, frame: FrameType, event: str, argument: Any) -> Any:
        name = frame.f_code.co_filename.replace("\\", "/")
        return self._line if any(part in name for part in EXCHANGE) and in_exchange(frame) else None

    def _line(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event == "line":
            self.passed += 1
            if self.passed == self._at:
                raise Interruption
        return self._line


@contextmanager
def alarms() -> Iterator[tuple[Callable[[float], object], Callable[[], int]]]:
    """Give two functions: set an alarm that interrupts an exchange with a server, and count the interruptions."""
    number = 0

    def interrupt(_: int, frame: FrameType | None) -> None:
        nonlocal number
        if in_exchange(frame):
            number += 1
            raise Interruption

    assert threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        yield lambda seconds: signal.setitimer(signal.ITIMER_REAL, seconds), lambda: number
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)

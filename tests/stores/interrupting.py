"""Exceptions in the midst of what is said to a server: injected line by line, or raised by real signals."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from llm_connect.stores.redis.server import Server

#: Where a command is sent and its answer is read, down to the socket.
EXCHANGE = ("stores/redis/server.py", "redis/connection.py", "redis/_parsers/")


class Interruption(BaseException):
    """What nobody expects."""


def in_exchange(frame: FrameType | None) -> bool:
    """Whether `frame` is in the midst of a command, or below it."""
    while frame is not None:
        if frame.f_code is Server.patiently.__code__:
            return True
        frame = frame.f_back
    return False


class Injector:
    """Raises at the line with this number of those that an exchange passes; counts them when there is none."""

    def __init__(self, at: int | None = None) -> None:
        self._at = at
        self.passed = 0

    def run(self, work: Callable[[], Any]) -> bool:
        """Do `work`; whether it was interrupted."""
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
    """Sets an alarm that interrupts what is said to a server then; and how often one has."""
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

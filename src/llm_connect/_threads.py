"""Daemon threads whose start cannot hang.

`Thread.start` waits without a timeout until the new thread has begun. For a moment CPython gives the new thread the id
of its starter, so an exception that a third thread throws into the starter (`PyThreadState_SetAsyncExc`) may hit the
new thread instead. Then the new thread dies before it has begun, and its starter waits for ever, with all its locks.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any

#: Much longer than a thread needs to begin on a busy machine.
LONGEST_START_SECONDS = 5.0


class StartLock:
    """Guards the start of a thread. An interrupted caller cannot lock it permanently.

    An exception just before the release leaves a lock locked. The next caller replaces it once no start can still run.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def take(self) -> threading.Lock:
        """Return the lock, locked: the caller releases it."""
        while not (lock := self._lock).acquire(timeout=3 * LONGEST_START_SECONDS):
            # Of several callers that gave up together, one replaces it, and the others wait for the new one.
            if self._lock is lock:
                self._lock = threading.Lock()
        return lock


class DaemonThread(threading.Thread):
    """A daemon thread whose `start` waits for a limited time. Afterwards `is_alive` is False if it has not begun."""

    def __init__(self, target: Callable[..., object], *, name: str, args: Iterable[Any] = ()) -> None:
        super().__init__(target=target, name=name, args=args, daemon=True)
        self._started = _BoundedEvent()
        self._late = False

    def start(self) -> None:
        super().start()
        self._late = not self.is_alive()

    def run(self) -> None:
        # The starter has given up and may have started another thread.
        if not self._late:
            super().run()


class _BoundedEvent(threading.Event):
    def wait(self, timeout: float | None = None) -> bool:
        return super().wait(LONGEST_START_SECONDS if timeout is None else timeout)

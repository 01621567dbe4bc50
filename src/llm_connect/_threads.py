"""Daemon threads whose start cannot hang.

`Thread.start` waits for the first sign of the new thread, however long that takes. An exception that another thread
throws into the starting one (`PyThreadState_SetAsyncExc`) may hit the new one instead, because CPython gives it the id
of its starter for a moment. Then it dies before its first sign, and its starter would wait for ever, with whatever lock
it has.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any

#: Far longer than a thread needs to begin on a busy machine.
_LONGEST_START_SECONDS = 5.0


class DaemonThread(threading.Thread):
    """A daemon thread that its starter waits for only a while. Afterwards `is_alive` says whether it has begun."""

    def __init__(self, target: Callable[..., object], *, name: str, args: Iterable[Any] = ()) -> None:
        super().__init__(target=target, name=name, args=args, daemon=True)
        self._started = _BoundedEvent()
        self._late = False

    def start(self) -> None:
        super().start()
        self._late = not self.is_alive()

    def run(self) -> None:
        # Its starter may have started another one.
        if not self._late:
            super().run()


class _BoundedEvent(threading.Event):
    def wait(self, timeout: float | None = None) -> bool:
        return super().wait(_LONGEST_START_SECONDS if timeout is None else timeout)

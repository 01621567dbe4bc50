"""What goes out to a user's callbacks once the lock is let go: entries to the sink, thresholds that were reached."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

_log = logging.getLogger("llm_connect")


class Outbox:
    """Calls that are to be made outside of the lock, in the order in which they were put in, one at a time.

    A callback that fails is logged, and disturbs nobody's call. One that uses the budget itself is not called
    again before it is over. A wish to end the program waits for the next call, because raised here it would take away
    an answer that is paid for.
    """

    def __init__(self) -> None:
        #: What callbacks have raised to end the program.
        self.owed: deque[SystemExit | KeyboardInterrupt] = deque()
        self.calls: deque[tuple[Callable[[Any], object], Callable[[], Any]]] = deque()
        self._delivering = threading.Lock()

    def put(self, callback: Callable[[Any], object], argument: Callable[[], Any]) -> None:
        """Let `callback` be called with what `argument` gives then."""
        self.calls.append((callback, argument))

    def deliver(self) -> None:
        """Make the calls, unless they are being made already: then that goes on until none is left."""
        while self.calls and self._delivering.acquire(blocking=False):
            try:
                while self.calls:
                    with suppress(IndexError):
                        self._call(*self.calls.popleft())
            finally:
                self._delivering.release()

    def raise_owed(self) -> None:
        """Raise what a callback has raised to end the program, each once; nothing is on its way that could be lost."""
        with suppress(IndexError):
            raise self.owed.popleft()

    def _call(self, callback: Callable[[Any], object], argument: Callable[[], Any]) -> None:
        try:
            callback(argument())
        except BaseException as error:
            _log.exception("A callback of a budget failed; the call that it is about is not affected.")
            if isinstance(error, SystemExit | KeyboardInterrupt):
                self.owed.append(error)

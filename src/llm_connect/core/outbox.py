"""What goes out to a user's callbacks once the lock is let go: entries to the sink, thresholds that were reached."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from llm_connect.core.locks import TreeLock

_log = logging.getLogger("llm_connect")
_FAILED = "A callback of a budget failed; the call that it is about is not affected."


class Outbox:
    """Calls that are to be made outside of the lock, in the order in which they were put in, one at a time.

    A callback that fails is logged, and disturbs nobody's call. One that uses the budget itself is not called
    again before it is over. A wish to end the program waits for the next call, because raised here it would take away
    an answer that is paid for.

    A call stays here until it is over: after an interruption it may be made again, and is never forgotten.
    """

    def __init__(self) -> None:
        #: What callbacks have raised to end the program.
        self.owed: deque[SystemExit | KeyboardInterrupt] = deque()
        #: Each with what it is about.
        self.calls: deque[tuple[Callable[[Any], object], Callable[[], Any], object]] = deque()
        self._delivering = TreeLock()

    def put(self, callback: Callable[[Any], object], argument: Callable[[], Any], about: object) -> None:
        """Let `callback` be called with what `argument` gives then."""
        self.calls.append((callback, argument, about))

    def has(self, about: object) -> bool:
        """Whether a call about this very thing is to come."""
        return any(each is about for _, _, each in list(self.calls))

    def deliver(self) -> None:
        """Make the calls, unless they are being made already: then that goes on until none is left."""
        lock = self._delivering
        if lock.owned():
            return
        while self.calls:
            try:
                if not lock.take(False):
                    return
                while self.calls:
                    callback, argument, _ = self.calls[0]
                    self._call(callback, argument)
                    self.calls.popleft()
            finally:
                try:
                    lock.release()
                except BaseException as error:
                    if lock.let_go(error):
                        raise

    def raise_owed(self) -> None:
        """Raise what a callback has raised to end the program, each once; nothing is on its way that could be lost."""
        with suppress(IndexError):
            raise self.owed.popleft()

    def _call(self, callback: Callable[[Any], object], argument: Callable[[], Any]) -> None:
        try:
            told = argument()
        except Exception:
            _log.exception(_FAILED)
            return
        try:
            callback(told)
        except BaseException as error:
            if not isinstance(error, Exception) and error.__traceback__ is not None and not error.__traceback__.tb_next:
                # It came from outside, before or behind the callback: the call stays here.
                raise
            _log.exception(_FAILED)
            if isinstance(error, SystemExit | KeyboardInterrupt):
                self.owed.append(error)

"""What goes out to a user's callbacks once the lock is let go: entries to the sink, thresholds that were reached."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from llm_connect.budget.admission.backoff_lock import TreeLock
from llm_connect.budget.admission.log import Owed, write

_FAILED = "A callback of a budget failed; the call that it is about is not affected."


class Outbox:
    """Calls that are to be made outside of the lock, in the order in which they were put in, one at a time.

    A callback that fails is logged, and disturbs nobody's call. One that uses the budget itself is not called
    again before it is over. A wish to end the program waits for the next call, because raised here it would take away
    an answer that is paid for.

    A call stays here until it is over: after an interruption it may be made again, and is never forgotten. So one that
    ends by Ctrl-C, too deep a recursion or a lack of memory is made once more, by the next operation.
    """

    def __init__(self) -> None:
        #: What callbacks have raised to end the program.
        self.owed: Owed = deque()
        #: Each with what it is about.
        self.calls: deque[tuple[Callable[[Any], object], Callable[[], Any], object]] = deque()
        self._delivering = TreeLock()
        #: What the call was about that is made once more.
        self._failed: object = None

    def put(self, callback: Callable[[Any], object], argument: Callable[[], Any], about: object) -> None:
        """Let `callback` be called with what `argument` gives then."""
        self.calls.append((callback, argument, about))

    def has(self, about: object) -> bool:
        """Whether a call about this very thing is to come."""
        return any(each is about for _, _, each in list(self.calls))

    def deliver(self) -> None:
        """Make the calls, unless they are being made already: then that goes on until none is left."""
        lock = self._delivering
        if lock.owned() and not lock.left:
            return
        while self.calls:
            try:
                if not lock.take(False):
                    return
                while self.calls:
                    if not self._call(*self.calls[0]):
                        return
                    self.calls.popleft()
            finally:
                try:
                    lock.release()
                except BaseException as error:
                    lock.let_go(error)

    def raise_owed(self) -> None:
        """Raise what a callback has raised to end the program, each once; nothing is on its way that could be lost."""
        with suppress(IndexError):
            raise self.owed.popleft()

    def _call(self, callback: Callable[[Any], object], argument: Callable[[], Any], about: object) -> bool:
        """Make a call; whether it is over, or else is to be made again."""
        try:
            callback(argument())
        except BaseException as error:
            write(logging.ERROR, _FAILED, owed=self.owed, exc_info=True)
            return self._over(error, about)
        return True

    def _over(self, error: BaseException, about: object) -> bool:
        """Whether a call is over by `error`: not when that may have come before it began, unless it comes again."""
        again = self._failed is about
        if isinstance(error, SystemExit | KeyboardInterrupt) and not again:
            self.owed.append(error)
        if isinstance(error, MemoryError | RecursionError) or not isinstance(error, Exception | SystemExit):
            self._failed = about
            return again
        return True

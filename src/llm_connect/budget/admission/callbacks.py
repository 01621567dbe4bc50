"""Calls of users' callbacks after the lock is released: entries to the sink, and thresholds."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from llm_connect.budget.admission.backoff_lock import TreeLock
from llm_connect.budget.admission.log import CALLBACK_FAILED, Owed, log_event


class Outbox:
    """A queue of callbacks that run outside of the lock, in order and one at a time.

    The failure of a callback is logged and affects no LLM call. A callback that uses the budget itself is not entered a
    second time before it returns. If a callback raises SystemExit or KeyboardInterrupt, the next call raises that:
    raised here, it would discard an answer that is paid for.

    A callback stays in the queue until it has returned, so an interruption may repeat it but never drops it. The next
    operation repeats a callback once if it ended by Ctrl-C, a RecursionError or a MemoryError.
    """

    def __init__(self) -> None:
        #: SystemExit and KeyboardInterrupt exceptions of callbacks, which the next call raises.
        self.owed: Owed = deque()
        #: For each callback: itself, a function that makes its argument, and its subject.
        self.calls: deque[tuple[Callable[[Any], object], Callable[[], Any], object]] = deque()
        self._delivering = TreeLock()
        #: The subject of the callback that will be repeated.
        self._failed: object = None

    def put(self, callback: Callable[[Any], object], argument: Callable[[], Any], about: object) -> None:
        """Queue a call of `callback` with the result of `argument`, which is called at that time."""
        self.calls.append((callback, argument, about))

    def has(self, about: object) -> bool:
        """True if a callback about this object is queued."""
        return any(each is about for _, _, each in list(self.calls))

    def deliver(self) -> None:
        """Run all queued callbacks, unless another thread or an outer frame is already doing so."""
        # A local of this name means that a frame is using the lock.
        if self._delivering.owned() and not self._delivering.left:
            return
        lock = self._delivering
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
        """Raise a SystemExit or KeyboardInterrupt of a callback, each once, before anything is held or sent."""
        with suppress(IndexError):
            raise self.owed.popleft()

    def _call(self, callback: Callable[[Any], object], argument: Callable[[], Any], about: object) -> bool:
        """Run a callback; False if it must be repeated."""
        try:
            callback(argument())
        except BaseException as error:
            log_event(CALLBACK_FAILED, self.owed)
            return self._over(error, about)
        return True

    def _over(self, error: BaseException, about: object) -> bool:
        """True if `error` has ended a callback. False, once, if the error may have come before the callback began."""
        again = self._failed is about
        if isinstance(error, SystemExit | KeyboardInterrupt) and not again:
            self.owed.append(error)
        if isinstance(error, MemoryError | RecursionError) or not isinstance(error, Exception | SystemExit):
            self._failed = about
            return again
        return True

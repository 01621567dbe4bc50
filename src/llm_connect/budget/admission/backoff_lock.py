"""The lock of a tree of trackers: for what takes microseconds, and for many threads at once."""

from __future__ import annotations

import re
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from llm_connect import _forks
from llm_connect.errors import LLMConfigurationError

#: How long a thread stays away from a lock that another one has: longer than any operation under it.
_MOMENT = 50e-6
#: After so many seconds it looks whether a thread that is no longer in an operation has kept the lock.
_LONG = 0.5
#: So many looks in a row must agree: a thread that uses the lock again and again is seen without it now and then.
_LOOKS = 100
_OWNER = re.compile(r"owner=(\d+)")
_LEFT = (
    "A thread was interrupted in a place in which Python itself raises nothing, and has kept the lock of this budget: "
    "only that thread can go on with it."
)


class TreeLock:
    """A lock for critical sections of microseconds, which are written like this:

        try:
            if not lock.take(False):
                lock.wait()
            ...
        finally:
            try:
                lock.release()
            except BaseException as error:
                lock.let_go(error)

    An exception that Python raises right after `take`, or in the place of `release`, finds itself within a `try`, and
    no other thread's lock can be let go. `take` and `release` are functions in C; one in Python could be interrupted
    before its first line.

    Who finds it taken comes again a moment later, rather than queueing for it. A queue of threads hands on the lock,
    and with it the interpreter, at every operation: eight threads together were four times as slow as one.
    It is reentrant, so that a thread that has it is told so by its gate rather than waiting for itself.
    """

    __slots__ = ("_generation", "_lock", "owned", "release", "take")

    def __init__(self) -> None:
        self._lock = lock = threading.RLock()
        self._generation = _forks.generation
        #: Take it; of False, only when it is free, and say whether it was.
        self.take: Callable[[bool], bool] = lock.acquire
        self.release: Callable[[], None] = lock.release
        #: Whether this very thread has it.
        self.owned: Callable[[], bool] = lock._is_owned  # type: ignore[attr-defined]

    def let_go(self, error: BaseException) -> None:
        """Release it when it was taken, after `release` has raised `error`; raises that, unless it was not taken."""
        with suppress(RuntimeError):
            self.release()
        try:
            if type(error) is not RuntimeError:
                raise error
        finally:
            # Its traceback would keep itself by this frame, and with it a hold that nobody gets.
            del error

    def wait(self) -> None:
        """Take it, however long that lasts. Raises LLMConfigurationError where it was left taken for good."""
        since, looks = time.monotonic(), 0
        while not self.take(False):
            _forks.check(self._generation)
            time.sleep(_MOMENT)
            if time.monotonic() - since > _LONG:
                looks = looks + 1 if self.left else 0
                if not looks:
                    since = time.monotonic()
                elif looks == _LOOKS:
                    raise LLMConfigurationError(_LEFT)

    @property
    def left(self) -> bool:
        """Whether it is taken though no operation goes on: none of its thread is in a function that has it."""
        owner = _OWNER.search(repr(self._lock))
        frame = sys._current_frames().get(int(owner[1])) if owner else None
        while frame is not None:
            if frame.f_locals.get("lock") is self:
                return False
            frame = frame.f_back
        return owner is not None and owner[1] != "0"

    def drop(self) -> None:
        """Let it go, however often this thread has taken it."""
        while self.owned():
            self.release()

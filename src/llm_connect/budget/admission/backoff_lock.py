"""The lock of a tree of trackers, for critical sections of microseconds and many threads."""

from __future__ import annotations

import gc
import os
import re
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import CodeType
from weakref import WeakSet

from llm_connect import _forks
from llm_connect.errors import LLMConfigurationError

#: The seconds that a thread sleeps before it tries a taken lock again: longer than any operation under the lock.
_MOMENT = 50e-6
#: The seconds after which a waiting thread checks for an owner that has left its operation and kept the lock.
_LONG = 0.5
#: The tries between two checks, each of which stops the collection of garbage for a moment.
_TRIES = 100
#: The number of checks in a row that must agree, because a check may hit a busy owner between two of its operations.
_LOOKS = 20
_PACKAGE = os.path.dirname(os.path.dirname(os.path.dirname(__file__))) + os.sep
_OWNER = re.compile(r"owner=(\d+)")
_LEFT = (
    "A thread was interrupted at a point where Python itself raises no exception, and still has the lock of this "
    "budget: only that thread can go on using the budget."
)


class TreeLock:
    """A lock for critical sections of microseconds, which have this form:

        try:
            if not lock.take(False):
                lock.wait()
            ...
        finally:
            try:
                lock.release()
            except BaseException as error:
                lock.let_go(error)

    An exception that Python raises right after `take`, or instead of `release`, is raised inside a `try`, and the code
    never releases the lock of another thread. `take` and `release` are functions in C; a function in Python could be
    interrupted before its first line.

    A thread that finds the lock taken sleeps and tries again, and does not queue for it. Queueing threads hand on the
    lock, and with it the interpreter, at every operation: measured, eight threads together were four times as slow as
    one. The lock is reentrant, so a thread that uses the budget within its own operation gets an error from its gate,
    and does not wait for itself.

    In a forked process the locks of its parent are never free, and `wait` raises.
    """

    __slots__ = ("__weakref__", "_generation", "_lock", "owned", "release", "take")

    def __init__(self) -> None:
        self._lock = lock = threading.RLock()
        self._generation = _forks.generation
        #: Acquires the lock; with False as argument only if it is free. Returns True if it was acquired.
        self.take: Callable[[bool], bool] = lock.acquire
        self.release: Callable[[], None] = lock.release
        #: Returns True if this thread has the lock.
        self.owned: Callable[[], bool] = lock._is_owned  # type: ignore[attr-defined]
        _locks.add(self)

    def let_go(self, error: BaseException) -> None:
        """Release the lock after `release` has raised `error`, and raise that, unless the lock was not taken."""
        with suppress(RuntimeError):
            self.release()
        try:
            if type(error) is not RuntimeError:
                raise error
        finally:
            # The traceback refers to this frame: the cycle would keep a hold alive that nobody gets.
            del error

    def wait(self) -> None:
        """Take the lock, however long that lasts. Raises LLMConfigurationError if its owner will never release it."""
        since, tries, looks = time.monotonic(), 0, 0
        while not self.take(False):
            _forks.check(self._generation)
            time.sleep(_MOMENT)
            tries += 1
            if tries % _TRIES == 0 and time.monotonic() - since > _LONG:
                looks = looks + 1 if self._abandoned() else 0
                if looks == _LOOKS:
                    raise LLMConfigurationError(_LEFT)

    @property
    def left(self) -> bool:
        """True if this thread has the lock although it runs no function that uses it."""
        frame = sys._getframe(1) if self.owned() else None
        while frame is not None:
            if frame.f_locals.get("lock") is self:
                return False
            frame = frame.f_back
        return self.owned()

    def _abandoned(self) -> bool:
        """True if another thread has the lock although it runs no function that uses any."""
        owner = _OWNER.search(repr(self._lock))
        if owner is None or owner[1] == "0" or not _looking.acquire(blocking=False):
            return False
        try:
            codes = _codes_of(int(owner[1]))
        finally:
            _looking.release()
        return not any("lock" in code.co_varnames and code.co_filename.startswith(_PACKAGE) for code in codes)

    def drop(self) -> None:
        """Release the lock as often as this thread has taken it."""
        while self.owned():
            self.release()


#: One thread looks at a time: the first of two that ended would have garbage collected while the other looks.
_looking = threading.Lock()


def _codes_of(thread: int) -> list[CodeType]:
    """Return the code of each function that a thread runs; none if it has ended.

    No garbage is collected meanwhile. On Python 3.11 this makes frame objects, which may start a collection, and a
    finalizer may then let the other thread run: `sys._current_frames` would wait for itself (CPython's issue 106883),
    and a frame could be read after its function has returned. For the same reason nothing here reads `f_locals`.
    """
    codes = []
    collecting = gc.isenabled()
    try:
        gc.disable()
        frame = sys._current_frames().get(thread)
        while frame is not None:
            codes.append(frame.f_code)
            frame = frame.f_back
    finally:
        if collecting:
            gc.enable()
    return codes


_locks: WeakSet[TreeLock] = WeakSet()


def _shut() -> None:
    for lock in list(_locks):
        # `bool(False)` is False, as from a lock that is taken.
        lock.take = bool


# Windows has no fork, and no `register_at_fork`.
getattr(os, "register_at_fork", dict)(after_in_child=_shut)

"""The lock of a tree of trackers: for what takes microseconds, and for many threads at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType

from llm_connect.core import forks

#: How long a thread stays away from a lock that another one has: longer than any operation under it.
_MOMENT = 50e-6


class TreeLock:
    """A reentrant lock for critical sections of microseconds.

    Who finds it taken comes again a moment later, rather than queueing for it. A queue of threads hands on the lock,
    and with it the interpreter, at every operation: eight threads together were four times as slow as one.
    It is reentrant, because a finalizer (of a generator with an open hold in it) may run while this thread has it.
    """

    __slots__ = ("_generation", "_try", "owned", "release")

    def __init__(self) -> None:
        lock = threading.RLock()
        self._generation = forks.generation
        self._try: Callable[[bool], bool] = lock.acquire
        self.release: Callable[[], None] = lock.release
        #: Whether this very thread has it.
        self.owned: Callable[[], bool] = lock._is_owned  # type: ignore[attr-defined]

    def acquire(self) -> None:
        """Take it, however long that lasts. Raises LLMConfigurationError where a fork has left it taken for good."""
        try:
            while not self._try(False):
                forks.check(self._generation)
                time.sleep(_MOMENT)
        except BaseException:
            # Ctrl-C, which Python may deliver right after the lock was taken.
            if self.owned():
                self.release()
            raise

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

"""The lock of a budget in a store: whoever has it is in a transaction, and has the state of the store."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Protocol

from llm_connect.core.exceptions import LLMError, LLMStoreError
from llm_connect.stores.outages import Outage


class Transactional(Protocol):
    """What a transaction begins and ends."""

    def begin(self) -> None:
        """Bring the state up to date, and let nobody else change it meanwhile."""
        ...

    def commit(self) -> None:
        """Write what has changed since."""
        ...

    def roll_back(self, error: BaseException) -> None:
        """Undo what has changed since; may raise a better error."""
        ...


def _is_decision(error: BaseException | None) -> bool:
    return isinstance(error, LLMError) and not isinstance(error, LLMStoreError)


class Transaction:
    """A reentrant lock. Taking it begins a transaction, and letting it go commits.

    When it is let go because of an exception, that rolls back, unless it is one that a decision raises.
    """

    def __init__(self, state: Transactional) -> None:
        self._state = state
        self._outage = Outage()
        self.reset()

    def reset(self) -> None:
        """Forget the threads that had it: in a forked process they are not there."""
        self._mutex = threading.RLock()
        self._depth = 0
        self._handled: BaseException | None = None

    def acquire(self) -> None:
        self._mutex.acquire()
        self._depth += 1
        if self._depth == 1:
            self._handled = sys.exc_info()[1]
            try:
                self._state.begin()
            except BaseException as error:
                self._leave()
                self._outage.note(error)
                raise

    def release(self) -> None:
        """Commit; or roll back, in a `finally` that an exception passes."""
        passing = sys.exc_info()[1]
        error = None if passing is self._handled or _is_decision(passing) else passing
        outermost = self._depth == 1
        try:
            if outermost:
                self._conclude(error)
        except BaseException as failure:
            error = failure
            raise
        finally:
            self._leave()
            if outermost:
                self._outage.note(error)

    def _conclude(self, error: BaseException | None) -> None:
        if error is None:
            self._state.commit()
        else:
            self._state.roll_back(error)

    def owned(self) -> bool:
        """Whether this very thread has it."""
        return self._mutex._is_owned()  # type: ignore[attr-defined, no-any-return]

    @property
    def begun(self) -> bool:
        """Whether this very thread is in a transaction."""
        return self._depth > 0 and self.owned()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    @contextmanager
    def no_transaction(self) -> Iterator[None]:
        """The lock alone, to look at the store."""
        with self._mutex:
            yield

    def _leave(self) -> None:
        self._depth -= 1
        if self._depth == 0:
            self._handled = None
        self._mutex.release()

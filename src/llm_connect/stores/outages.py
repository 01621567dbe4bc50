"""Whether a store is lost: as soon as a transaction fails, until one that tries again succeeds."""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from llm_connect.core.exceptions import LLMStoreError
from llm_connect.stores.transaction import Transaction, Transactional

_log = logging.getLogger("llm_connect")
#: How long after a try the store is tried again: longer each time, for one that does not come back.
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.2, 2.0


class Enduring(Transactional, Protocol):
    """A gate that goes on without its store."""

    outage: Outage

    def lose_store(self, error: LLMStoreError) -> None:
        """The store is lost; whoever calls it has the lock."""
        ...

    def find_store(self) -> None:
        """A transaction of one that tries the store again was committed; whoever calls it has the lock."""
        ...

    def try_again(self) -> None:
        """Try the store. Raises LLMStoreError when it is still lost."""
        ...


class Outage:
    """The outage of a store in one process. While it lasts, one thread tries the store, and nobody else waits for it.

    Not the worker of the store: it has to let go on the calls of coroutines meanwhile.
    """

    def __init__(self, gate: Enduring) -> None:
        self._gate = weakref.ref(gate)
        self.forget()

    def forget(self) -> None:
        """In a forked process: the outage is the parent's."""
        self.error: LLMStoreError | None = None
        self._trying: set[int] = set()
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()

    @property
    def lost(self) -> bool:
        """Whether the store is lost now."""
        return self.error is not None

    def check(self) -> None:
        """Raise LLMStoreError at once while the store is lost, but to those that try it."""
        error = self.error
        if error is not None and not self.tried_here:
            raise LLMStoreError(str(error), store=error.store)

    @property
    def tried_here(self) -> bool:
        """Whether this thread tries the store again."""
        return threading.get_ident() in self._trying

    def begin(self, error: LLMStoreError) -> None:
        """The store is lost: try it again and again from now on."""
        with self._starting:
            self.error = error
            if self._thread is None:
                self._thread = threading.Thread(target=self._try_again, name="llm-connect retry", daemon=True)
                self._thread.start()

    def end(self) -> None:
        """The store is there."""
        self.error = None

    @contextmanager
    def trying(self) -> Iterator[None]:
        """In the block this thread may reach for the store."""
        self._trying.add(threading.get_ident())
        try:
            yield
        finally:
            self._trying.discard(threading.get_ident())

    def _try_again(self) -> None:
        pause = _SHORTEST_PAUSE
        while self._going_on():
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
            gate = self._gate()
            try:
                if gate is not None:
                    gate.try_again()
            except LLMStoreError as error:
                _log.debug("The budget store is still lost: %s", error)
            except Exception:
                _log.exception("What was spent while the budget store was lost could not be booked; it is tried again.")
            del gate

    def _going_on(self) -> bool:
        with self._starting:
            going_on = self.lost and self._gate() is not None
            if not going_on:
                self._thread = None
            return going_on


class WatchedTransaction(Transaction):
    """Like `Transaction`; it sees when the store is lost, and from then on does not wait for it."""

    def __init__(self, gate: Enduring) -> None:
        super().__init__(_Watched(gate))
        self._outage = gate.outage

    def acquire(self) -> None:
        if not self.owned():
            self._outage.check()
        super().acquire()


class _Watched:
    """The transactions of a gate."""

    def __init__(self, gate: Enduring) -> None:
        self._gate = gate

    def begin(self) -> None:
        # Others may have found it lost while this thread waited for them.
        self._gate.outage.check()
        with self._watched():
            self._gate.begin()

    def commit(self) -> None:
        with self._watched():
            self._gate.commit()
        if self._gate.outage.tried_here:
            self._gate.find_store()

    def roll_back(self, error: BaseException) -> None:
        with self._watched():
            self._gate.roll_back(error)
            if isinstance(error, LLMStoreError):
                raise error

    @contextmanager
    def _watched(self) -> Iterator[None]:
        try:
            yield
        except LLMStoreError as error:
            self._gate.lose_store(error)
            raise

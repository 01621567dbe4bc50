"""How an operation on a budget in a store is made exact: it is one transaction of the store.

Whatever an operation changes, in memory and in the store, is undone unless the store has committed it. So the state of
this process is a copy that can be thrown away: of what a transaction has changed, `Changes` knows how it was before,
and all else is read anew. What `core/journal.py` does for a budget in memory is done here by two rules.

1. An exception before the commit rolls back: the store first, by one call in C, so that a file is not locked for other
   processes even where no frame of Python is left (a RecursionError); then what is known in memory.
2. An exception behind the commit completes: `commit` says that it begins before it does, and the store knows whether it
   has. SQLite's connection is in no transaction any more. A server is asked in the next operation, by the number of
   the step; until then its reply is in doubt.

When the handler itself is interrupted, `_inside` stays set, and the next operation does the same before its own work.
Undoing is repeated without harm: it sets what was, and clears what it has undone last.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, TypeVar

from llm_connect.core.admission import Gate
from llm_connect.stores.outages import Outage

T = TypeVar("T")


class AtomicGate(Gate):
    """A gate whose operations are transactions: they begin with the state of the store, and commit."""

    def __init__(self, *details: Any) -> None:
        self._outage = Outage()
        super().__init__(*details)

    @abstractmethod
    def begin(self) -> None:
        """Bring what is known up to date with the store, and let nobody else change it meanwhile."""

    @abstractmethod
    def commit(self) -> None:
        """Write what the operation has changed."""

    @abstractmethod
    def let_go(self) -> None:
        """Let nobody wait for a transaction that is not committed, by as few frames as `begin` needs."""

    @abstractmethod
    def roll_back(self, error: BaseException) -> Exception | None:
        """Let everything be as the store has it; a better error, if there is one."""

    def _run(self, operation: Callable[..., T], *args: Any) -> T:
        if self._inside:
            self._refuse_reentry()
        try:
            result: T = self._locked(self._transact, self._work_off, operation, *args)
        except BaseException as error:
            self._outage.note(error)
            if not self._inside:
                # Else what was decided may not be so, and the next operation tells.
                self._tell()
            raise
        self._outage.note(None)
        self._tell()
        return result

    def _run_apart(self, operation: Callable[..., T], *args: Any) -> T:
        """Like `_run`, and nothing else that is left to do is done in the same transaction."""
        try:
            result: T = self._locked(self._transact, _nothing, operation, *args)
            return result
        finally:
            self._tell()

    def alone(self, operation: Callable[..., T], *args: Any) -> T:
        """What `operation` comes to, which only looks, under the lock and without a transaction."""
        if self._inside:
            self._refuse_reentry()
        result: T = self._locked(operation, *args)
        return result

    def _locked(self, operation: Callable[..., Any], *args: Any) -> Any:
        lock = self._lock
        try:
            if not lock.take(False):
                lock.wait()
            if self._inside:
                self._repair()
            result = operation(*args)
        finally:
            try:
                lock.release()
            except BaseException as error:
                if lock.let_go(error):
                    raise
        return result

    def _transact(self, first: Callable[[], None], operation: Callable[..., T], *args: Any) -> T:
        self._inside = True
        try:
            self.begin()
            first()
            result = operation(*args)
            self.commit()
        except BaseException as error:
            self.let_go()
            better = self.roll_back(error)
            self._inside = False
            if better is not None:
                raise better from None
            raise
        self._inside = False
        return result

    def _repair(self) -> None:
        """Roll back, or complete, an operation that was interrupted while it did."""
        self.let_go()
        self.roll_back(KeyboardInterrupt())
        self._inside = False


def _nothing() -> None:
    pass

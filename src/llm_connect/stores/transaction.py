"""How an operation on a budget in a store is exact: it is one transaction, and memory follows it.

The gate decides on objects in memory: trackers with their figures, holds, the wait queue. For a budget in a store these
are a copy of what the store says. An operation changes the copy first and writes the difference last. If the write
fails, or anything raises before it, the copy is wrong and must go back. Otherwise a hold that no other process knows
of would keep budget here, or a waiter would be told of a grant that does not exist.

Three ways to go back do not work.

- Undo each change by its opposite. The exception came between two changes, and nobody knows how many were made.
- Copy everything before each operation. Budgets have thousands of trackers, and an operation touches a few of them.
- Throw the copy away and read it again. That is right for trackers, but callers have their holds and waiters in hand,
  and no row contains a callback, a deadline of this process, or an event loop.

So the two kinds of state are treated differently. Trackers become what the store said last and are read again; one
that has no row yet starts over. Holds, waiters, the lease, thresholds and staged callbacks belong to this process.
`Changes` knows how each hold was before the operation touched it, and every other part has an `undo` for its own. A
waiter that was let in waits on. Callbacks are staged until the commit (`outbox.py`) and waiters are woken after it, so
nobody learns of a grant or an entry that is then undone. Notes that the operation has worked off go back to the front.

`_transact` has the order. Two rules make it exact wherever an exception arrives.

1. Before the commit, an exception rolls back. The store comes first, by few and flat calls (`let_go`), so that a file
   does not stay locked for other processes even if a RecursionError leaves hardly a frame. Memory follows
   (`roll_back`).
2. After the commit, an exception completes. The operation counts, so undoing it in memory would be wrong. The store
   itself says on which side the exception came. `commit` notes that it begins; if SQLite's connection is in no
   transaction afterwards, the commit was done. A server may have applied a step whose reply was lost. Then nothing is
   undone or completed yet: the next operation sends the step again under its old number (`redis/state.py`).

The handler may be interrupted as well. Then `_inside` stays set. The next operation finds it and handles the failure
once more before its own work (`_repair`). Going back twice is harmless: it sets old values, and forgets them last.

A note may make every transaction fail, such as an end with a figure that is too large for the store. It must not come
back for ever and stop all others. When a transaction fails by something that will not pass, its notes become suspects.
Each of them is done in a transaction of its own, and if that fails, its hold is presumed (`StoreGate._do_suspects`).

SQLAlchemy's session has the same task: a rollback expires its objects, so that they are read again, and throws new ones
out. Here the callers keep their holds, so holds get their old values instead.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, TypeVar

from llm_connect.budget.admission.controller import Gate
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
            self._outage.note(error, self.owed)
            if not self._inside:
                # Else what was decided may not be so, and the next operation tells.
                self._tell()
            raise
        self._outage.note(None, self.owed)
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
                lock.let_go(error)
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

"""The gate of a budget in a file: what `Gate` decides, decided in a transaction on the state of the file."""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from llm_connect.core import forks
from llm_connect.core.accounts import amount_of
from llm_connect.core.exceptions import LLMConfigurationError, LLMStoreError
from llm_connect.core.holds import NO_ENDING, Ending, Hold
from llm_connect.core.line import Line
from llm_connect.core.units import NOTHING
from llm_connect.core.waiting import in_running_loop
from llm_connect.stores.sqlite.holds import StoredHold
from llm_connect.stores.sqlite.processes import keep_for_parent, look_after
from llm_connect.stores.sqlite.rows import OPEN_PRESUMPTIONS
from llm_connect.stores.sqlite.state import TransactionalGate
from llm_connect.stores.worker import StoreWorker

if TYPE_CHECKING:
    from llm_connect.core.accounts import Account
    from llm_connect.core.budget import BudgetTracker
    from llm_connect.core.demand import CallFacts
    from llm_connect.core.waiters import Waiter

_log = logging.getLogger("llm_connect")


class SqliteGate(TransactionalGate):
    """The gate of one budget in a file, in one process. Waiters, callbacks and notes are the process's own."""

    def __init__(self, *details: Any) -> None:
        super().__init__(*details)
        #: When the monotonic clock was 0, which is not set back as that of the machine is.
        self._epoch = time.time_ns() - time.monotonic_ns()
        look_after(self)

    def check_process(self) -> None:
        """A forked process has a connection and a lease of its own."""

    def arrive(self) -> int:
        """The moment, by the clock of the machine, so that it orders the callers of all processes."""
        return self._epoch + time.monotonic_ns()

    def dispatch(self, hold: Hold) -> bool:
        """Like `Gate.dispatch`; False as well for a hold whose lease was lost, and that has been ended for that."""
        _check_own(hold)
        try:
            return super().dispatch(hold)
        except LLMConfigurationError:
            if isinstance(hold, StoredHold) and hold.late:
                return False
            raise

    def end(self, hold: Hold, ending: Ending) -> None:
        """Like `Gate.end`. In a running event loop, or when the store cannot be reached, the worker does it."""
        _check_own(hold)
        if in_running_loop():
            self.lose(hold, ending)
            return
        try:
            super().end(hold, ending)
        except LLMStoreError as error:
            self.lose(hold, ending)
            self._tell()
            _log.warning("What a call came to is booked as soon as the store can be reached: %s", error)

    def lose(self, hold: Hold, ending: Ending) -> None:
        super().lose(hold, ending)
        if hold.ending is NO_ENDING:
            hold.ending = ending
        self._worker.put(self.stay)

    def stay(self) -> None:
        """Be there until the worker has looked after what is left to do."""

    def tidy(self) -> None:
        if in_running_loop():
            self._worker.put(self.stay)
        else:
            self.flush()

    def flush(self) -> None:
        """Like `Gate.flush`; what cannot be done because the store cannot be reached is left to the worker."""
        try:
            if self._notes:
                with self._lock:
                    self._work_off()
                self._tell()
            elif self._worked_off:
                # Another thread, the worker perhaps, is just doing it.
                with self.lock.no_transaction():
                    pass
        except LLMStoreError as error:
            _log.warning("What is left to do is done as soon as the store can be reached: %s", error)

    def close(self, tracker: BudgetTracker) -> None:
        """Like `Gate.close`. A budget itself is closed for this process only; others go on with it."""
        tracker.closed_itself = True
        self.closed = self.closed or tracker.parent is None
        self._notes.append(partial(self._close, tracker))
        self._worker.start()
        self.tidy()

    def open_slice(self, child: BudgetTracker) -> bool:
        with self._lock:
            opened = super().open_slice(child)
            if opened:
                number = self.trackers.number_of(child)
                self.trackers.slices[number] = self.leases.have(self.connection).number
            self.changes.note_trackers(child.lineage)  # type: ignore[arg-type]
        self._tell()
        return opened

    def change_limits(self, tracker: BudgetTracker, limits: dict[Account, int | None]) -> None:
        with self._lock:
            self.changes.note_trackers((tracker,))
            super().change_limits(tracker, limits)
        self._tell()

    def join(self, joined: dict[str, BudgetTracker], child: BudgetTracker) -> BudgetTracker:
        with self._lock:
            shared = self.trackers.joined(child)
            if shared is None or shared.closed:
                shared = child
                self.trackers.number_of(child, joined=True)
            joined[child.name] = shared
        return shared

    def reset(self, facts: CallFacts) -> None:
        """Begin anew: take what is spent off the books, by entries that say so. What is held stays held."""
        with self._lock:
            self._work_off()
            for (entry_id,) in self.connection.execute(OPEN_PRESUMPTIONS, (self.budget,)).fetchall():
                self.books.correct(entry_id, NOTHING)
            for tracker in self.trackers.deepest_first():
                self.books.record(tracker, NOTHING.minus(amount_of(tracker.own_accounts, "spent")), facts)
                if tracker.window is not None:
                    tracker.window.forget(self.books.number())
            self._line.scan()
        self._tell()

    def _close(self, tracker: BudgetTracker) -> None:
        tracker.closed_itself = True
        if tracker.parent is not None:
            self.changes.note_trackers((tracker,))
            self._close_slices(tracker)
        elif self.leases.own is not None:
            self.close_slices_of(self.leases.own.number)
            if not self.leases.open_holds:
                self.leases.give_up(self.connection)
        self._line.close()

    def _end(self, hold: Hold, ending: Ending) -> None:
        if isinstance(hold, StoredHold) and hold.late:
            self.leases.end_late(self.connection, hold, ending)
            self._line.scan()
        else:
            super()._end(hold, ending)

    def _do(self, note: Callable[[], None]) -> None:
        if in_running_loop():
            self._notes.append(note)
            self._worker.put(self.stay)
        else:
            with suppress(LLMStoreError):
                super()._do(note)

    def _work_off(self) -> None:
        self._line.reclaim()
        while self._notes:
            # In this order, so that `flush` sees what another thread is about to do.
            note = self._notes[0]
            self._worked_off.append(note)
            self._notes.popleft()
            note()

    def _tell(self) -> None:
        if not self.lock.owned():
            super()._tell()

    def queue(self, waiter: Waiter, *, may_wait: bool) -> None:
        super().queue(waiter, may_wait=may_wait)
        if waiter.waiting:
            # Others may free what it waits for.
            self._worker.start()
            self._worker.put(self.stay)

    def handle(self, tracker: BudgetTracker) -> Any:
        """What `tracker` is pickled as: the same budget for the process that opens it."""
        from llm_connect.stores.sqlite.budgets import reopen  # it imports this module

        with self._lock:
            number = self.trackers.number_of(tracker)
        return reopen, (replace(self.terms, sink=None), number)

    def shut(self) -> None:
        """Write what is left to do, end what is held, and close the file. A later operation opens it again."""
        self._worker.stop(self.terms.busy_seconds)
        with suppress(LLMStoreError), self._lock:
            self._work_off()
            self.leases.give_up(self.connection)
            self.waiters.withdraw(self.connection)
        self._tell()
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def leave_to_parent(self) -> None:
        """In a forked process: connection, lease, waiters and what is left to do are the parent's."""
        if self._connection is not None:
            keep_for_parent(self._connection)
        self._connection = self._version = None
        self.lock.reset()
        self._worker = StoreWorker(self)
        self.leases.forget()
        self.waiters.leave_to_parent()
        self.changes.clear()
        self.trackers.undo()
        self._worked_off.clear()
        self._notes.clear()
        self._line = Line()
        self._outbox.calls.clear()
        self._generation = forks.generation

    def __del__(self) -> None:
        connection = self.__dict__.get("_connection")
        if connection is None:
            return
        lease = self.leases.own
        if self._worker.running:
            self._worker.put(partial(_say_farewell, connection, None if lease is None else lease.number))
            self._worker.put_end()
        else:
            connection.close()


def _say_farewell(connection: sqlite3.Connection, lease: int | None) -> None:
    """Close the file of a gate that nobody has any more; so nobody has a hold of it either."""
    with suppress(sqlite3.Error):
        connection.execute(
            "DELETE FROM leases WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM holds WHERE lease = ?1)", (lease,)
        )
    connection.close()


def _check_own(hold: Hold) -> None:
    lease = getattr(hold, "lease", None)
    if lease is not None and lease.generation != forks.generation:
        raise LLMConfigurationError("This hold is that of the process before os.fork: reserve anew in this one.")

"""The gate of a budget in a file: what `Gate` decides, decided in a transaction on the state of the file."""

from __future__ import annotations

import atexit
import logging
import os
import sqlite3
import weakref
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from llm_connect.core import forks
from llm_connect.core.accounts import amount_of
from llm_connect.core.admission import Gate, OnUnknown
from llm_connect.core.exceptions import LLMConfigurationError, LLMStoreError
from llm_connect.core.holds import NO_ENDING, Ending, Hold
from llm_connect.core.learning import LearnedFactor
from llm_connect.core.line import Line
from llm_connect.core.units import NOTHING
from llm_connect.core.waiting import in_running_loop
from llm_connect.stores.outbox import StagedOutbox
from llm_connect.stores.sqlite.changes import Changes
from llm_connect.stores.sqlite.holds import StoredHold
from llm_connect.stores.sqlite.leases import Leases
from llm_connect.stores.sqlite.ledger import StoredBooks, StoredLedger
from llm_connect.stores.sqlite.rows import OPEN_PRESUMPTIONS, read_learned, write_learned
from llm_connect.stores.sqlite.schema import begin, connect, store_error
from llm_connect.stores.sqlite.terms import Terms
from llm_connect.stores.sqlite.transaction import Transaction
from llm_connect.stores.sqlite.trackers import Trackers
from llm_connect.stores.worker import StoreWorker

if TYPE_CHECKING:
    from llm_connect.core.accounts import Account
    from llm_connect.core.budget import BudgetTracker
    from llm_connect.core.demand import CallFacts
    from llm_connect.core.waiters import Waiter

_log = logging.getLogger("llm_connect")
#: How often one looks whether other processes have freed what a caller waits for.
_POLL_SECONDS = 0.01
#: How long one waits before the store is tried again.
_RETRY_SECONDS = 1.0


class SqliteGate(Gate):
    """The gate of one budget in a file, in one process.

    Every operation of `Gate` takes its lock, and this one's lock is a transaction: `begin` brings the trackers up to
    date with the file, `commit` writes what the operation has changed. Waiters, callbacks and notes are the process's
    own.
    """

    hold_type = StoredHold

    def __init__(self, terms: Terms, budget: int, on_unknown: OnUnknown, root: int) -> None:
        super().__init__(terms.keep_entries, on_unknown, terms.sink)
        self.terms = terms
        self.budget = budget
        #: The number of its root.
        self.root = root
        self._lock = self.lock = Transaction(self)
        self._worker = StoreWorker(self)
        self.changes = Changes(self)
        self.leases = Leases(self, terms.lease_seconds)
        self.trackers = Trackers(self, terms.prices, strict=terms.strict)
        self.ledger = StoredLedger(terms.keep_entries, self)
        self._outbox = self._staged = StagedOutbox()
        self._books = self.books = StoredBooks(self, self._staged, terms.sink)
        self._learned = self._books.learned.factors
        self._learned_before: dict[Any, LearnedFactor] = {}
        self._connection: sqlite3.Connection | None = None
        #: What `PRAGMA data_version` said last: it changes when another process has written.
        self._version: int | None = None
        #: Notes that the transaction at hand has worked off.
        self._worked_off: list[Callable[[], None]] = []
        #: Whether this process is done with it.
        self.closed: bool = False
        _gates.add(self)

    @property
    def worker(self) -> StoreWorker:  # type: ignore[override]
        return self._worker

    @property
    def connection(self) -> sqlite3.Connection:
        """The one connection of this process."""
        if self._connection is None:
            self._connection = connect(self.terms.path, self.terms.busy_seconds)
        return self._connection

    # What the lock does.

    def begin(self) -> None:
        try:
            connection = self.connection
            begin(connection, self.terms.busy_seconds)
            moved = self._moved()
            if moved:
                self._catch_up()
            self.leases.begin(connection, moved=moved)
        except BaseException as error:
            self.roll_back(error)
            raise

    def commit(self) -> None:
        connection = self.connection
        try:
            if self.changes:
                self.changes.write(connection, self.trackers.next_stamp)
            if self._learned != self._learned_before:
                write_learned(connection, self.budget, self._learned)
            connection.execute("COMMIT")
        except BaseException as error:
            self.roll_back(error)
            raise
        self._learned_before = dict(self._learned)
        if self.changes or self.trackers.inserted:
            self.trackers.commit()
        self.changes.clear()
        self._staged.commit()
        self._worked_off.clear()

    def roll_back(self, error: BaseException) -> None:
        better = self._as_store_error(error)
        self._refuse_granted(better)
        self.trackers.undo()
        self.changes.undo()
        self.leases.undo()
        self._staged.roll_back()
        self.books.last_id = self._version = None
        self._notes.extendleft(reversed(self._worked_off))
        self._worked_off.clear()
        self._let_go()
        if better is not error:
            raise better from None

    def _moved(self) -> bool:
        (version,) = self.connection.execute("PRAGMA data_version").fetchone()
        moved = version != self._version
        self._version = version
        return moved

    def _catch_up(self) -> None:
        """Bring up to date what this process knows of the file."""
        self.books.last_id = None
        self.trackers.refresh()
        learned = read_learned(self.connection, self.budget)
        if learned != self._learned:
            changed = [key for key in {*learned, *self._learned} if learned.get(key) != self._learned.get(key)]
            self.books.learned.become(learned)
            for key in changed:
                self._line.raise_demands(key, learned.get(key))
        self._learned_before = learned
        self.books.look_at_thresholds()

    def _as_store_error(self, error: BaseException) -> BaseException:
        if isinstance(error, sqlite3.Error):
            return store_error(self.terms.path, error)
        if isinstance(error, OverflowError):
            return LLMConfigurationError("A figure is too large for a store: it takes up to 9,223,372,036,854,775,807.")
        return error

    def _refuse_granted(self, error: BaseException) -> None:
        """Waiters that this transaction has let in are not, as it is undone."""
        for _, _, waiter in self._line.untaken:
            if self.changes.made(waiter.hold):
                waiter.hold = None
                waiter.error = error if isinstance(error, LLMStoreError) else store_error(self.terms.path, sqlite3.Error(error))

    def _let_go(self) -> None:
        """Let the file be as before; a connection that cannot even do that is made anew."""
        connection = self._connection
        if connection is None:
            return
        try:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        except sqlite3.Error:
            self._connection = None
            connection.close()

    # What is different from a budget in memory.

    def check_process(self) -> None:
        """A forked process has a connection and a lease of its own."""

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

    def tracker(self, number: int) -> BudgetTracker:
        """The tracker of this number."""
        with self._lock:
            return self.trackers.find(number)

    def read_rows(self, query: str, values: tuple[Any, ...]) -> list[Any]:
        """What a query gives, after all that has ended is booked."""
        with self._lock:
            self._work_off()
            rows = self.connection.execute(query, values).fetchall()
        self._tell()
        return rows

    def reset(self, facts: CallFacts) -> None:
        """Begin anew: take what is spent off the books, by entries that say so. What is held stays held."""
        with self._lock:
            self._work_off()
            for (entry_id,) in self.connection.execute(OPEN_PRESUMPTIONS, (self.budget,)).fetchall():
                self.books.correct(entry_id, NOTHING)
            for tracker in self.trackers.deepest_first():
                self.books.record(tracker, NOTHING.minus(amount_of(tracker.own_accounts, "spent")), facts)
            self._line.scan()
        self._tell()

    def close_slices_of(self, lease: int) -> None:
        """Return the slices that a process keeps open."""
        for tracker in self.trackers.open_slices():
            if self.trackers.slices.get(tracker.number) == lease:
                tracker.closed_itself = True
                self._close_slices(tracker)

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

    def _close_slices(self, tracker: BudgetTracker) -> None:
        """Return the open slices at `tracker` and below it, whoever keeps them open."""
        opened = self.trackers.open_slices()
        self._slices.opened[:] = opened
        self._slices.close(tracker)
        for child in opened:
            if tracker in child.lineage:
                self.trackers.slices.pop(child.number, None)
                self.changes.note_trackers(child.lineage)  # type: ignore[arg-type]

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
            note = self._notes.popleft()
            self._worked_off.append(note)
            note()

    def _tell(self) -> None:
        if not self.lock.owned():
            super()._tell()

    def tick(self) -> float:
        """What the worker does now and then: what is left to do, the lease, and a look at what others have done."""
        try:
            if self._notes or self.leases.due or (self._line.busy and self._others_wrote()):
                with self._lock:
                    self._work_off()
                    self._line.close()
            self._tell()
        except LLMStoreError as error:
            _log.warning("%s", error)
            return _RETRY_SECONDS
        return _POLL_SECONDS if self._line.busy else self.leases.pause

    def queue(self, waiter: Waiter, *, may_wait: bool) -> None:
        super().queue(waiter, may_wait=may_wait)
        if waiter.waiting:
            # Others may free what it waits for.
            self._worker.start()
            self._worker.put(self.stay)

    def _others_wrote(self) -> bool:
        with self.lock.no_transaction():
            return self.connection.execute("PRAGMA data_version").fetchone()[0] != self._version

    # How it begins and ends.

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
        self._tell()
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def leave_to_parent(self) -> None:
        """In a forked process: connection, lease, waiters and what is left to do are the parent's."""
        if self._connection is not None:
            # Closing it here would let go locks that the parent has.
            _of_parents.append(self._connection)
        self._connection = self._version = None
        self.lock.reset()
        self._worker = StoreWorker(self)
        self.leases.forget()
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
        connection.execute("DELETE FROM leases WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM holds WHERE lease = ?1)", (lease,))
    connection.close()


def _check_own(hold: Hold) -> None:
    lease = getattr(hold, "lease", None)
    if lease is not None and lease.generation != forks.generation:
        raise LLMConfigurationError("This hold is that of the process before os.fork: reserve anew in this one.")


#: All gates of this process.
_gates: weakref.WeakSet[SqliteGate] = weakref.WeakSet()
#: Connections of the processes that this one was forked from.
_of_parents: list[sqlite3.Connection] = []


def _shut_all() -> None:
    for gate in list(_gates):
        gate.shut()


def _forked() -> None:
    for gate in list(_gates):
        gate.leave_to_parent()


atexit.register(_shut_all)
os.register_at_fork(after_in_child=_forked)

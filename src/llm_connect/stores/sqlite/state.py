"""A gate whose lock is a transaction: whoever has it has the state of the file, and changes it."""

# Each gate has parts of its own kind, which nothing replaces.
# pyright: reportIncompatibleVariableOverride=false

from __future__ import annotations

import logging
import sqlite3
from contextlib import suppress
from typing import Any

from llm_connect.budget.accounting.ledger import Ledger
from llm_connect.budget.admission.controller import OnUnknown
from llm_connect.budget.admission.holds import gather_lost
from llm_connect.budget.admission.log import write
from llm_connect.errors import LLMConfigurationError, LLMError, LLMStoreError
from llm_connect.stores.gate import StoreGate
from llm_connect.stores.processes import keep_for_parent
from llm_connect.stores.sqlite.changes import FileChanges
from llm_connect.stores.sqlite.identity import Identity, close
from llm_connect.stores.sqlite.leases import FileLeases
from llm_connect.stores.sqlite.ledger import FileBooks, FileLedger
from llm_connect.stores.sqlite.rows import OTHERS, read_learned, write_learned
from llm_connect.stores.sqlite.schema import begin, connect, store_error
from llm_connect.stores.sqlite.terms import FileTerms
from llm_connect.stores.sqlite.trackers import FileTrackers
from llm_connect.stores.sqlite.waiters import FileWaiters

#: How often one looks whether other processes have freed what a caller waits for.
_POLL_SECONDS = 0.01
#: How long one waits for a file for which others have just waited in vain.
_SHORT_SECONDS = 0.02
#: How long one waits before the store is tried again.
_RETRY_SECONDS = 1.0
#: Raised for a value, not for the file: the same will never succeed.
_UNWRITABLE = (
    sqlite3.DataError,
    sqlite3.IntegrityError,
    sqlite3.InterfaceError,
    sqlite3.ProgrammingError,
    OverflowError,
    UnicodeEncodeError,
)
#: By the id of their gate, apart from it: what is garbage together with a gate is finalized before it can be closed.
_connections: dict[int, sqlite3.Connection] = {}


class TransactionalGate(StoreGate):
    """The gate of one budget in a file, in one process; its lock is a transaction of the file."""

    terms: FileTerms
    changes: FileChanges
    leases: FileLeases
    trackers: FileTrackers
    books: FileBooks

    def __init__(self, terms: FileTerms, budget: int, on_unknown: OnUnknown, root: int) -> None:
        super().__init__(terms, on_unknown, root)
        self.budget = budget
        self.changes = FileChanges(self)
        self.leases = FileLeases(self, terms.lease_seconds)
        self.waiters: FileWaiters = FileWaiters(self, terms.lease_seconds)
        #: Whether anything was freed since those that wait here were looked at.
        self.unseen: bool = False
        self.trackers = FileTrackers(self, terms.prices, strict=terms.strict)
        self.ledger: Ledger = FileLedger(terms.keep_entries, self)
        self._books = self.books = FileBooks(self, self._staged, terms.sink)
        self._learned = self._books.learned.factors
        #: The file that was opened, so that no other is taken for it.
        self._file = Identity(terms.path)
        #: Whether the last who waited for the file did so in vain.
        self._busy = False
        #: Whether `COMMIT` was sent, and whether it was done.
        self._committing = self._written = False
        #: What `PRAGMA data_version` said last: it changes when another process has written.
        self._version: int | None = None

    @property
    def _connection(self) -> sqlite3.Connection | None:
        return _connections.get(id(self))

    @_connection.setter
    def _connection(self, connection: sqlite3.Connection | None) -> None:
        if connection is None:
            _connections.pop(id(self), None)
        else:
            _connections[id(self)] = connection

    @property
    def connection(self) -> sqlite3.Connection:
        """The one connection of this process."""
        connection = self._connection
        if connection is None:
            connection = self._connection = connect(self.terms.path, self.terms.busy_seconds)
        return connection

    @property
    def gone(self) -> bool:
        return self._file.lost

    def begin(self) -> None:
        self._committing = False
        self.books.begin()
        if self._file.lost:
            self._file.check()
        connection = self.connection
        self._wait_for_file(connection)
        self._file.check()
        version = _data_version(connection)
        if version != self._version:
            self._version = version
            self._catch_up(connection)
        if self._windowed:
            self.roll()
        self.leases.begin(connection)

    def _wait_for_file(self, connection: sqlite3.Connection) -> None:
        """Begin a transaction. After somebody has waited in vain nobody waits, until one gets in."""
        patience = self.terms.busy_seconds
        busy, self._busy = self._busy, True
        begin(connection, min(patience, _SHORT_SECONDS) if busy else patience)
        self._busy = False

    def commit(self) -> None:
        connection = self.connection
        if self.changes:
            self.changes.write(connection, self.trackers.next_stamp)
        self.waiters.tell(self._line)
        if self._learned != self._learned_before:
            write_learned(connection, self.budget, self._learned)
        self._committing = True
        connection.execute("COMMIT")
        if self.books.last_id is not None:
            self._file.note_entry(self.books.last_id)
        if self.changes or self.trackers.inserted:
            self.trackers.commit()
        self.waiters.commit()
        self._settled()

    def let_go(self) -> None:
        """Let the file be as before; a connection that cannot even do that is made anew."""
        connection = self._connection
        if connection is None:
            self._written = False
            return
        try:
            if connection.in_transaction:
                self._written = False
                connection.rollback()
            else:
                self._written = self._committing
            if self._file.lost:
                self.disconnect()
        except sqlite3.Error:
            self.disconnect()

    def roll_back(self, error: BaseException) -> Exception | None:
        if self._written and not isinstance(error, sqlite3.Error):
            self._complete()
            return None
        better, changed = self._as_llm_error(error), bool(self.changes)
        cause = better or error
        self._line.undo(cause if isinstance(cause, LLMError) else None)
        self._undo(error)
        self.books.undo()
        self.waiters.undo()
        self._know_nothing()
        if changed and self._connection is not None:
            # What is known is what the file says, also before the next transaction.
            with suppress(sqlite3.Error):
                self.trackers.refresh()
        return better

    def _complete(self) -> None:
        """The transaction was committed, but not all that follows was done."""
        self.trackers.commit()
        self.waiters.commit()
        self._settled()
        self._know_nothing()
        self._line.repair()
        self._line.commit()

    def _know_nothing(self) -> None:
        """Let the next transaction read everything anew."""
        self._committing = self._written = False
        self.trackers.stamp = self.books.last_id = self._version = None
        self.unseen = True

    def _passes(self, error: Exception) -> bool:
        return super()._passes(error) or (isinstance(error, sqlite3.Error) and not isinstance(error, _UNWRITABLE))

    def _catch_up(self, connection: sqlite3.Connection) -> None:
        """Bring up to date what this process knows of the file."""
        lease, budget = self.leases.own, self.budget
        others = connection.execute(OTHERS, (None if lease is None else lease.number, budget, budget))
        last_id, stands, learned, waiters = others.fetchone()
        self.books.last_id = last_id
        self._file.check_entry(last_id)
        self.leases.taken = lease is not None and not stands
        self.trackers.refresh()
        self._windows.look_again()
        if learned or self._learned:
            self._know(read_learned(connection, budget))
        self.books.look_at_thresholds()
        if waiters or self.waiters.any_heard:
            self.waiters.read(self._line)
        self.unseen = True

    def _as_llm_error(self, error: BaseException) -> LLMError | None:
        """The error for what has gone wrong with the store; None when it is not the store's fault."""
        if isinstance(error, _UNWRITABLE):
            return LLMConfigurationError(f"A value cannot be written to a budget file ({type(error).__name__}).")
        return store_error(self.terms.path, error) if isinstance(error, sqlite3.Error) else None

    def tick(self) -> float:
        """What the worker does now and then: what is left to do, the lease, and a look at what others have done."""
        if self.gone:
            return self.leases.pause
        try:
            gather_lost()
            self._do_suspects()
            if self.notes or self.leases.due or (self._line.busy_here and self._may_let_in()):
                self._run(self._look_who_fits)
        except LLMStoreError as error:
            write(logging.WARNING, "%s", error, owed=self.owed)
            return _RETRY_SECONDS
        return _POLL_SECONDS if self._line.busy_here else self.leases.pause

    def _may_let_in(self) -> bool:
        """Whether one that waits here may be let in now, or has to say that it still waits."""
        due = self.waiters.due or self.leases.look_due or (self._windowed and self._windows.due)
        return self.unseen or due or self._others_wrote()

    def _look_who_fits(self) -> None:
        self._line.close()
        self.unseen = False

    def _others_wrote(self) -> bool:
        return self.alone(lambda: _data_version(self.connection)) != self._version

    def read_rows(self, query: str, values: tuple[Any, ...]) -> list[Any]:
        """What a query gives, after all that has ended is booked."""
        rows: list[Any] = self._run(lambda: self.connection.execute(query, values).fetchall())
        return rows

    def disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            close(connection, self._file)
        self._file.forget_log()

    def leave_connection(self) -> None:
        self._file.forget_log()
        if self._connection is not None:
            keep_for_parent(self._connection)
        self._connection = self._version = None
        self.waiters.leave_to_parent()

    def _give_up(self) -> None:
        super()._give_up()
        self.waiters.withdraw()


def _data_version(connection: sqlite3.Connection) -> int:
    """What changes when another connection has written."""
    version: int
    (version,) = connection.execute("PRAGMA data_version").fetchone()
    return version

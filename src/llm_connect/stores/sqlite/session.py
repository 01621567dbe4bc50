"""The session of a budget in a file. A step is a transaction, so it always sees the present state of the file."""

# Each session has parts of its own kind, and never replaces them.
# pyright: reportIncompatibleVariableOverride=false

from __future__ import annotations

import sqlite3
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from llm_connect.errors import LLMConfigurationError, LLMError
from llm_connect.stores.processes import keep_for_parent
from llm_connect.stores.session import StoreSession
from llm_connect.stores.sqlite.changes import FileChanges
from llm_connect.stores.sqlite.identity import Identity, close
from llm_connect.stores.sqlite.leases import FileLeases
from llm_connect.stores.sqlite.ledger import FileBooks, FileLedger
from llm_connect.stores.sqlite.rows import OTHERS, read_learned, write_learned
from llm_connect.stores.sqlite.schema import begin, connect, store_error
from llm_connect.stores.sqlite.terms import FileTerms
from llm_connect.stores.sqlite.trackers import FileTrackers
from llm_connect.stores.sqlite.waiters import FileWaiters

if TYPE_CHECKING:
    from llm_connect.budget.accounting.ledger import Ledger
    from llm_connect.budget.admission.booking import Sink

#: The interval in which the worker looks for budget that other processes have freed.
_POLL_SECONDS = 0.01
#: The longest wait for a file after another caller has waited in vain, in seconds.
_SHORT_SECONDS = 0.02
#: Errors about a value, not about the file: writing it again would fail again.
_UNWRITABLE = (
    sqlite3.DataError,
    sqlite3.IntegrityError,
    sqlite3.InterfaceError,
    sqlite3.ProgrammingError,
    OverflowError,
    UnicodeEncodeError,
)
#: By the id of their session, outside of it: an attribute could be finalized before the session can close it.
_connections: dict[int, sqlite3.Connection] = {}


class FileSession(StoreSession):
    """One process's use of a budget in a file."""

    terms: FileTerms
    changes: FileChanges
    leases: FileLeases
    trackers: FileTrackers
    books: FileBooks
    waiters: FileWaiters

    def __init__(self, terms: FileTerms, budget: int, root: int) -> None:
        super().__init__(terms, root)
        self.terms = terms
        self.budget = budget
        #: True if budget may have become free since the last look at the waiting callers of this process.
        self.unseen: bool = False
        #: The identity of the opened file, so that no other file is mistaken for it.
        self._file = Identity(terms.path, terms.named)
        #: True if the last wait for the file was in vain.
        self._busy = False
        #: True after `COMMIT` was sent, and after it was executed.
        self._committing = self._written = False
        #: The last `PRAGMA data_version`, which changes when another process has written.
        self._version: int | None = None
        #: The time at which the monotonic clock was 0; unlike the machine's clock, that one is never set back.
        self._epoch = time.time_ns() - time.monotonic_ns()

    def _open_parts(self, keep_entries: int, sink: Sink | None) -> Ledger:
        terms = self.terms
        self.changes = FileChanges(self)
        self.leases = FileLeases(self, terms.lease_seconds)
        self.waiters = FileWaiters(self, terms.lease_seconds)
        self.trackers = FileTrackers(self, terms.prices, strict=terms.strict)
        ledger = FileLedger(keep_entries, self)
        self.books = FileBooks(self, ledger, self.outbox, sink)
        return ledger

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

    def arrive(self) -> int:
        """The present time of the machine, which orders the callers of all processes."""
        return self._epoch + time.monotonic_ns()

    def sure(self) -> None:
        """Do nothing: no other process changes the file during a transaction."""

    def listen(self) -> None:
        """Do nothing: the worker polls the file."""

    @property
    def unsettled(self) -> bool:
        return False

    def begin(self, informed: bool) -> None:
        self._committing = False
        self.books.begin()
        if self._file.lost:
            self._file.check()
        connection = self.connection
        self._wait_for_file(connection)
        self._file.check()
        version = _data_version(connection)
        others_wrote, self._version = version != self._version, version
        if others_wrote:
            self._hear(connection)
        about = self.interest()
        self.trackers.bring(about)
        if self.gate.windowed:
            self.gate.move(about)
        if others_wrote:
            self.books.look_at_thresholds()
        self.leases.begin(connection)

    def _wait_for_file(self, connection: sqlite3.Connection) -> None:
        """Begin a transaction. After a caller has waited in vain, others wait only briefly until one succeeds."""
        patience = self.terms.busy_seconds
        busy, self._busy = self._busy, True
        begin(connection, min(patience, _SHORT_SECONDS) if busy else patience)
        self._busy = False

    def commit(self) -> None:
        connection = self.connection
        if self.changes:
            self.changes.write(connection)
        self.waiters.tell(self.line)
        if self.taught:
            write_learned(connection, self.budget, self.books.learned.factors)
        self._committing = True
        connection.execute("COMMIT")
        if self.books.last_id is not None:
            self._file.note_entry(self.books.last_id)
        self.trackers.commit()
        self.settled()

    def let_go(self) -> None:
        """Roll the transaction back. If that fails, close the connection; the next step opens another one."""
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
        better, touched = self._as_llm_error(error), [*self.changes.touched, *self.interest()]
        cause = better or error
        self.undo(error, cause if isinstance(cause, LLMError) else None)
        self._know_nothing()
        if self._connection is not None:
            # Show the figures of the file even before the next transaction.
            with suppress(sqlite3.Error):
                self.trackers.bring(touched)
        return better

    def _complete(self) -> None:
        """Complete a step that was interrupted after its commit."""
        self.trackers.commit()
        self.settled()
        self._know_nothing()
        self.line.repair()
        self.line.commit()

    def _know_nothing(self) -> None:
        """Make the next transaction read everything again."""
        self._committing = self._written = False
        self.books.last_id = self._version = None
        self.trackers.forget()
        self.unseen = True

    def passes(self, error: Exception) -> bool:
        return isinstance(error, sqlite3.Error) and not isinstance(error, _UNWRITABLE)

    def _hear(self, connection: sqlite3.Connection) -> None:
        """Take over the changes of other processes, except the figures of trackers."""
        self.trackers.forget()
        lease, budget = self.leases.own, self.budget
        others = connection.execute(OTHERS, (None if lease is None else lease.number, budget, budget))
        last_id, stands, learned, waiters = others.fetchone()
        self.books.last_id = last_id
        self._file.check_entry(last_id)
        self.leases.taken = lease is not None and not stands
        if learned or self.books.learned.factors:
            self.know(read_learned(connection, budget))
        if waiters or self.waiters.any_heard:
            self.waiters.read(self.line)
        self.unseen = True

    def _as_llm_error(self, error: BaseException) -> LLMError | None:
        """The LLMError for an error of SQLite; None for any other error."""
        if isinstance(error, _UNWRITABLE):
            return LLMConfigurationError(f"A value cannot be written to a budget file ({type(error).__name__}).")
        return store_error(self.terms.path, error) if isinstance(error, sqlite3.Error) else None

    def come_due(self) -> bool:
        return self.leases.due or (self.line.busy_here and self._may_let_in())

    def _may_let_in(self) -> bool:
        """True if a waiting caller of this process may fit now, or must renew its row."""
        due = self.unseen or self.waiters.due or self.leases.look_due
        return due or self.next_window <= 0 or self._others_wrote()

    def _others_wrote(self) -> bool:
        return self.gate.run(lambda: _data_version(self.connection), looks=True) != self._version

    def looked(self) -> None:
        self.unseen = False

    @property
    def pause(self) -> float:
        return _POLL_SECONDS if self.line.busy_here else self.leases.pause

    def read_rows(self, query: str, values: tuple[Any, ...]) -> list[Any]:
        """Return the rows of a query after all ended holds are booked."""
        return self.gate.run(lambda: self.connection.execute(query, values).fetchall())

    def disconnect(self) -> None:
        # Another connection counts versions from the beginning.
        connection, self._connection, self._version = self._connection, None, None
        if connection is not None:
            close(connection, self._file)
        self._file.forget_log()

    def leave_connection(self) -> None:
        self._file.forget_log()
        if self._connection is not None:
            keep_for_parent(self._connection)
        self._connection = self._version = None

    def __del__(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        lease = self.leases.own
        if self.worker.running:
            self.worker.put(partial(_say_farewell, connection, self._file, None if lease is None else lease.number))
            self.worker.put_end()
        else:
            close(connection, self._file)


def _data_version(connection: sqlite3.Connection) -> int:
    """Return a number that changes when another connection has written."""
    version: int
    (version,) = connection.execute("PRAGMA data_version").fetchone()
    return version


def _say_farewell(connection: sqlite3.Connection, file: Identity, lease: int | None) -> None:
    """Close the file of a session that was garbage-collected; its holds have all ended."""
    with suppress(sqlite3.Error):
        connection.execute("DELETE FROM leases WHERE id = ? AND id NOT IN (SELECT lease FROM holds)", (lease,))
    close(connection, file)

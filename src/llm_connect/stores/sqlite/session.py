"""The session of a budget in a file. A step is a transaction, so it always sees the present state of the file.

`BudgetFile` makes the transactions, and checks that the file is still the same.
"""

# Each session has parts of its own kind, and never replaces them.
# pyright: reportIncompatibleVariableOverride=false

from __future__ import annotations

import ctypes
import os
import sqlite3
import struct
import sys
import time
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from llm_connect.budget.accounting.windows import Window
from llm_connect.budget.admission.booking import wall_clock
from llm_connect.budget.admission.controller import Gate
from llm_connect.errors import LLMConfigurationError, LLMError, LLMStoreError
from llm_connect.stores.session import StoreSession, Terms
from llm_connect.stores.sqlite import rows
from llm_connect.stores.sqlite.file import connect, is_corrupt, is_whole, patiently, revision_of, store_error, url_of

if TYPE_CHECKING:
    from llm_connect.budget.accounting.windows import Period
    from llm_connect.budget.admission.arguments import Limits, OnUnknown

#: The interval in which the worker looks for budget that other processes have freed.
_POLL_SECONDS = 0.01
#: The longest wait for a file after another caller has waited in vain, in seconds.
_SHORT_SECONDS = 0.02
#: During a checkpoint, the file may look corrupt for a moment.
_TRIES, _PAUSE_SECONDS = 10, 0.02
#: The bytes of a file that SQLite locks for readers: the first one and their number.
_READERS = (0x4000_0002, 510)
#: By the id of their `BudgetFile`, outside of it: an attribute could be finalized before the file can close it.
_connections: dict[int, sqlite3.Connection] = {}
#: Connections to lost files, and those of a parent process, which are never closed.
_unclosed: list[sqlite3.Connection] = []
#: Errors about a value, not about the file: writing it again would fail again.
_UNWRITABLE = (
    sqlite3.DataError,
    sqlite3.IntegrityError,
    sqlite3.InterfaceError,
    sqlite3.ProgrammingError,
    OverflowError,
    UnicodeEncodeError,
)
_FIND_BUDGET = (
    "SELECT budgets.id, on_unknown, trackers.id FROM budgets JOIN trackers ON trackers.budget = budgets.id "
    "WHERE budgets.name = ? AND parent IS NULL"
)
_NEW_BUDGET = "INSERT INTO budgets (name, on_unknown, created_at) VALUES (?, ?, ?)"
_NEW_ROOT = (
    "INSERT INTO trackers (budget, name, path, joined, closed, tokens_limit, calls_limit, nano_usd_limit) "
    "VALUES (?, ?, ?, 0, 0, ?, ?, ?)"
)
#: The changes of other processes that concern more than trackers.
_OTHERS = (
    "SELECT (SELECT ifnull(max(id), 0) FROM ledger), EXISTS (SELECT 1 FROM leases WHERE id = ?), "
    "EXISTS (SELECT 1 FROM learned WHERE budget = ?), EXISTS (SELECT 1 FROM waiters WHERE budget = ?)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FileTerms(Terms):
    """The options of a process for a budget in the file at `path`."""

    path: str
    #: The path in the URL, absolute and with its symbolic links.
    named: str = field(compare=False)

    @property
    def shown(self) -> str:
        return url_of(self.path)

    def session(self) -> FileSession:
        with closing(connect(self.path, self.busy_seconds)) as connection:
            row = self._found(connection)
        if row is None:
            raise LLMStoreError(f"{self.shown} has no budget {self.name!r}: create it with open_budget.")
        budget, on_unknown, root = row
        session = FileSession(self, budget, root)
        Gate(self.keep_entries, on_unknown, self.sink, session)
        return session

    def make(self, limits: Limits, period: Period | None, on_unknown: OnUnknown) -> bool:
        try:
            with closing(connect(self.path, self.busy_seconds)) as connection:
                if self._found(connection) is not None:
                    return False
                begin(connection, self.busy_seconds)
                if self._found(connection) is not None:
                    return False
                budget = connection.execute(_NEW_BUDGET, (self.name, on_unknown, time.time())).lastrowid
                root = connection.execute(_NEW_ROOT, (budget, self.name, self.name, *limits)).lastrowid
                assert root is not None
                if period is not None:
                    rows.write_window(connection, root, Window(period, wall_clock))
                connection.execute("COMMIT")
                return True
        except sqlite3.Error as error:
            raise store_error(self.path, error) from None

    def _found(self, connection: sqlite3.Connection) -> Any:
        return connection.execute(_FIND_BUDGET, (self.name,)).fetchone()


class FileSession(rows.FileParts, StoreSession):
    """One process's use of a budget in a file."""

    terms: FileTerms
    waiters: rows.FileWaiters

    def __init__(self, terms: FileTerms, budget: int, root: int) -> None:
        super().__init__(terms, root)
        self.terms = terms
        self.budget = budget
        self.unseen = False
        self.file: BudgetFile = BudgetFile(terms.path, terms.named, terms.busy_seconds)
        #: The time at which the monotonic clock was 0; unlike the machine's clock, that one is never set back.
        self._epoch = time.time_ns() - time.monotonic_ns()

    def _open_parts(self, keep_entries: int) -> None:
        terms = self.terms
        self.changes: rows.FileChanges = rows.FileChanges(self)
        self.leases: rows.FileLeases = rows.FileLeases(self, terms.lease_seconds)
        self.trackers: rows.FileTrackers = rows.FileTrackers(self, terms.prices, strict=terms.strict)
        self.waiters = rows.FileWaiters(self, terms.lease_seconds)
        self.entries: rows.FileEntries = rows.FileEntries(keep_entries, self)

    @property
    def connection(self) -> sqlite3.Connection:
        return self.file.connection

    @property
    def gone(self) -> bool:
        return self.file.lost

    def arrive(self) -> int:
        """The present time of the machine, which orders the callers of all processes."""
        return self._epoch + time.monotonic_ns()

    def sure(self) -> None:
        """Do nothing: no other process changes the file during a transaction."""

    def listen(self) -> None:
        """Do nothing: the worker polls the file."""

    def begin(self, informed: bool) -> None:
        others_wrote = self.file.begin()
        if others_wrote:
            self._hear()
        about, windowed = self.interest(), self.gate.windowed
        self.trackers.bring(about)
        if windowed:
            self.gate.move(about)
        if others_wrote:
            self.books.look_at_thresholds()
        self.leases.begin()

    def commit(self) -> None:
        self.changes.write(self.file.connection)
        if self.line.busy or self.waiters.told:
            self.waiters.tell(self.line)
        if self.books.learned.factors != self._learned_before:
            self.write_learned(self.books.learned.factors)
        self.file.commit(self.entries.last_id)
        self.settled()

    def roll_back(self, error: BaseException) -> Exception | None:
        self.file.let_go()
        if self.file.written and not isinstance(error, sqlite3.Error):
            self._complete()
            return None
        better, touched = self._as_llm_error(error), [*self.changes.touched, *self.interest()]
        cause = better or error
        self.undo(error, cause if isinstance(cause, LLMError) else None)
        self._know_nothing()
        if self.file.connected:
            # Show the figures of the file even before the next transaction.
            with suppress(sqlite3.Error):
                self.trackers.bring(touched)
        return better

    def _complete(self) -> None:
        """Complete a step that was interrupted after its commit."""
        self.settled()
        self._know_nothing()
        self.line.repair()
        self.line.commit()

    def _know_nothing(self) -> None:
        """Make the next transaction read everything again."""
        self.file.know_nothing()
        self.entries.last_id = None
        self.trackers.forget()
        self.unseen = True

    def passes(self, error: Exception) -> bool:
        return isinstance(error, sqlite3.Error) and not isinstance(error, _UNWRITABLE)

    def _hear(self) -> None:
        """Take over the changes of other processes, except the figures of trackers."""
        self.trackers.forget()
        lease, budget = self.leases.own, self.budget
        others = self.connection.execute(_OTHERS, (None if lease is None else lease.number, budget, budget))
        last_id, stands, learned, waiters = others.fetchone()
        self.entries.last_id = last_id
        self.file.check_entry(last_id)
        self.leases.taken = lease is not None and not stands
        if learned or self.books.learned.factors:
            self.know(self.read_learned())
        if waiters or self.waiters.remote:
            self.waiters.see(self.waiters.heard(), self.line)
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
        return self.gate.run(lambda: data_version(self.connection), looks=True) != self.file.version

    def looked(self) -> None:
        self.unseen: bool = False

    @property
    def pause(self) -> float:
        return _POLL_SECONDS if self.line.busy_here else self.leases.pause

    def disconnect(self) -> None:
        self.file.disconnect()

    def leave_connection(self) -> None:
        self.file.leave_to_parent()

    def __del__(self) -> None:
        file = self.__dict__.get("file")
        if file is None or not file.connected:
            return
        lease = self.leases.own
        if self.worker.running:
            self.worker.put(partial(file.say_farewell, None if lease is None else lease.number))
            self.worker.put_end()
        else:
            file.disconnect()


class _Seen(NamedTuple):
    """The state of a file at one look."""

    place: tuple[int, int]
    log: tuple[int, int] | None
    written_at: int
    size: int


class BudgetFile:
    """The budget file that a session has opened, with its one connection. Each look at the file costs two system calls.

    SQLite trusts its cache, and keeps working in a file that was deleted. So each look checks that the file and its
    log (`-wal`) still have the same inodes, and that the file without its log, which checkpoints write, has not gone
    back to an earlier state. If a reader keeps a checkpoint from finishing, the file is inconsistent without its log;
    then the look after the next checkpoint decides.
    """

    def __init__(self, path: str, named: str, busy_seconds: float) -> None:
        self.path = path
        #: The path by which the file was opened; a symbolic link in it may lead elsewhere later.
        self._named = named
        self._busy_seconds = busy_seconds
        #: True if the last wait for the file was in vain.
        self._busy = False
        #: The last `PRAGMA data_version`, which changes when another process has written.
        self.version: int | None = None
        #: True after `COMMIT` was sent, and after it was executed.
        self.committing: bool = False
        self.written: bool = False
        self._seen: _Seen | None = None
        self._revision = (0, 0)
        self._last_entry = 0
        #: True, and never False again, once the file was found to be lost.
        self.lost: bool = False

    @property
    def connection(self) -> sqlite3.Connection:
        """The one connection of this process."""
        connection = _connections.get(id(self))
        if connection is None:
            connection = _connections[id(self)] = connect(self.path, self._busy_seconds)
        return connection

    @property
    def connected(self) -> bool:
        return id(self) in _connections

    def begin(self) -> bool:
        """Begin a transaction; True if another process has written since the last one.

        After a caller has waited in vain for the file, others wait only briefly until one succeeds.
        """
        self.committing = False
        if self.lost:
            self.check()
        connection, busy = self.connection, self._busy
        self._busy = True
        begin(connection, min(self._busy_seconds, _SHORT_SECONDS) if busy else self._busy_seconds)
        self._busy = False
        self.check()
        before, self.version = self.version, data_version(connection)
        return before != self.version

    def commit(self, last_entry: int | None) -> None:
        """Commit the transaction. `last_entry` is the last entry that this process knows of."""
        self.committing = True
        self.connection.execute("COMMIT")
        if last_entry is not None:
            self._last_entry = last_entry

    def let_go(self) -> None:
        """Roll the transaction back. If that fails, close the connection; the next step opens another one."""
        connection = _connections.get(id(self))
        if connection is None:
            self.written = False
            return
        try:
            if connection.in_transaction:
                self.written = False
                connection.rollback()
            else:
                self.written = self.committing
            if self.lost:
                self.disconnect()
        except sqlite3.Error:
            self.disconnect()

    def know_nothing(self) -> None:
        """Make the next transaction find that another process has written."""
        self.committing = self.written = False
        self.version = None

    def disconnect(self) -> None:
        """Close the connection, but keep SQLite from writing or deleting a log if the file is lost.

        The last connection that closes writes the log into the file, and deletes the log by its name. If the file was
        replaced, a log of that name belongs to the new file.
        """
        # Another connection counts versions from the beginning.
        connection, self.version = _connections.pop(id(self), None), None
        if connection is not None:
            with suppress(LLMStoreError):
                self.check()
            if self.lost and not (_can_leave_the_log(connection) or self._closed_under_lock(connection)):
                _unclosed.append(connection)
                # Without this reference, Python would close the connection at exit.
                ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))
            else:
                connection.close()
        self._forget_log()

    def leave_to_parent(self) -> None:
        """Let go of the connection in a forked process. Closing it there would release locks of the parent."""
        connection, self.version = _connections.pop(id(self), None), None
        if connection is not None:
            _unclosed.append(connection)
        self._forget_log()

    def say_farewell(self, lease: int | None) -> None:
        """Close the file of a session that was garbage-collected; its holds have all ended."""
        with suppress(sqlite3.Error):
            delete = "DELETE FROM leases WHERE id = ? AND id NOT IN (SELECT lease FROM holds)"
            self.connection.execute(delete, (lease,))
        self.disconnect()

    def check(self) -> None:
        """Raise LLMStoreError if the file was deleted, replaced or overwritten."""
        now = None if self.lost else _look(self._named, self.path)
        if now is None or not self._is_same(now):
            self._lose()
        self._seen = now

    def check_entry(self, last: int) -> None:
        """Raise LLMStoreError if the last entry is older than one that this process has seen."""
        if last < self._last_entry:
            self._lose()
        self._last_entry = last

    def _is_same(self, now: _Seen) -> bool:
        seen = self._seen
        if seen == now:
            return True
        if seen is not None and (seen.place != now.place or seen.log not in (None, now.log)):
            return False
        return (seen is not None and seen.written_at == now.written_at) or self._goes_on(now)

    def _goes_on(self, now: _Seen) -> bool:
        """True unless the file was set back to an earlier state."""
        if self._seen is not None and not now.size:
            return False
        for _ in range(_TRIES):
            try:
                revision = revision_of(self.path)
            except sqlite3.Error as error:
                in_part = is_corrupt(error)
            else:
                if revision[0] >= self._revision[0] and revision[1] >= self._revision[1]:
                    self._revision = revision
                    return True
                in_part = not is_whole(self.path)
            if in_part and now.log is not None:
                return True
            time.sleep(_PAUSE_SECONDS)
        return False

    def _forget_log(self) -> None:
        """Accept any log at the next look: the connection was closed, which may have deleted the log."""
        if self._seen is not None:
            self._seen = self._seen._replace(log=None)

    def _lose(self) -> None:
        self.lost = True
        raise LLMStoreError(
            f"The budget store {url_of(self.path)} cannot be used: its file was deleted, replaced or restored after "
            "this process had opened it. Open the budget again to continue with the present file.",
            store=url_of(self.path),
        )

    def _closed_under_lock(self, connection: sqlite3.Connection) -> bool:
        """Close a connection under the lock of a reader, so that SQLite leaves the log as it is.

        An open connection would keep every new one of this process from a file that was restored in place. Returns
        False if the path now leads to another file, which the old connection does not affect, or if the system has no
        such locks.
        """
        try:
            import fcntl

            now = _look(self.path, self.path)
            # The layout of the lock below is Linux's.
            if sys.platform != "linux" or now is None or self._seen is None or now.place != self._seen.place:
                return False
            # Never closed: closing it would release the locks of all connections of this process to the file.
            reader = os.open(self.path, os.O_RDONLY)
            fcntl.fcntl(reader, fcntl.F_OFD_SETLK, struct.pack("hhqqi0q", fcntl.F_RDLCK, os.SEEK_SET, *_READERS, 0))
        except (ImportError, AttributeError, OSError):
            return False
        connection.close()
        fcntl.fcntl(reader, fcntl.F_OFD_SETLK, struct.pack("hhqqi0q", fcntl.F_UNLCK, os.SEEK_SET, *_READERS, 0))
        return True


def begin(connection: sqlite3.Connection, busy_seconds: float) -> None:
    """Begin a write transaction. Raises sqlite3.Error if the file stays busy for `busy_seconds`."""
    try:
        connection.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError:
        patiently(partial(connection.execute, "BEGIN IMMEDIATE"), busy_seconds)


def data_version(connection: sqlite3.Connection) -> int:
    """Return a number that changes when another connection has written."""
    version: int
    (version,) = connection.execute("PRAGMA data_version").fetchone()
    return version


def _look(named: str, path: str) -> _Seen | None:
    """Return the state of the file that `named` leads to, or None if there is none; its log is beside `path`."""
    try:
        now = os.stat(named)
    except OSError:
        return None
    try:
        log = os.stat(f"{path}-wal")
    except OSError:
        return _Seen((now.st_dev, now.st_ino), None, now.st_mtime_ns, now.st_size)
    return _Seen((now.st_dev, now.st_ino), (log.st_dev, log.st_ino), now.st_mtime_ns, now.st_size)


def _can_leave_the_log(connection: Any) -> bool:
    """Make a connection leave its log as it is when it closes. False before Python 3.12, which cannot do that."""
    if not hasattr(connection, "setconfig"):
        return False
    connection.setconfig(sqlite3.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, True)  # type: ignore[attr-defined]
    return True

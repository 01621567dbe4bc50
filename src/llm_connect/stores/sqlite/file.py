"""A budget file: its connections, its tables, and checks that it is still the same file.

The scripts in `migrations` create the tables, which every SQLite tool can read. Amounts are integers: tokens, calls and
nano-USD. Times are seconds since the epoch.
"""

from __future__ import annotations

import ctypes
import importlib.resources
import os
import random
import sqlite3
import struct
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import quote

from llm_connect.errors import LLMStoreError

#: "LLMb", by which `file` and other tools recognize a budget file.
APPLICATION_ID = 0x4C4C4D62

_BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
#: The pauses between two tries, in seconds.
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.002, 0.1
#: The longest wait for a file after another caller has waited in vain, in seconds.
_SHORT_SECONDS = 0.02

#: Two numbers in a file that never decrease: the last ledger entry and the last lease.
_REVISION = "SELECT (SELECT ifnull(max(id), 0) FROM ledger), (SELECT ifnull(max(seq), 0) FROM sqlite_sequence)"
#: During a checkpoint, the file may look corrupt for a moment.
_TRIES, _PAUSE_SECONDS = 10, 0.02

#: The bytes of a file that SQLite locks for readers: the first one and their number.
_READERS = (0x4000_0002, 510)
#: By the id of their `BudgetFile`, outside of it: an attribute could be finalized before the file can close it.
_connections: dict[int, sqlite3.Connection] = {}
#: Connections to lost files, and those of a parent process, which are never closed.
_unclosed: list[sqlite3.Connection] = []


def _migrations() -> tuple[str, ...]:
    """The scripts in `migrations`, in order."""
    folder = importlib.resources.files("llm_connect.stores.sqlite").joinpath("migrations")
    scripts = sorted(folder.iterdir(), key=lambda script: int(script.name.removesuffix(".sql")))
    return tuple(script.read_text("utf-8") for script in scripts)


#: Each script upgrades a file to the next version; `PRAGMA user_version` counts the scripts that have run.
MIGRATIONS: tuple[str, ...] = _migrations()


def connect(path: str, busy_seconds: float) -> sqlite3.Connection:
    """Connect to the budget file at `path`; create it, or upgrade its tables, if necessary.

    A commit returns after its data is on the disk (`synchronous=FULL`).

    Raises LLMStoreError if the file cannot be opened, is not a budget file, or was written by a later version.
    """

    def prepare(connection: sqlite3.Connection) -> None:
        patiently(partial(_prepare, connection, path, MIGRATIONS), busy_seconds)

    return _opened(path, path, prepare, timeout=0, check_same_thread=False)


def read_only(path: str) -> sqlite3.Connection:
    """A connection that can change nothing. Raises LLMStoreError, also if the file does not exist."""

    def prepare(connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA query_only = 1")
        if _version(connection, path) != len(MIGRATIONS):
            raise LLMStoreError(
                f"{path} is not a budget file of this version: open_budget creates or updates it.", store=url_of(path)
            )

    # Not `mode=ro`: it cannot read a file that no other connection has open.
    return _opened(path, f"file:{quote(path)}?mode=rw", prepare, uri=True, timeout=5)


def peek(path: str) -> sqlite3.Connection:
    """A connection that reads the file without its log. Raises sqlite3.Error.

    Only SQLite may open the file: any other way of closing it would release the locks of this process's connections.
    """
    return sqlite3.connect(f"file:{quote(path)}?immutable=1", uri=True, isolation_level=None, timeout=0)


def begin(connection: sqlite3.Connection, busy_seconds: float) -> None:
    """Begin a write transaction. Raises sqlite3.Error if the file stays busy for `busy_seconds`."""
    try:
        connection.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError:
        patiently(partial(connection.execute, "BEGIN IMMEDIATE"), busy_seconds)


def patiently(work: Callable[[], object], busy_seconds: float) -> None:
    """Do `work` as soon as the file is free. Raises sqlite3.Error if it stays busy for `busy_seconds`.

    SQLite's own busy handler sleeps up to a tenth of a second between two tries, even if little time is left. This
    function tries at least ten times, at random moments. More tries would cost more than they gain: the process that
    has just written does its next steps fastest, because its cache is up to date. After half of the time it tries at
    the shortest interval, so that every process gets its turn even in the busiest file.
    """
    end = time.monotonic() + busy_seconds
    urgent = end - busy_seconds / 2
    pause, longest = _SHORTEST_PAUSE, min(_LONGEST_PAUSE, busy_seconds / 10)
    while True:
        try:
            work()
            return
        except sqlite3.OperationalError as error:
            now = time.monotonic()
            if error.sqlite_errorcode & 0xFF not in _BUSY or now >= end:
                raise
        time.sleep(pause * random.random())  # noqa: S311 - so that processes do not try at the same time
        pause = _SHORTEST_PAUSE if now >= urgent else min(2 * pause, longest)


def url_of(path: str) -> str:
    """The URL of a budget file."""
    return f"sqlite:///{path}"


def store_error(path: str, error: sqlite3.Error) -> LLMStoreError:
    """The LLMStoreError for an error of SQLite in the file at `path`."""
    url = url_of(path)
    if "locked" in str(error):
        advice = "other processes keep it busy. Try again, or share it among fewer"
    else:
        advice = "check that the file and its folder exist and are writable"
    return LLMStoreError(f"The budget store {url} cannot be used ({error}): {advice}.", store=url)


def _prepare(connection: sqlite3.Connection, path: str, migrations: Sequence[str]) -> None:
    connection.execute("PRAGMA synchronous = FULL")
    # macOS needs both to write through the cache of the disk.
    connection.execute("PRAGMA fullfsync = ON")
    connection.execute("PRAGMA checkpoint_fullfsync = ON")
    if _version(connection, path) == len(migrations):
        return
    connection.execute("PRAGMA journal_mode = WAL")
    try:
        connection.execute("BEGIN IMMEDIATE")
        version = _version(connection, path)
        for script in migrations[version:]:
            for statement in _statements(script):
                connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {len(migrations)}")
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def _version(connection: sqlite3.Connection, path: str) -> int:
    """The version of the tables, 0 in an empty file. Raises LLMStoreError for another program's database."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if application != APPLICATION_ID and (tables or version):
        raise LLMStoreError(f"{path} is a database of another program: choose another file.", store=url_of(path))
    if version > len(MIGRATIONS):
        raise LLMStoreError(
            f"{path} was written by a later version of llm-connect: install that version.", store=url_of(path)
        )
    return int(version)


def _statements(script: str) -> list[str]:
    """The single statements of a script, which can all run in one transaction."""
    statements, rest = [], ""
    for line in script.splitlines(keepends=True):
        rest += line
        if sqlite3.complete_statement(rest):
            statements.append(rest)
            rest = ""
    return statements


def _opened(
    path: str, database: str, prepare: Callable[[sqlite3.Connection], None], **options: Any
) -> sqlite3.Connection:
    """Open a connection and prepare it. Raises LLMStoreError for an error of SQLite."""
    try:
        connection: sqlite3.Connection = sqlite3.connect(database, isolation_level=None, **options)
        try:
            prepare(connection)
        except BaseException:
            connection.close()
            raise
    except sqlite3.Error as error:
        raise store_error(path, error) from None
    return connection


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
                revision = _revision(self.path)
            except sqlite3.Error as error:
                in_part = _is_corrupt(error)
            else:
                if revision[0] >= self._revision[0] and revision[1] >= self._revision[1]:
                    self._revision = revision
                    return True
                in_part = not _is_whole(self.path)
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


def _revision(path: str) -> tuple[int, int]:
    """The revision in a file without its log. Raises sqlite3.Error."""
    with closing(peek(path)) as connection:
        try:
            found: tuple[int, int] = connection.execute(_REVISION).fetchone()
        except sqlite3.OperationalError as error:
            if "no such table" not in str(error):
                raise
            # Everything is still in the log.
            return (0, 0)
    return found


def _is_whole(path: str) -> bool:
    """True if a file without its log is consistent in itself, as a backup is."""
    with closing(peek(path)) as connection:
        try:
            return bool(connection.execute("PRAGMA quick_check(1)").fetchone() == ("ok",))
        except sqlite3.Error as error:
            return not _is_corrupt(error)


def _is_corrupt(error: sqlite3.Error) -> bool:
    # The upper bytes of an error code only add details.
    return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_CORRUPT


def _can_leave_the_log(connection: Any) -> bool:
    """Make a connection leave its log as it is when it closes. False before Python 3.12, which cannot do that."""
    if not hasattr(connection, "setconfig"):
        return False
    connection.setconfig(sqlite3.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, True)  # type: ignore[attr-defined]
    return True

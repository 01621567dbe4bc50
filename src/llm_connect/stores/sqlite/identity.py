"""Checks that a budget file was not replaced or set back to an earlier state since it was opened."""

from __future__ import annotations

import ctypes
import os
import sqlite3
import struct
import sys
import time
from contextlib import closing, suppress
from typing import Any, NamedTuple

from llm_connect.errors import LLMStoreError
from llm_connect.stores.sqlite.schema import peek, url_of

#: Two numbers in a file that never decrease: the last ledger entry and the last lease.
_REVISION = "SELECT (SELECT ifnull(max(id), 0) FROM ledger), (SELECT ifnull(max(seq), 0) FROM sqlite_sequence)"
#: During a checkpoint, the file may look corrupt for a moment.
_TRIES, _PAUSE_SECONDS = 10, 0.02

#: The bytes of a file that SQLite locks for readers: the first one and their number.
_READERS = (0x4000_0002, 510)
#: Connections to lost files, which are never closed.
_unclosed: list[sqlite3.Connection] = []


class _Seen(NamedTuple):
    """The state of a file at one look."""

    place: tuple[int, int]
    log: tuple[int, int] | None
    written_at: int
    size: int


class Identity:
    """The budget file that this process has opened. Each look costs two system calls.

    SQLite trusts its cache, and keeps working in a file that was deleted. So each look checks that the file and its
    log (`-wal`) still have the same inodes, and that the file without its log, which checkpoints write, has not gone
    back to an earlier state. If a reader keeps a checkpoint from finishing, the file is inconsistent without its log;
    then the look after the next checkpoint decides.
    """

    def __init__(self, path: str, named: str) -> None:
        self.path: str = path
        #: The path by which the file was opened; a symbolic link in it may lead elsewhere later.
        self._named = named
        self._seen: _Seen | None = None
        self._revision = (0, 0)
        self._last_entry = 0
        #: True, and never False again, once the file was found to be lost.
        self.lost: bool = False

    @property
    def in_place(self) -> bool:
        """True if the path still leads to the same file, perhaps in another state."""
        now = _look(self.path, self.path)
        return now is not None and self._seen is not None and now.place == self._seen.place

    def forget_log(self) -> None:
        """Accept any log at the next look: the connection was closed, which may have deleted the log."""
        if self._seen is not None:
            self._seen = self._seen._replace(log=None)

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

    def note_entry(self, last: int) -> None:
        """Note that this process has seen an entry."""
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

    def _lose(self) -> None:
        self.lost = True
        raise LLMStoreError(
            f"The budget store {url_of(self.path)} cannot be used: its file was deleted, replaced or restored after "
            "this process had opened it. Open the budget again to continue with the present file.",
            store=url_of(self.path),
        )


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


def close(connection: sqlite3.Connection, file: Identity) -> None:
    """Close a connection, but keep SQLite from writing or deleting a log if the file is lost.

    The last connection that closes writes the log into the file, and deletes the log by its name. If the file was
    replaced, a log of that name belongs to the new file.
    """
    with suppress(LLMStoreError):
        file.check()
    if file.lost and not (_can_leave_the_log(connection) or _closed_under_lock(connection, file)):
        _unclosed.append(connection)
        # Without this reference, Python would close the connection at exit.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))
        return
    connection.close()


def _closed_under_lock(connection: sqlite3.Connection, file: Identity) -> bool:
    """Close a connection under the lock of a reader, so that SQLite leaves the log as it is.

    An open connection would keep every new one of this process from a file that was restored in place. Returns False
    if the path now leads to another file, which the old connection does not affect, or if the system has no such locks.
    """
    try:
        import fcntl

        # The layout of the lock below is Linux's.
        if not (file.in_place and sys.platform == "linux"):
            return False
        # Never closed: closing it would release the locks of all connections of this process to the file.
        reader = os.open(file.path, os.O_RDONLY)
        fcntl.fcntl(reader, fcntl.F_OFD_SETLK, struct.pack("hhqqi0q", fcntl.F_RDLCK, os.SEEK_SET, *_READERS, 0))
    except (ImportError, AttributeError, OSError):
        return False
    connection.close()
    fcntl.fcntl(reader, fcntl.F_OFD_SETLK, struct.pack("hhqqi0q", fcntl.F_UNLCK, os.SEEK_SET, *_READERS, 0))
    return True


def _can_leave_the_log(connection: Any) -> bool:
    """Make a connection leave its log as it is when it closes. False before Python 3.12, which cannot do that."""
    if not hasattr(connection, "setconfig"):
        return False
    connection.setconfig(sqlite3.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, True)  # type: ignore[attr-defined]
    return True

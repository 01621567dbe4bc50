"""Checks that a budget file is still the one that was opened, and in no earlier state."""

from __future__ import annotations

import ctypes
import os
import sqlite3
import struct
import time
from contextlib import closing, suppress
from typing import Any, NamedTuple

from llm_connect.errors import LLMStoreError
from llm_connect.stores.sqlite.schema import peek, url_of

#: Two numbers in a file that only grow: the last entry of the ledger, and the last lease.
_REVISION = "SELECT (SELECT ifnull(max(id), 0) FROM ledger), (SELECT ifnull(max(seq), 0) FROM sqlite_sequence)"
#: A file that is just being written from its log may look wrong for a moment.
_TRIES, _PAUSE_SECONDS = 10, 0.02

#: Where SQLite locks a file for those that read it: the first byte, and how many.
_READERS = (0x4000_0002, 510)
#: Connections to files that are no longer there.
_unclosed: list[sqlite3.Connection] = []


class _Seen(NamedTuple):
    """A file as it was at the last look."""

    place: tuple[int, int]
    log: tuple[int, int] | None
    written_at: int
    size: int


class Identity:
    """The file of one process. Each look costs two calls of the operating system.

    SQLite trusts what it has read before, and goes on in a file that was deleted. So the file and its log have to be
    where they were, and the file without its log, which checkpoints write, never goes back to an earlier state. A
    checkpoint that a reader keeps from its end leaves a file that makes no sense without its log: then the next
    checkpoint tells.
    """

    def __init__(self, path: str) -> None:
        self.path: str = path
        self._seen: _Seen | None = None
        self._revision = (0, 0)
        self._last_entry = 0
        #: True once it is known to be another file, for good.
        self.lost: bool = False

    @property
    def in_place(self) -> bool:
        """True if it is the same file, perhaps in another state."""
        now = _look(self.path)
        return now is not None and self._seen is not None and now.place == self._seen.place

    def forget_log(self) -> None:
        """The connection was closed, and with it the log may have gone."""
        if self._seen is not None:
            self._seen = self._seen._replace(log=None)

    def check(self) -> None:
        """Raise LLMStoreError when the file is another one, or was overwritten."""
        now = None if self.lost else _look(self.path)
        if now is None or not self._is_same(now):
            self._lose()
        self._seen = now

    def check_entry(self, last: int) -> None:
        """Raise LLMStoreError when the last entry comes before one that this process has seen."""
        if last < self._last_entry:
            self._lose()
        self._last_entry = last

    def note_entry(self, last: int) -> None:
        """This process has seen an entry."""
        self._last_entry = last

    def _is_same(self, now: _Seen) -> bool:
        seen = self._seen
        if seen == now:
            return True
        if seen is not None and (seen.place != now.place or seen.log not in (None, now.log)):
            return False
        return (seen is not None and seen.written_at == now.written_at) or self._goes_on(now)

    def _goes_on(self, now: _Seen) -> bool:
        """True if the file was not set back to an earlier state."""
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


def _look(path: str) -> _Seen | None:
    """Look at a file; None if it does not exist."""
    try:
        now = os.stat(path)
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
            # All that ever was in it is in the log.
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
    # The code of an error says more in its further bytes.
    return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_CORRUPT


def close(connection: sqlite3.Connection, file: Identity) -> None:
    """Close a connection. Of a file that is another one it only lets go.

    The last one that closes a file writes its log into it, and deletes the log by its name: which is another's by now.
    """
    with suppress(LLMStoreError):
        file.check()
    if file.lost and not (_can_leave_the_log(connection) or _closed_under_lock(connection, file)):
        _unclosed.append(connection)
        # Also when Python ends, which would close it.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))
        return
    connection.close()


def _closed_under_lock(connection: sqlite3.Connection, file: Identity) -> bool:
    """Close a connection while somebody else seems to read its file: then it leaves its log.

    Kept open, it would keep every new connection of this process from a file that was restored in its place. False
    where the file is another one by now, which the old connection does not concern, or where there are no such locks.
    """
    try:
        import fcntl

        if not file.in_place:
            return False
        # It stays open for good: closed, it would let go the locks of all connections of this process to the file.
        reader = os.open(file.path, os.O_RDONLY)
        fcntl.fcntl(reader, fcntl.F_OFD_SETLK, struct.pack("hhqqi0q", fcntl.F_RDLCK, os.SEEK_SET, *_READERS, 0))
    except (ImportError, AttributeError, OSError):
        return False
    connection.close()
    fcntl.fcntl(reader, fcntl.F_OFD_SETLK, struct.pack("hhqqi0q", fcntl.F_UNLCK, os.SEEK_SET, *_READERS, 0))
    return True


def _can_leave_the_log(connection: Any) -> bool:
    """Make a connection leave its log as it is; False before Python 3.12, which cannot do that."""
    if not hasattr(connection, "setconfig"):
        return False
    connection.setconfig(sqlite3.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, True)  # type: ignore[attr-defined]
    return True

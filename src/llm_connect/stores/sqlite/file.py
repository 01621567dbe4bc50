"""A budget file as every program meets it: its connections, its tables, and the errors of SQLite.

The scripts in `migrations` create the tables, which every SQLite tool can read. Amounts are integers: tokens, calls and
nano-USD. Times are seconds since the epoch.
"""

from __future__ import annotations

import importlib.resources
import random
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from typing import Any
from urllib.parse import quote

from llm_connect.errors import LLMStoreError

#: "LLMb", by which `file` and other tools recognize a budget file.
APPLICATION_ID = 0x4C4C4D62

_BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
#: The pauses between two tries, in seconds.
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.002, 0.1

#: Two numbers in a file that never decrease: the last ledger entry and the last lease.
_REVISION = "SELECT (SELECT ifnull(max(id), 0) FROM ledger), (SELECT ifnull(max(seq), 0) FROM sqlite_sequence)"


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


def revision_of(path: str) -> tuple[int, int]:
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


def is_whole(path: str) -> bool:
    """True if a file without its log is consistent in itself, as a backup is."""
    with closing(peek(path)) as connection:
        try:
            return bool(connection.execute("PRAGMA quick_check(1)").fetchone() == ("ok",))
        except sqlite3.Error as error:
            return not is_corrupt(error)


def is_corrupt(error: sqlite3.Error) -> bool:
    # The upper bytes of an error code only add details.
    return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_CORRUPT

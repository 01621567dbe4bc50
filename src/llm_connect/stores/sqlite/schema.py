"""Connections to a budget file, and its tables, which the scripts in `migrations` create.

Every SQLite tool can read the tables. Amounts are integers: tokens, calls and nano-USD. Times are seconds since the
epoch.
"""

from __future__ import annotations

import importlib.resources
import random
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any
from urllib.parse import quote

from llm_connect.errors import LLMStoreError

#: "LLMb", by which `file` and other tools recognize a budget file.
APPLICATION_ID = 0x4C4C4D62

_BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
#: The pauses between two tries, in seconds.
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.002, 0.1


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
    connection = _opened(path, path, timeout=0, check_same_thread=False)
    with _closed_when_unfit(connection, path):
        patiently(partial(_prepare, connection, path, MIGRATIONS), busy_seconds)
    return connection


def read_only(path: str) -> sqlite3.Connection:
    """A connection that can change nothing. Raises LLMStoreError, also if the file does not exist."""
    # Not `mode=ro`: it cannot read a file that no other connection has open.
    connection = _opened(path, f"file:{quote(path)}?mode=rw", uri=True, timeout=5)
    with _closed_when_unfit(connection, path):
        connection.execute("PRAGMA query_only = 1")
        if _version(connection, path) != len(MIGRATIONS):
            raise LLMStoreError(
                f"{path} is not a budget file of this version: open_budget creates or updates it.", store=url_of(path)
            )
    return connection


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


def _opened(path: str, database: str, **options: Any) -> sqlite3.Connection:
    try:
        connection: sqlite3.Connection = sqlite3.connect(database, isolation_level=None, **options)
    except sqlite3.Error as error:
        raise store_error(path, error) from None
    return connection


@contextmanager
def _closed_when_unfit(connection: sqlite3.Connection, path: str) -> Iterator[None]:
    """Close a new connection if the block, which prepares it, fails."""
    try:
        yield
    except sqlite3.Error as error:
        connection.close()
        raise store_error(path, error) from None
    except BaseException:
        connection.close()
        raise

"""The tables of a budget file, which the scripts in `migrations` make, and connections to it.

Every SQLite tool can read them. Amounts are integers: tokens, calls, and nano-USD. Times are seconds since the epoch.
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

#: "LLMb", so that `file` and other tools tell such a file from other databases.
APPLICATION_ID = 0x4C4C4D62

_BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
#: In seconds.
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.002, 0.1


def _migrations() -> tuple[str, ...]:
    """The scripts in `migrations`, by their numbers."""
    folder = importlib.resources.files("llm_connect.stores.sqlite").joinpath("migrations")
    scripts = sorted(folder.iterdir(), key=lambda script: int(script.name.removesuffix(".sql")))
    return tuple(script.read_text("utf-8") for script in scripts)


#: The scripts that bring a file from each version to the next; `PRAGMA user_version` counts those that have run.
MIGRATIONS: tuple[str, ...] = _migrations()


def connect(path: str, busy_seconds: float) -> sqlite3.Connection:
    """A connection to the budget file at `path`, whose tables are those of this version.

    Every commit is on the disk before it returns (`synchronous=FULL`).

    Raises LLMStoreError when it cannot be opened, is no budget file, or was written by a later version.
    """
    connection = _opened(path, path, timeout=0, check_same_thread=False)
    with _closed_when_unfit(connection, path):
        patiently(partial(_prepare, connection, path, MIGRATIONS), busy_seconds)
    return connection


def read_only(path: str) -> sqlite3.Connection:
    """A connection that can change nothing. Raises LLMStoreError, also when there is no such file."""
    # Not `mode=ro`: that cannot read a file that nobody else has open.
    connection = _opened(path, f"file:{quote(path)}?mode=rw", uri=True, timeout=5)
    with _closed_when_unfit(connection, path):
        connection.execute("PRAGMA query_only = 1")
        if _version(connection, path) != len(MIGRATIONS):
            raise LLMStoreError(
                f"{path} is not a budget file of this version: open_budget creates or updates it.", store=url_of(path)
            )
    return connection


def peek(path: str) -> sqlite3.Connection:
    """A connection that reads the file as it is without its log. Raises sqlite3.Error.

    Only SQLite itself may open the file: closing it otherwise would let go the locks of the other connections.
    """
    return sqlite3.connect(f"file:{quote(path)}?immutable=1", uri=True, isolation_level=None, timeout=0)


def begin(connection: sqlite3.Connection, busy_seconds: float) -> None:
    """Begin a transaction that writes. Raises sqlite3.Error when others keep the file busy for longer."""
    try:
        connection.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError:
        patiently(partial(connection.execute, "BEGIN IMMEDIATE"), busy_seconds)


def patiently(work: Callable[[], object], busy_seconds: float) -> None:
    """Do `work` as soon as the file is free. Raises sqlite3.Error when it is not for so many seconds.

    SQLite's own way to wait sleeps up to a tenth of a second between two tries, however little time there is. Here
    there are at least ten tries, at random moments. More of them would cost more than they win: whoever has just
    written does its next steps fastest, because it knows the file. Only who has waited for half of the time tries at
    every chance, so that the busiest file lets everybody in.
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
        time.sleep(pause * random.random())  # noqa: S311 - so that not all come again at once
        pause = _SHORTEST_PAUSE if now >= urgent else min(2 * pause, longest)


def url_of(path: str) -> str:
    """The URL of a budget file."""
    return f"sqlite:///{path}"


def store_error(path: str, error: sqlite3.Error) -> LLMStoreError:
    """The error for what SQLite says of the file at `path`."""
    url = url_of(path)
    if "locked" in str(error):
        advice = "other processes keep it busy. Try again, or share it among fewer"
    else:
        advice = "check that the file and its folder exist and are writable"
    return LLMStoreError(f"The budget store {url} cannot be used ({error}): {advice}.", store=url)


def _prepare(connection: sqlite3.Connection, path: str, migrations: Sequence[str]) -> None:
    connection.execute("PRAGMA synchronous = FULL")
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
    """The version of the tables, 0 in an empty file. Raises LLMStoreError when they are not ours."""
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
    """The statements of a script, one by one, so that all of them are in one transaction."""
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
    """In the block a new connection is made ready; it is closed when that fails."""
    try:
        yield
    except sqlite3.Error as error:
        connection.close()
        raise store_error(path, error) from None
    except BaseException:
        connection.close()
        raise

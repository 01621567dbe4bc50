"""A budget file that simulated processes share, each through a connection of its own, in one thread.

The file is real, and so is SQLite. A process is late for its transaction, finds the file busy, or dies in it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from unittest import mock

from llm_connect.budget.accounting.ledger import LedgerEntry
from llm_connect.budget.admission.arguments import Limits
from llm_connect.stores.opening import terms_of
from llm_connect.stores.serialization import entry_of, labels_of
from llm_connect.stores.sqlite import session
from llm_connect.stores.sqlite.file import connect
from llm_connect.stores.sqlite.rows import ENTRY_COLUMNS
from tests.simulation.invariants import Figures, StoredHold, StoredTracker, call_of

if TYPE_CHECKING:
    from tests.simulation.world import Process, World

TRACKERS = "SELECT id, parent, path, lease, {}, {} FROM trackers ORDER BY id".format(
    *(", ".join(f"{unit}_{name}" for name in Figures._fields) for unit in ("tokens", "calls"))
)


class FileStore:
    """A file that the processes of a world share."""

    #: The tables of which nothing may be left at rest.
    parts = ("holds", "leases")

    def __init__(self, world: World, path: str) -> None:
        self._world = world
        self._path = path
        self._reader: sqlite3.Connection | None = None
        self._known: dict[int, StoredTracker] = {}
        self.terms = terms_of(f"sqlite:///{path}", prices={}, **world.terms)

    def create(self, limits: Limits) -> None:
        self._reader = sqlite3.connect(self._path, isolation_level=None)
        self.terms.make(limits, None, "presume")

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()
        for process in self._world.processes:
            # A dead process has not closed its connection, which refers to this world.
            connection = process.session and session._connections.pop(id(process.session.file), None)
            if connection is not None:
                connection.close()

    def restart(self) -> None:
        """Do nothing: a file has no server."""

    def patches(self) -> Iterator[Any]:
        """The patches that let the library open this file."""
        yield mock.patch.object(session, "connect", self._connect)

    def _connect(self, path: str, busy_seconds: float) -> Any:
        return Connection(self._world, self._world.reaches(busy), connect(path, busy_seconds))

    # What the file has.

    def part(self, name: str) -> list[Any]:
        return self._rows(f"SELECT * FROM {name}")

    def _rows(self, query: str, *values: Any) -> list[Any]:
        assert self._reader is not None
        return self._reader.execute(query, values).fetchall()

    @property
    def waiting(self) -> bool:
        return bool(self.part("waiters"))

    @property
    def presumptions(self) -> list[int]:
        return [number for (number,) in self._rows("SELECT id FROM ledger WHERE open ORDER BY id")]

    def trackers(self) -> Iterator[StoredTracker]:
        """The trackers that have changed since the last look."""
        for number, parent, path, lease, *figures in self._rows(TRACKERS):
            above = () if parent is None else self._known[parent].path
            units = {"tokens": Figures(*figures[:5]), "calls": Figures(*figures[5:])}
            now = StoredTracker(number, (number, *above), path, units, lease)
            if self._known.get(number) != now:
                self._known[number] = now
                yield now

    def holds(self) -> list[StoredHold]:
        rows = self._rows("SELECT lease, tracker, state, tokens, calls, labels FROM holds")
        return [StoredHold(*row, call_of(labels_of(labels))) for *row, labels in rows]

    def entries(self, after: int) -> list[LedgerEntry]:
        """The entries behind the first `after` ones."""
        return [
            entry_of(row) for row in self._rows(f"SELECT {ENTRY_COLUMNS} FROM ledger WHERE id > ? ORDER BY id", after)
        ]


class Connection:
    """A connection of one process to the file."""

    def __init__(self, world: World, process: Process, connection: sqlite3.Connection) -> None:
        self._world = world
        self._process = process
        self._connection = connection

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def execute(self, statement: str, *values: Any) -> Any:
        if statement == "BEGIN IMMEDIATE":
            if self._world.clock.now < self._process.cut_off_until:
                raise busy("busy")
            self._world.mishap(self._process, "transaction", busy)
        if statement == "COMMIT":
            self._world.may_die(self._process)
        result = self._connection.execute(statement, *values)
        if statement == "COMMIT":
            self._world.served(self._process)
            self._world.may_die(self._process)
        return result


def busy(_: str) -> sqlite3.OperationalError:
    """The error of a file that another process keeps busy."""
    error = sqlite3.OperationalError("database is locked")
    error.sqlite_errorcode = sqlite3.SQLITE_BUSY
    return error

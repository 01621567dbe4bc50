"""The gate of a budget in a file, and its end."""

from __future__ import annotations

import sqlite3
import time
from contextlib import suppress
from functools import partial
from typing import Any

from llm_connect.stores.sqlite.identity import Identity, close
from llm_connect.stores.sqlite.state import TransactionalGate


class SqliteGate(TransactionalGate):
    """The gate of one budget in a file, in one process."""

    def __init__(self, *details: Any) -> None:
        super().__init__(*details)
        #: When the monotonic clock was 0, which is not set back as that of the machine is.
        self._epoch = time.time_ns() - time.monotonic_ns()

    def arrive(self) -> int:
        """The moment, by the clock of the machine, so that it orders the callers of all processes."""
        return self._epoch + time.monotonic_ns()

    def __del__(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        lease = self.leases.own
        if self._worker.running:
            self._worker.put(partial(_say_farewell, connection, self._file, None if lease is None else lease.number))
            self._worker.put_end()
        else:
            close(connection, self._file)


def _say_farewell(connection: sqlite3.Connection, file: Identity, lease: int | None) -> None:
    """Close the file of a gate that nobody has any more; so nobody has a hold of it either."""
    with suppress(sqlite3.Error):
        connection.execute("DELETE FROM leases WHERE id = ? AND id NOT IN (SELECT lease FROM holds)", (lease,))
    close(connection, file)

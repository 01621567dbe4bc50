"""Stores that can be lost and found again: files and servers, for all processes or for one."""

from __future__ import annotations

import os
import selectors
import signal
import socket
import sqlite3
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from llm_connect.budget.tracker import BudgetTracker
from llm_connect.stores.opening import open_budget
from tests.budget.budget_helpers import until
from tests.stores.looking import alone, session_of
from tests.stores.servers import new_server

DURABLE = ("--appendonly", "yes", "--appendfsync", "always")
#: The store counts as lost after a sixth of this time.
LEASE = 3.0


class Store:
    """A store for tests; the process that loses it uses `url`, and others use `others`."""

    def __init__(self, url: str, others: str | None = None) -> None:
        self.url = url
        self.others = others or url

    def open(self, **details: Any) -> BudgetTracker:
        """Open a budget that will lose its store."""
        return open_budget(self.url, total=1_000, lease_seconds=LEASE, **details)

    def lose(self, budget: BudgetTracker) -> None:
        raise NotImplementedError

    def give(self) -> None:
        raise NotImplementedError

    def stop(self) -> None:
        """Stop everything that this store has started."""


class BusyFile(Store):
    """A file whose write lock another program keeps."""

    def __init__(self, folder: Path) -> None:
        super().__init__(f"sqlite:///{folder}/budget.db")
        self._path = f"{folder}/budget.db"
        self._connection: sqlite3.Connection | None = None

    def lose(self, budget: BudgetTracker) -> None:
        self._connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False, timeout=10)
        self._connection.execute("BEGIN IMMEDIATE")

    def give(self) -> None:
        if self._connection is not None:
            self._connection.close()

    stop = give


class UnwritableFile(Store):
    """A file that this process may no longer write."""

    def __init__(self, folder: Path) -> None:
        super().__init__(f"sqlite:///{folder}/budget.db")
        self._budget: BudgetTracker | None = None

    def lose(self, budget: BudgetTracker) -> None:
        self._budget = budget
        self._set("ON")

    def give(self) -> None:
        self._set("OFF")

    def _set(self, value: str) -> None:
        assert self._budget is not None
        session = session_of(self._budget)
        with alone(session):
            session.connection.execute(f"PRAGMA query_only = {value}")


class StoppedServer(Store):
    """A server that hangs."""

    def __init__(self, folder: Path) -> None:
        self._server = new_server(*DURABLE)
        super().__init__(self._server.url)

    def lose(self, budget: BudgetTracker) -> None:
        os.kill(self._server.pid, signal.SIGSTOP)
        until(lambda: ") T " in Path(f"/proc/{self._server.pid}/stat").read_text())

    def give(self) -> None:
        os.kill(self._server.pid, signal.SIGCONT)

    def stop(self) -> None:
        self._server.stop()


class KilledServer(StoppedServer):
    """A server that is killed and started again."""

    def lose(self, budget: BudgetTracker) -> None:
        self._server.kill()

    def give(self) -> None:
        self._server.start()


class CutOffServer(Store):
    """A running server that this process can no longer reach."""

    def __init__(self, folder: Path) -> None:
        self._server = new_server(*DURABLE)
        self._cable = Cable(f"{folder}/cable", f"{self._server.folder}/socket")
        super().__init__(f"unix://{folder}/cable", self._server.url)

    def lose(self, budget: BudgetTracker) -> None:
        self._cable.cut()

    def give(self) -> None:
        self._cable.mend()

    def stop(self) -> None:
        self._cable.cut()
        self._server.stop()


class Cable:
    """Carries bytes between its own socket and the socket of a server, until it is cut."""

    def __init__(self, path: str, server: str) -> None:
        self._path = path
        self._server = server
        self._open: set[socket.socket] = set()
        self.mend()

    def mend(self) -> None:
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(self._path)
        self._listening.listen()
        threading.Thread(target=self._accept, args=(self._listening,), daemon=True).start()

    def cut(self) -> None:
        with suppress(FileNotFoundError):
            os.unlink(self._path)
        for one in (self._listening, *self._open):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        self._open.clear()

    def _accept(self, listening: socket.socket) -> None:
        with suppress(OSError):
            while True:
                here, _ = listening.accept()
                there = socket.socket(socket.AF_UNIX)
                there.connect(self._server)
                self._open.update((here, there))
                threading.Thread(target=_carry, args=(here, there), daemon=True).start()


def _carry(here: socket.socket, there: socket.socket) -> None:
    with suppress(OSError, ValueError), selectors.DefaultSelector() as waiting:
        waiting.register(here, selectors.EVENT_READ, there)
        waiting.register(there, selectors.EVENT_READ, here)
        while True:
            for key, _ in waiting.select(0.1):
                data = key.fileobj.recv(65_536)  # type: ignore[union-attr]
                if not data:
                    key.data.shutdown(socket.SHUT_RDWR)
                    return
                key.data.sendall(data)


#: Ways to lose a store, for every process that uses it.
FOR_ALL: dict[str, Callable[[Path], Store]] = {
    "busy file": BusyFile,
    "stopped server": StoppedServer,
    "killed server": KilledServer,
}
#: Ways to lose a store for one process, while others continue.
FOR_ONE: dict[str, Callable[[Path], Store]] = {"unwritable file": UnwritableFile, "cut off server": CutOffServer}

"""Opens budgets in stores for tests that were written for a `BudgetTracker`."""

from __future__ import annotations

import itertools
import os
import tempfile
import weakref
from pathlib import Path
from typing import Any

from llm_connect.budget.tracker import BudgetTracker
from llm_connect.stores.opening import open_budget
from tests.stores.servers import server

STORES = ["memory", "sqlite", "redis"]
_numbers = itertools.count(1)


class Opener:
    """A stand-in for `BudgetTracker`: each call opens a new budget in a store."""

    def __init__(self, store: str, folder: Path) -> None:
        self._store = store
        self._folder = folder
        self._sessions: list[weakref.ref[Any]] = []

    def __call__(self, total: int | None = None, *, name: str = "budget", **details: Any) -> BudgetTracker:
        tracker = open_budget(self._url(), total=total, name=name, **details)
        self._sessions.append(weakref.ref(tracker.gate.session))  # type: ignore[attr-defined]
        return tracker

    def shut(self) -> None:
        """Close the budgets that are still open."""
        for ref in self._sessions:
            session = ref()
            if session is not None:
                session.shut()

    def _url(self) -> str:
        return new_url(self._store, self._folder)


def temporary_folder() -> tempfile.TemporaryDirectory[str]:
    """An empty folder, in memory if the machine has such a file system, because the tests do not test the disk.

    Files may vanish while it is removed: the thread of an unreferenced gate closes its own files. Windows cannot delete
    an open file.
    """
    memory = Path("/dev/shm")
    return tempfile.TemporaryDirectory(
        prefix="llm-connect-", dir=memory if memory.is_dir() else None, ignore_cleanup_errors=os.name == "nt"
    )


def new_url(store: str, folder: Path) -> str:
    """The URL of an empty store."""
    if store == "sqlite":
        return f"sqlite:///{folder}/{next(_numbers)}.db"
    import redis

    # Each budget gets its own database, so that equal names do not clash.
    number = next(_numbers) % _DATABASES
    with redis.Redis(unix_socket_path=f"{server().folder}/socket", db=number) as client:
        client.flushdb()
    return f"{server().url}?db={number}"


_DATABASES = 1_000

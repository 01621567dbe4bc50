"""Budgets in stores, for tests that are written for a `BudgetTracker`."""

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
    """Called like `BudgetTracker`, it opens a budget of its own in a store."""

    def __init__(self, store: str, folder: Path) -> None:
        self._store = store
        self._folder = folder
        self._gates: list[weakref.ref[Any]] = []

    def __call__(self, total: int | None = None, *, name: str = "budget", **details: Any) -> BudgetTracker:
        tracker = open_budget(self._url(), total=total, name=name, **details)
        self._gates.append(weakref.ref(tracker.gate))
        return tracker

    def shut(self) -> None:
        """End what is still open."""
        for ref in self._gates:
            gate = ref()
            if gate is not None:
                gate.shut()

    def _url(self) -> str:
        return new_url(self._store, self._folder)


def temporary_folder() -> tempfile.TemporaryDirectory[str]:
    """An empty folder, in memory where there is one: what is tested with it is not the disk.

    When it is cleaned up, files may vanish meanwhile: a gate that nobody has any more closes its own, in its thread.
    Windows deletes no file that is open.
    """
    memory = Path("/dev/shm")
    return tempfile.TemporaryDirectory(
        prefix="llm-connect-", dir=memory if memory.is_dir() else None, ignore_cleanup_errors=os.name == "nt"
    )


def new_url(store: str, folder: Path) -> str:
    """The URL of a store that has no budgets yet."""
    if store == "sqlite":
        return f"sqlite:///{folder}/{next(_numbers)}.db"
    import redis

    # A database for each: budgets of one name are others there.
    number = next(_numbers) % _DATABASES
    with redis.Redis(unix_socket_path=f"{server().folder}/socket", db=number) as client:
        client.flushdb()
    return f"{server().url}?db={number}"


_DATABASES = 1_000

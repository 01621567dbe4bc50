"""Budgets in stores, for tests that are written for a `BudgetTracker`."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

from llm_connect.core.budget import BudgetTracker
from llm_connect.stores.opening import open_budget

STORES = ["memory", "sqlite"]


class Opener:
    """Called like `BudgetTracker`, it opens a budget of its own in a store."""

    def __init__(self, store: str, folder: Path) -> None:
        assert store == "sqlite"
        self._folder = folder
        self._opened = 0
        self._gates: list[weakref.ref[Any]] = []

    def __call__(self, total: int | None = None, **details: Any) -> BudgetTracker:
        self._opened += 1
        tracker = open_budget(f"sqlite:///{self._folder}/{self._opened}.db", total=total, **details)
        self._gates.append(weakref.ref(tracker.gate))
        return tracker

    def shut(self) -> None:
        """End what is still open."""
        for ref in self._gates:
            gate = ref()
            if gate is not None:
                gate.shut()

"""Runs the tests of the tracker against every store: in their modules, `BudgetTracker` opens budgets in that store."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.budget.stores import STORES, Opener, temporary_folder

#: The modules with tests of the tracker, and of calls under a budget.
ABOUT_THE_TRACKER = {
    "test_admission",
    "test_budget",
    "test_call_budget",
    "test_children",
    "test_delegate",
    "test_faults",
    "test_gather_mocks",
    "test_holds",
    "test_large_amounts",
    "test_learning",
    "test_ledger",
    "test_line",
    "test_metered_ends",
    "test_metered_once",
    "test_metering",
    "test_one_budget",
    "test_price",
    "test_races",
    "test_self_wait",
    "test_allotments",
    "test_streaming",
    "test_streams",
    "test_strict",
    "test_terms",
    "test_thresholds",
    "test_totals",
    "test_waiters",
    "test_windows",
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    name = metafunc.module.__name__.rpartition(".")[2]
    if name in ABOUT_THE_TRACKER and hasattr(metafunc.module, "BudgetTracker"):
        in_memory_only = metafunc.definition.get_closest_marker("in_memory_only")
        # tests/stores tests calls under a budget in Redis.
        stores = STORES[:2] if "engine" in metafunc.module.__name__ else STORES
        metafunc.parametrize("store", ["memory"] if in_memory_only else stores, indirect=True)


@pytest.fixture(autouse=True)
def store(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The store in which `BudgetTracker(...)` of the test's module keeps its budgets."""
    name: str = getattr(request, "param", "memory")
    if name == "memory":
        yield name
        return
    # Garbage of earlier tests would otherwise be collected during this one, perhaps under a tracer.
    gc.collect()
    with temporary_folder() as folder:
        opener = Opener(name, Path(folder))
        monkeypatch.setattr(request.module, "BudgetTracker", opener)
        yield name
        opener.shut()

"""Exceptions at points of every operation of a budget in a file or server, at least 312 points for each store."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llm_connect import BudgetTracker, open_budget
from tests.budget.stores import new_url, temporary_folder
from tests.faults import scenes
from tests.faults.drawn import wrong_of
from tests.faults.scenes import Scene

pytestmark = [
    pytest.mark.scales,
    pytest.mark.timeout(3_600),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning"),
]


@pytest.fixture
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of a store without budgets."""
    with temporary_folder() as folder:
        yield new_url(request.param, Path(folder))


def look(scene: Scene) -> None:
    """Check that the books are exact, and that nothing of the budget stays open in this process."""
    try:
        scene.look()
    finally:
        scene.root.close()


@pytest.mark.parametrize("url", ["sqlite", "redis"], indirect=True)
@pytest.mark.parametrize("name", scenes.ALL)
def test_the_books_of_a_store_are_exact_wherever_python_raises(
    name: str, url: str, nightly: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """The next operation completes or undoes an interrupted one, and no other process is locked out. (BUDGET-70)"""
    caplog.set_level(logging.CRITICAL + 1)
    numbers = itertools.count(1)

    def make(total: int, **more: Any) -> BudgetTracker:
        return open_budget(url, name=f"budget {next(numbers)}", total=total, **more)

    assert wrong_of(name, make=make, most=None if nightly else 13, look=look) == []

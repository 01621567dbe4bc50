"""Exceptions at the points of every operation of a budget in memory."""

from __future__ import annotations

import logging

import pytest

from llm_connect import LLMConfigurationError
from tests.budget.budget_helpers import in_thread
from tests.faults import scenes
from tests.faults.drawn import wrong_of
from tests.faults.scenes import CAP, PATIENCE, Scene

pytestmark = [
    pytest.mark.scales,
    pytest.mark.timeout(1_800),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning"),
]


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    """Silence the log of thousands of presumed calls."""
    caplog.set_level(logging.CRITICAL + 1)


@pytest.mark.parametrize("name", scenes.ALL)
def test_the_books_are_exact_wherever_python_raises(name: str) -> None:
    """The next operation completes or undoes an interrupted one: nothing stays held, and sums agree. (BUDGET-70)"""
    assert wrong_of(name) == []


@pytest.mark.parametrize("error", [MemoryError, RecursionError])
@pytest.mark.parametrize("name", scenes.ALL)
def test_the_books_are_exact_where_memory_or_frames_run_out(
    name: str, error: type[BaseException], nightly: bool
) -> None:
    """A MemoryError or RecursionError is no failure of a callback or a waiter, and loses nothing. (BUDGET-70)"""
    assert wrong_of(name, error=error, most=None if nightly else 50) == []


def look_when_told(scene: Scene) -> None:
    """Another thread gets an answer, or an error about a lock whose owner alone can continue."""
    try:
        in_thread(scene.root.snapshot).result(PATIENCE)
    except LLMConfigurationError:
        assert scene.root.snapshot().spent.tokens <= CAP
        scene.root.gate._lock.drop()  # type: ignore[attr-defined]
        for helper in scene.helpers:
            helper.exception(PATIENCE)
        scene.helpers.clear()
    scene.look()


@pytest.mark.parametrize("name", scenes.ALL)
def test_the_cap_is_not_passed_wherever_an_exception_is_injected(name: str, nightly: bool) -> None:
    """At instructions where only a test can raise, the books become exact too, and no caller hangs. (BUDGET-70)"""
    assert wrong_of(name, everywhere=True, most=2_000 if nightly else 40, look=look_when_told) == []

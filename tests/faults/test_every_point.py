"""An exception at the points of every operation of a budget in memory."""

from __future__ import annotations

import logging
import time
from typing import Any

import pytest

from llm_connect import BudgetTracker, LLMConfigurationError
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
    """Thousands of presumed calls are told of, and nobody reads it."""
    caplog.set_level(logging.CRITICAL + 1)


@pytest.mark.parametrize("name", scenes.ALL)
def test_the_books_are_exact_wherever_python_raises(name: str, nightly: bool) -> None:
    """The next operation completes or undoes what was interrupted: nothing held or locked, sums equal. (BUDGET-70)"""
    assert wrong_of(name, most=None if nightly else 300) == []


@pytest.mark.parametrize("error", [MemoryError, RecursionError])
@pytest.mark.parametrize("name", scenes.ALL)
def test_the_books_are_exact_where_memory_or_frames_run_out(
    name: str, error: type[BaseException], nightly: bool
) -> None:
    """What Python itself raises is no failure of a callback or of a waiter: nothing is lost by it. (BUDGET-70)"""
    assert wrong_of(name, error=error, most=None if nightly else 50) == []


def look_when_told(scene: Scene) -> None:
    """Another thread is served, or told of a lock that is kept; then only the thread that keeps it can go on."""
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
    """At other instructions, where only a test can raise, the books get exact, too; nobody hangs. (BUDGET-70)"""
    assert wrong_of(name, everywhere=True, most=2_000 if nightly else 40, look=look_when_told) == []


def test_a_lock_that_is_kept_is_told_of() -> None:
    """Other threads get an error rather than hang, and the thread that still has the lock goes on. (BUDGET-70)"""
    tracker = BudgetTracker(CAP)
    gate: Any = tracker.gate
    gate._lock.take(False)
    with pytest.raises(LLMConfigurationError, match="still has the lock of this budget"):
        in_thread(tracker.snapshot).result(PATIENCE)
    gate._inside = True
    tracker.reserve(100).settle(60)
    assert in_thread(tracker.snapshot).result(PATIENCE).spent.tokens == 60


def test_a_lock_that_is_in_use_is_waited_for() -> None:
    """However long that takes, it is not taken for one that is kept. (BUDGET-70)"""
    tracker = BudgetTracker(CAP)
    lock = tracker.gate._lock  # type: ignore[attr-defined]
    began = time.monotonic()
    lock.take(False)
    waiting = in_thread(tracker.snapshot)
    while time.monotonic() - began < 1.5:
        time.sleep(0.1)
    assert not waiting.done()
    lock.release()
    assert waiting.result(PATIENCE).held.tokens == 0

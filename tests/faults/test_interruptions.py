"""Real signals, exceptions from another thread and recursion errors during operations."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from llm_connect import BudgetTracker, LLMBudgetExceededError, LLMConfigurationError

ROOT = Path(__file__).parents[2]


@pytest.mark.scales
@pytest.mark.timeout(3_600)
@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers here")
@pytest.mark.parametrize("kind", ["alarm", "thrown"])
@pytest.mark.parametrize("place", ["memory", "file"])
def test_the_books_are_exact_after_real_interruptions(kind: str, place: str, nightly: bool, tmp_path: Path) -> None:
    """After each of 3,000 interruptions, the next operation finds exact books and no lock. (BUDGET-70)"""
    number = {"memory": 1_400, "file": 100}[place] * (10 if nightly else 1)
    url = "memory" if place == "memory" else f"sqlite:///{tmp_path}/budget.db"
    command = [sys.executable, "-m", "tests.faults.signalled", url, kind, str(number), "1"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=3_000)
    print(ran.stdout)
    assert ran.stdout.strip().endswith(", 0 wrong"), ran.stdout[-2_000:] + ran.stderr[-2_000:]
    assert ran.stdout.startswith(f"{number} interruptions")


def _deep(depth: int, tracker: BudgetTracker) -> None:
    if depth:
        _deep(depth - 1, tracker)
        return
    with tracker.reserve(50) as hold:
        hold.dispatch()


def test_the_books_are_exact_after_a_recursion_error_at_every_depth() -> None:
    """An operation that runs out of stack frames is completed or undone all the same. (BUDGET-70)"""
    limit = sys.getrecursionlimit()
    failed = 0
    for depth in range(limit - 120, limit):
        tracker = BudgetTracker(100)
        try:
            _deep(depth, tracker)
        except RecursionError:
            failed += 1
        assert tracker.held == 0, depth
        assert tracker.spent == sum(entry.amount.tokens for entry in tracker.ledger), depth
    assert failed > 20


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers here")
def test_a_signal_handler_that_spends_does_not_pass_the_cap() -> None:
    """During an operation of its thread, its calls are refused, and the next operation ends its holds. (BUDGET-71)"""
    refused, tracker, total = 0, BudgetTracker(1), 50
    inner = tracker.reserve(1)

    def ring(*_: object) -> None:
        nonlocal refused
        try:
            tracker.reserve(20).settle(20)
        except LLMConfigurationError as error:
            refused += "has interrupted its own operation" in str(error)
        except LLMBudgetExceededError:
            pass
        inner.release()

    before = signal.signal(signal.SIGALRM, ring)
    try:
        for _ in range(20_000):
            tracker = BudgetTracker(total)
            inner = tracker.reserve(10)
            signal.setitimer(signal.ITIMER_REAL, 40e-6)
            with contextlib.suppress(LLMBudgetExceededError):
                tracker.reserve(40).settle(40)
            signal.setitimer(signal.ITIMER_REAL, 0)
            inner.release()
            assert tracker.spent <= total
            assert tracker.held == 0
            assert tracker.spent == sum(entry.amount.tokens for entry in tracker.ledger)
            if refused >= 3:
                break
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert refused

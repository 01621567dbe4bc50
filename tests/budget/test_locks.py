"""The lock of a tree of trackers."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from llm_connect.budget.admission import backoff_lock
from llm_connect.budget.admission.backoff_lock import TreeLock
from llm_connect.budget.tracker import BudgetTracker
from llm_connect.errors import LLMConfigurationError
from tests.budget.budget_helpers import PATIENCE, in_thread, until


def test_a_thread_that_finds_it_taken_gets_it_once_it_is_let_go() -> None:
    """Only its owner is in the critical section, and may enter it again; a waiting thread gets the lock once it is
    released.
    """
    lock, inside, most = TreeLock(), [], []

    def work() -> None:
        for _ in range(200):
            if not lock.take(False):
                lock.wait()
            assert lock.take(False)
            inside.append(1)
            most.append(len(inside))
            inside.pop()
            lock.release()
            lock.release()

    threads = [threading.Thread(target=work) for _ in range(8)]
    lock.wait()
    for thread in threads:
        thread.start()
    threading.Event().wait(0.01)
    assert (lock.owned(), most) == (True, [])
    lock.release()
    for thread in threads:
        thread.join()
    assert (max(most), len(most), lock.owned()) == (1, 1_600, False)


def test_a_lock_that_is_kept_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other threads get an error rather than hang, and the thread that still has the lock goes on. (BUDGET-70)"""
    monkeypatch.setattr(backoff_lock, "_LONG", 0.001)
    tracker = BudgetTracker(1_000)
    gate: Any = tracker.gate
    gate._lock.take(False)
    with pytest.raises(LLMConfigurationError, match="still has the lock of this budget"):
        in_thread(tracker.snapshot).result(PATIENCE)
    gate._inside = True
    tracker.reserve(100).settle(60)
    assert in_thread(tracker.snapshot).result(PATIENCE).spent.tokens == 60


def test_a_lock_that_is_in_use_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long that takes, it is not taken for one that is kept. (BUDGET-70)"""
    monkeypatch.setattr(backoff_lock, "_LONG", 0.001)
    left: Any = TreeLock.left
    looks: list[bool] = []

    def look(lock: TreeLock) -> bool:
        looks.append(left.fget(lock))
        return looks[-1]

    monkeypatch.setattr(TreeLock, "left", property(look))
    tracker = BudgetTracker(1_000)
    lock = tracker.gate._lock  # type: ignore[attr-defined]
    lock.take(False)
    waiting = in_thread(tracker.snapshot)
    until(lambda: len(looks) > backoff_lock._LOOKS)
    assert (any(looks), waiting.done()) == (False, False)
    lock.release()
    assert waiting.result(PATIENCE).held.tokens == 0

"""The lock of a tree of trackers."""

from __future__ import annotations

import gc
import inspect
import sys
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
    abandoned: Any = TreeLock._abandoned
    looks: list[bool] = []

    def look(lock: TreeLock) -> bool:
        looks.append(abandoned(lock))
        return looks[-1]

    monkeypatch.setattr(TreeLock, "_abandoned", look)
    gate: Any = BudgetTracker(1_000).gate
    begun, over = threading.Event(), threading.Event()

    def long() -> None:
        begun.set()
        over.wait(PATIENCE)

    working = in_thread(lambda: gate.run(long, looks=True))
    begun.wait(PATIENCE)
    waiting = in_thread(lambda: gate.run(lambda: "done", looks=True))
    until(lambda: len(looks) > 2 * backoff_lock._LOOKS)
    assert (any(looks), waiting.done()) == (False, False)
    over.set()
    assert waiting.result(PATIENCE) == "done"
    working.result(PATIENCE)


def test_one_thread_looks_at_a_time_and_garbage_stays_where_it_was() -> None:
    """A second one waits for its next look, and a program that collects no garbage goes on without. (BUDGET-70)"""
    lock = TreeLock()
    assert not lock._abandoned()
    in_thread(lambda: lock.take(False)).result(PATIENCE)
    assert lock._abandoned()
    with backoff_lock._looking:
        assert not lock._abandoned()
    gc.disable()
    try:
        assert lock._abandoned()
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_looking_at_a_thread_collects_no_garbage() -> None:
    """A finalizer could let that thread run, and its frames go, while they are read. (BUDGET-70)

    On Python 3.11 the interpreter then waited for itself, for good, within seconds of this.
    """
    over = threading.Event()
    lines, first = inspect.getsourcelines(backoff_lock._codes_of)
    #: Before and after these, a collection does no harm.
    reading = [n for n, line in enumerate(lines, first) if line.strip().startswith(("frame =", "codes.append"))]

    class Garbage:
        def __init__(self) -> None:
            self.me = self

        def __del__(self) -> None:
            frame = sys._getframe(1)
            seen.append(frame.f_code is backoff_lock._codes_of.__code__ and frame.f_lineno in reading)

    def deep(levels: int) -> None:
        Garbage()
        if levels:
            deep(levels - 1)

    def work() -> None:
        while not over.is_set():
            deep(6)

    seen: list[bool] = []
    before, switching = gc.get_threshold(), sys.getswitchinterval()
    gc.set_threshold(5)
    sys.setswitchinterval(1e-5)
    thread = threading.Thread(target=work)
    thread.start()
    try:
        assert thread.ident is not None
        looks = 0
        # A busy machine may not have let the thread run by then.
        while looks < 2_000 or not seen:
            # As in every look: a thread that another test has left could end its own meanwhile.
            with backoff_lock._looking:
                backoff_lock._codes_of(thread.ident)
                assert gc.isenabled()
            looks += 1
    finally:
        over.set()
        thread.join()
        gc.set_threshold(*before)
        sys.setswitchinterval(switching)
    assert not any(seen)

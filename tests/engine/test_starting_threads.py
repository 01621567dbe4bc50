"""A thread that dies before its first sign."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from llm_connect import _threads, open_budget
from llm_connect._threads import DaemonThread, StartLock
from llm_connect.stores.worker import WorkerThread
from tests.stores.looking import session_of


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_threads, "LONGEST_START_SECONDS", 0.05)


def test_a_start_that_nobody_answers_ends() -> None:
    """A thread that dies before it has begun does not keep its starter waiting."""

    class Stillborn(DaemonThread):
        def _bootstrap(self) -> None:
            pass

    thread = Stillborn(list, name="stillborn")
    thread.start()
    assert not thread.is_alive()


def test_a_thread_that_begins_too_late_does_nothing() -> None:
    """Its starter may have another one by then."""
    may_begin, did = threading.Event(), []

    class Late(DaemonThread):
        def _bootstrap(self) -> None:
            may_begin.wait()
            super()._bootstrap()  # type: ignore[misc]

    thread = Late(did.append, args=(1,), name="late")
    thread.start()
    may_begin.set()
    while not thread._started.is_set():
        """It begins soon."""
    thread.join()
    assert did == []


def test_a_store_starts_another_worker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A budget in a file works on when its first worker dies at birth, and its lease is renewed all the same."""
    begin = threading.Thread._bootstrap  # type: ignore[attr-defined]
    births: list[WorkerThread] = []

    def bootstrap(self: WorkerThread) -> None:
        births.append(self)
        if len(births) > 1:
            begin(self)

    monkeypatch.setattr(WorkerThread, "_bootstrap", bootstrap, raising=False)
    with open_budget(f"sqlite:///{tmp_path}/b.db", total=100) as tracker:
        with tracker.reserve(50) as hold:
            hold.dispatch()
            hold.settle(10)
        assert tracker.spent == 10
        assert [thread.is_alive() for thread in births] == [False, True]


def test_a_lock_that_nobody_releases_is_replaced() -> None:
    """An interrupted caller may have left it locked; the next ones wait once, and then as usual."""
    lock = StartLock()
    left = lock.take()
    taken = lock.take()
    assert taken is not left
    taken.release()
    again = lock.take()
    assert again is taken
    again.release()


def test_callers_that_replace_a_lock_together_take_turns() -> None:
    """Only one of them is inside at a time, as before the interruption."""
    lock, inside, most = StartLock(), [], []
    lock.take()

    def work() -> None:
        taken = lock.take()
        inside.append(1)
        most.append(len(inside))
        inside.pop()
        taken.release()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 8


async def test_an_interrupted_start_keeps_no_later_call(tmp_path: Path) -> None:
    """The worker of a store starts although the lock of its start was left locked. (BUDGET-70)"""
    budget = open_budget(f"sqlite:///{tmp_path}/budget.db", total=100)
    session_of(budget).worker._starting.take()
    with await budget.areserve(10) as hold:
        await hold.adispatch()
        hold.settle(5)
        await hold.abooked()
    assert (budget.spent, budget.held) == (5, 0)

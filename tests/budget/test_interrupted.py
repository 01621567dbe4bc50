"""Interruptions at chosen points: whatever is raised there, the lock is released and the books are exact."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from llm_connect.budget.accounting import accounts
from llm_connect.budget.accounting.demands import NO_FACTS, PlainDemand
from llm_connect.budget.accounting.journal import Plan
from llm_connect.budget.admission.waiters import Waiter
from llm_connect.budget.tracker import BudgetTracker
from llm_connect.types.amounts import Amount
from tests.budget.budget_helpers import PATIENCE, at_rest, in_thread, place, refused, taken


class Interrupted:
    """A stand-in for a function that raises KeyboardInterrupt once."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function, self._is_due = function, True

    def __call__(self, *arguments: Any) -> Any:
        if self._is_due:
            self._is_due = False
            raise KeyboardInterrupt
        return self._function(*arguments)


def seen_by_another(tracker: BudgetTracker) -> tuple[Amount, Amount]:
    """The spend and the holds as another thread reads them, for which it needs the lock."""
    snapshot = in_thread(tracker.snapshot).result(PATIENCE)
    return snapshot.held, snapshot.spent


@pytest.mark.parametrize("place", ["take", "release"])
@pytest.mark.parametrize("operation", ["reserve", "settle", "snapshot"])
def test_an_interruption_at_the_lock_leaves_it_free(place: str, operation: str) -> None:
    """The next thread gets the lock, whether the interruption came before it was taken or before it was released.
    (BUDGET-70)
    """
    tracker = BudgetTracker(100)
    hold = tracker.reserve(10)
    hold.dispatch()
    acts: dict[str, Callable[[], Any]] = {
        "reserve": lambda: tracker.reserve(20),
        "settle": lambda: hold.settle(5),
        "snapshot": tracker.snapshot,
    }
    lock = tracker.gate._lock  # type: ignore[attr-defined]
    setattr(lock, place, Interrupted(getattr(lock, place)))
    with pytest.raises(KeyboardInterrupt):
        acts[operation]()
    assert seen_by_another(tracker)[0].tokens in (0, 10)
    hold.settle(5)
    assert seen_by_another(tracker) == (Amount(0, 0), Amount(5, 1))
    at_rest(tracker)


@pytest.mark.parametrize("place", ["take", "release"])
def test_an_interruption_at_the_lock_of_callbacks_loses_none(place: str) -> None:
    """A callback that was due runs, in this operation or in the next one. (BUDGET-70)"""
    delivered: list[int] = []
    tracker = BudgetTracker(100, sink=lambda entry: delivered.append(entry.amount.tokens))
    lock = tracker.gate._outbox._delivering  # type: ignore[attr-defined]
    setattr(lock, place, Interrupted(getattr(lock, place)))
    with pytest.raises(KeyboardInterrupt):
        tracker.consume(7)
    in_thread(lambda: tracker.consume(8)).result(PATIENCE)
    assert delivered == [7, 8]


def test_a_caller_whose_waking_fails_for_want_of_memory_is_woken_again() -> None:
    """The code that settles gets the error, and the next operation wakes the caller, which has its hold. (BUDGET-70)"""
    tracker, woken = BudgetTracker(100), []

    class Failing(Waiter):
        def wake(self) -> None:
            woken.append(self)
            if len(woken) == 1:
                raise MemoryError

    hold = tracker.reserve(100)
    details: dict[str, Any] = {"arrival": tracker.gate.arrive(), "deadline": 1e9, "own": ()}
    waiter = Failing(tracker, PlainDemand(10, 0), NO_FACTS, **details)
    tracker.gate.queue(waiter, may_wait=True)
    with pytest.raises(MemoryError):
        hold.release()
    assert in_thread(tracker.snapshot).result(PATIENCE).held.tokens == 10
    assert woken == [waiter, waiter]
    taken(tracker, waiter).release()
    at_rest(tracker)


def test_a_caller_that_waits_again_is_not_told() -> None:
    """If an interruption has undone a refusal, the caller is not woken; it stays in the queue and is served.
    (BUDGET-70)
    """
    tracker = BudgetTracker(100)
    hold, gate = tracker.reserve(100), tracker.gate
    waiter = place(tracker, 10)
    gate._line.ready.append(waiter)  # type: ignore[attr-defined]
    gate._inside = True  # type: ignore[attr-defined]
    assert tracker.snapshot().waiting == 1
    assert waiter not in gate._line.ready  # type: ignore[attr-defined]
    hold.release()
    taken(tracker, waiter).release()
    at_rest(tracker)


def test_leaving_the_block_of_a_tracker_closes_it_whatever_interrupts() -> None:
    """An interruption of `__exit__` before the tracker is closed still closes it. (BUDGET-70)"""
    tracker = BudgetTracker(100)
    child = tracker.child("c", 50)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tracker.gate, "check_process", Interrupted(tracker.gate.check_process), raising=False)
        with pytest.raises(KeyboardInterrupt), child:
            pass
    assert refused(lambda: child.reserve(1)).reason == "closed"


# A step that changes the figures of a tracker and of those above it, level by level


@pytest.fixture
def child() -> BudgetTracker:
    """A tracker with a parent; both hold 10 tokens of one call."""
    child = BudgetTracker(100).child("c", 50)
    accounts.hold(child.accounts, Amount(10, 1))
    return child


def figures(tracker: BudgetTracker) -> list[tuple[int, int]]:
    """The held and spent tokens, from the tracker up."""
    return [(account.held, account.spent) for account in tracker.accounts.units[0]]


@pytest.mark.parametrize("level", [None, 0, 1])
def test_a_grant_that_was_interrupted_is_undone(child: BudgetTracker, level: int | None) -> None:
    """All levels get their old figures back, however many of them had changed. (BUDGET-70)"""
    path, journal = child.accounts, child.accounts.journal
    journal.intent, journal.level = (accounts._undo_take, path, Amount(5, 1)), None
    for each in path.levels[: 0 if level is None else level + 1]:
        journal.level = (each[0], *(account.held + more for account, more in zip(each, Amount(5, 1), strict=True)))
        if each is not path.levels[level or 0]:
            accounts_of(each, journal.level[1:])
    journal.finish()
    assert figures(child) == [(10, 0), (10, 0)]


def accounts_of(level: accounts.Own, held: tuple[int, ...]) -> None:
    """The accounts of one level, with these figures."""
    for account, figure in zip(level, held, strict=True):
        account.held = figure


@pytest.mark.parametrize("level", [None, 0, 1])
def test_an_end_that_was_interrupted_is_completed(child: BudgetTracker, level: int | None) -> None:
    """All levels have the spend and no longer hold it, however many of them had changed. (BUDGET-70)"""
    path, journal, plan = child.accounts, child.accounts.journal, Plan()
    journal.level = None
    for number, each in enumerate(path.levels[: 0 if level is None else level + 1]):
        changed = [
            (account.held - free, account.spent + more) for account, free, more in zip(each, HELD, SPENT, strict=True)
        ]
        journal.level = (each[0], *(figure for pair in changed for figure in pair))
        if number != level:
            for account, (held, spent) in zip(each, changed, strict=True):
                account.held, account.spent = held, spent
    accounts.booked(plan, path, HELD, SPENT)
    plan.carry_out()
    assert figures(child) == [(0, 7), (0, 7)]


HELD, SPENT = Amount(10, 1), Amount(7, 1)


def test_a_hold_that_nobody_got_is_none() -> None:
    """A hold whose grant was interrupted after it was opened has ended, and holds nothing. (BUDGET-70)"""
    tracker = BudgetTracker(100)
    hold, journal = tracker.reserve(10), tracker.gate.journal
    journal.intent, journal.hold = (accounts._undo_take, tracker.accounts, hold.bound), hold
    tracker.gate._inside = True  # type: ignore[attr-defined]
    assert seen_by_another(tracker) == ((0, 0, 0), (0, 0, 0))
    assert hold.ended

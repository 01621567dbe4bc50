"""Interruptions at chosen points: whatever is raised there, the lock is released and the books are exact."""

from __future__ import annotations

import pickle
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from llm_connect.budget.accounting import accounts
from llm_connect.budget.accounting.bounds import NO_FACTS, Bound, BoundDemand, CallFacts, PlainDemand
from llm_connect.budget.admission import booking
from llm_connect.budget.admission.holds import Hold
from llm_connect.budget.admission.wait_queue import Waiter
from llm_connect.budget.tracker import BudgetTracker
from llm_connect.errors import LLMConfigurationError
from llm_connect.types.amounts import Amount
from llm_connect.types.usage import Usage
from tests.budget.budget_helpers import PATIENCE, admit, at_rest, in_thread, outcomes, place, refused, taken


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


@pytest.mark.in_memory_only
def test_a_kept_lock_of_callbacks_stops_only_other_threads() -> None:
    """If an exception leaves the lock of callbacks taken, the thread that has it delivers them. (BUDGET-70)"""
    told: list[Any] = []
    tracker = BudgetTracker(100, sink=told.append)
    tracker.gate._outbox._delivering.wait()  # type: ignore[attr-defined]
    tracker.record(1)
    assert len(told) == 1


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


def test_a_block_whose_end_is_interrupted_ends_its_hold() -> None:
    """The next operation ends the hold, although the caller may still refer to it. (BUDGET-70)"""
    tracker = BudgetTracker(100)
    hold = tracker.reserve(10)
    hold.dispatch()
    lock = tracker.gate._lock  # type: ignore[attr-defined]
    lock.take = Interrupted(lock.take)
    with pytest.raises(KeyboardInterrupt), hold:
        pass
    assert seen_by_another(tracker) == (Amount(0, 0), Amount(10, 1))
    assert outcomes(tracker) == ["presumed"]


def test_a_dispatch_that_was_interrupted_sent_nothing() -> None:
    """Its caller sends no request after the exception, so the hold is released. (BUDGET-3, BUDGET-70)"""
    tracker = BudgetTracker(100)
    hold = tracker.reserve(10)
    tracker.record(1)
    lock = tracker.gate._lock  # type: ignore[attr-defined]
    lock.release = Interrupted(lock.release)
    with pytest.raises(KeyboardInterrupt), hold:
        hold.dispatch()
    assert (hold.dispatched, outcomes(tracker)) == (False, ["recorded", "released"])
    at_rest(tracker)


def test_a_hold_cannot_be_pickled() -> None:
    """In another process it would be a second budget."""
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(BudgetTracker(100).reserve(10))


def test_a_signal_handler_gets_no_budget_within_an_operation(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused instead of shown books that are half changed, and the operation goes on. (BUDGET-71)"""
    tracker, errors = BudgetTracker(100), []
    record = tracker.gate._books.record  # type: ignore[attr-defined]

    def ring(*_: object) -> None:
        with pytest.raises(LLMConfigurationError) as caught:
            tracker.reserve(1)
        errors.append(str(caught.value))

    def record_while_it_rings(*arguments: Any) -> Any:
        signal.raise_signal(signal.SIGINT)
        return record(*arguments)

    monkeypatch.setattr(tracker.gate._books, "record", record_while_it_rings)  # type: ignore[attr-defined]
    before = signal.signal(signal.SIGINT, ring)
    try:
        tracker.record(7)
    finally:
        signal.signal(signal.SIGINT, before)
    assert [error[:46] for error in errors] == ["This thread has interrupted its own operation "]
    assert seen_by_another(tracker) == (Amount(0, 0), Amount(7, 0))


# A booking that is interrupted just before its sink is told: the books have it already


def interrupt_telling(tracker: BudgetTracker) -> None:
    """Let an exception interrupt the next booking once its entry is in the ledger."""
    books: Any = tracker.gate._books  # type: ignore[attr-defined]
    books._publish = Interrupted(books._publish)


NEXT: dict[str, Callable[[BudgetTracker, Hold], Any]] = {
    "reserve": lambda tracker, _: tracker.reserve(1).release(),
    "end": lambda _, other: other.release(),
    "read": lambda tracker, _: tracker.snapshot(),
}


@pytest.mark.parametrize("operation", NEXT)
def test_an_end_that_was_interrupted_is_told_once(operation: str) -> None:
    """Whichever operation is next, it completes the end: one entry, and the sink has it. (BUDGET-70)"""
    told: list[int] = []
    tracker = BudgetTracker(100, sink=lambda entry: told.append(entry.amount.tokens))
    tracker.consume(1)
    other, hold = tracker.reserve(10), tracker.reserve(20)
    hold.dispatch()
    interrupt_telling(tracker)
    with pytest.raises(KeyboardInterrupt):
        hold.settle(5)
    in_thread(lambda: NEXT[operation](tracker, other)).result(PATIENCE)
    other.release()
    assert (told[:2], type(hold), hold.entry and hold.entry.amount.tokens) == ([1, 5], Hold, 5)
    assert outcomes(tracker).count("settled") == 2
    assert tracker.ledger.totals("tracker")["budget"].amount.tokens == 6
    at_rest(tracker)


BOOKINGS: dict[str, tuple[Callable[[BudgetTracker, Hold], Any], int]] = {
    "settled": (lambda _, hold: hold.settle(7), 7),
    "presumed": (lambda _, hold: hold.presume(), 10),
    "recorded": (lambda tracker, _: tracker.record(7, calls=1), 7),
}


@pytest.mark.parametrize("outcome", BOOKINGS)
def test_a_booking_that_was_interrupted_has_one_entry(outcome: str) -> None:
    """It is done twice, and counts once. (BUDGET-70)"""
    told: list[str] = []
    tracker = BudgetTracker(100, sink=lambda entry: told.append(entry.outcome))
    book, tokens = BOOKINGS[outcome]
    hold = tracker.reserve(10)
    hold.dispatch()
    interrupt_telling(tracker)
    with pytest.raises(KeyboardInterrupt):
        book(tracker, hold)
    assert seen_by_another(tracker)[1] == Amount(tokens, 1)
    assert (told, outcomes(tracker)) == ([outcome], [outcome])
    hold.release()
    at_rest(tracker)


def test_spend_whose_leaving_was_interrupted_leaves_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The window of a tracker gives up its spend, and the tracker above keeps it. (BUDGET-50, BUDGET-70)"""
    now = booking.now()
    monkeypatch.setattr(booking, "now", lambda: now)
    tracker = BudgetTracker(100)
    child = tracker.child("c", 50, period="day")
    child.consume(30)
    now += 90_000.0
    interrupt_telling(tracker)
    with pytest.raises(KeyboardInterrupt):
        child.snapshot()
    assert seen_by_another(child)[1] == Amount(0, 0)
    assert seen_by_another(tracker)[1] == Amount(30, 0)
    assert outcomes(tracker) == ["settled", "expired", "expired"]
    at_rest(tracker)


def test_a_threshold_that_was_interrupted_fires_once() -> None:
    """Its callback was queued already when the interruption came. (BUDGET-42, BUDGET-70)"""
    tracker, seen = BudgetTracker(100), []
    tracker.on_threshold(0.5, lambda snapshot: seen.append(snapshot.spent.tokens))
    (threshold,) = tracker.gate._books.thresholds  # type: ignore[attr-defined]
    threshold.rest = Interrupted(threshold.rest)
    with pytest.raises(KeyboardInterrupt):
        tracker.consume(60)
    in_thread(lambda: tracker.consume(10)).result(PATIENCE)
    assert seen in ([60], [70])
    at_rest(tracker)


def test_a_lesson_that_was_interrupted_raises_the_demands_of_waiters() -> None:
    """A waiting call whose bound can no longer fit is refused by the next operation. (BUDGET-41, BUDGET-70)"""
    tracker, facts = BudgetTracker(75), CallFacts(adapter="a", model="m")
    demand = BoundDemand(Bound(prompt_tokens=10, max_tokens=20), 20, None)
    first, second = (admit(tracker, demand, facts, deadline=0.0) for _ in range(2))
    first.dispatch()
    waiter = Waiter(tracker, demand, facts, arrival=tracker.gate.arrive(), deadline=1e18, own=())
    tracker.gate.queue(waiter, may_wait=True)
    gate: Any = tracker.gate
    gate._raise_demands = Interrupted(gate._raise_demands)
    with pytest.raises(KeyboardInterrupt):
        first.settle(usage=Usage(prompt_tokens=10, completion_tokens=50))
    assert in_thread(tracker.snapshot).result(PATIENCE).waiting == 0
    assert waiter.error is not None
    assert (waiter.error.reason, waiter.error.requested) == ("never_fits", 60)
    second.release()
    at_rest(tracker)


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


@pytest.mark.parametrize("done", [0, 1, 2])
def test_a_grant_that_was_interrupted_is_undone(child: BudgetTracker, done: int) -> None:
    """All levels get their old figures back, however many of them had changed. (BUDGET-70)"""
    path, before = child.accounts, [level.record for level in child.accounts.levels]
    assert accounts.take(path, Amount(5, 1))
    for level, record in zip(path.levels[done:], before[done:], strict=True):
        level.record = record
    path.journal.finish()
    assert figures(child) == [(10, 0), (10, 0)]


@pytest.mark.parametrize("done", [0, 1, 2])
def test_an_end_that_was_interrupted_is_completed(child: BudgetTracker, done: int) -> None:
    """All levels have the spend and no longer hold it, however many of them had changed. (BUDGET-70)"""
    path, before = child.accounts, [level.record for level in child.accounts.levels]
    accounts.complete(path, HELD, SPENT, 1)
    for level, record in zip(path.levels[done:], before[done:], strict=True):
        level.record = record
    accounts.complete(path, HELD, SPENT, 1)
    assert figures(child) == [(0, 7), (0, 7)]


HELD, SPENT = Amount(10, 1), Amount(7, 1)


def test_a_hold_that_nobody_got_is_none() -> None:
    """A hold whose grant was interrupted after it was opened has ended, and holds nothing. (BUDGET-70)"""
    tracker = BudgetTracker(100)
    hold, journal = tracker.reserve(10), tracker.gate.journal
    [level] = tracker.accounts.levels
    journal.intent, journal.hold = level.record[-1], hold  # type: ignore[assignment]
    tracker.gate._inside = True  # type: ignore[attr-defined]
    assert seen_by_another(tracker) == ((0, 0, 0), (0, 0, 0))
    assert hold.ended


def reserve(tracker: BudgetTracker) -> None:
    with tracker.reserve(10, max_wait_seconds=1) as hold:
        hold.release()


def areserve(tracker: BudgetTracker) -> None:
    async def hold_it() -> None:
        with await tracker.areserve(10) as hold:
            hold.release()

    with pytest.raises(StopIteration):
        hold_it().send(None)


def allot(tracker: BudgetTracker) -> None:
    with tracker.allot("part", total=10):
        pass


@pytest.mark.parametrize("use", [reserve, areserve, allot, lambda tracker: tracker.consume(10)])
def test_an_interruption_that_is_kept_keeps_no_hold(use: Callable[[BudgetTracker], Any]) -> None:
    """A notebook keeps the last exception, and a list more of them: what their tracebacks lead to is no open hold.
    (BUDGET-70)"""
    tracker, kept, passed = BudgetTracker(1_000), list[BaseException](), 0

    def interrupt(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal passed
        name, file = frame.f_code.co_name, frame.f_code.co_filename
        # A generator that is closed would only print the exception.
        ours = event == "call" and "llm_connect" in file and name not in ("__exit__", "<genexpr>")
        passed += ours
        if ours and passed == len(kept) + 1:
            raise KeyboardInterrupt

    while passed >= len(kept):
        passed = 0
        sys.setprofile(interrupt)
        try:
            use(tracker)
            break
        except KeyboardInterrupt as error:
            kept.append(error)
        finally:
            sys.setprofile(None)
        assert tracker.snapshot().held == (0, 0, 0), len(kept)
    assert len(kept) > 5
    at_rest(tracker)

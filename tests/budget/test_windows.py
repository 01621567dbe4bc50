"""Limits with a period: spend leaves the window in time."""

from __future__ import annotations

import asyncio
import pickle
import time
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from llm_connect.budget.accounting.windows import Period, describe_period, period_of, period_text
from llm_connect.budget.admission import booking
from llm_connect.budget.tracker import BudgetTracker
from llm_connect.errors import LLMConfigurationError
from llm_connect.interface.config import RunConfig
from llm_connect.testing.mock import MockLLMAdapter
from llm_connect.types.amounts import NOTHING, Amount
from tests.budget.budget_helpers import arefused, at_rest, in_thread, learned, outcomes, refused, waits

DAY = 86_400.0
NOON = datetime(2026, 11, 24, 12, tzinfo=UTC).timestamp()


class Clock:
    """The clock of windows, which a test sets."""

    def __init__(self) -> None:
        self.moment = NOON

    def __call__(self) -> float:
        return self.moment


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(booking, "now", clock)
    return clock


@pytest.fixture
def short_parts() -> timedelta:
    """A period that is over very soon by the real clock."""
    return timedelta(seconds=0.3)


@pytest.mark.parametrize(
    ("period", "ends"),
    [
        ("hour", datetime(2026, 11, 24, 13, tzinfo=UTC)),
        ("day", datetime(2026, 11, 25, tzinfo=UTC)),
        ("month", datetime(2026, 12, 1, tzinfo=UTC)),
    ],
)
def test_a_calendar_period_begins_anew_at_its_boundary(clock: Clock, period: Any, ends: datetime) -> None:
    """In UTC: just before the boundary all spend counts, from the boundary on none does, and entries add up
    (BUDGET-50).
    """
    tracker = BudgetTracker(100, period=period)
    tracker.consume(100)
    assert tracker.snapshot().opens_at == ends.timestamp()
    clock.moment = ends.timestamp() - 0.001
    assert (tracker.snapshot().spent.tokens, tracker.remaining()) == (100, 0)
    clock.moment = ends.timestamp()
    tracker.consume(99)
    assert (tracker.snapshot().spent.tokens, tracker.remaining()) == (99, 1)
    assert outcomes(tracker) == ["settled", "expired", "settled"]
    at_rest(tracker)


def test_a_month_may_be_the_last_of_its_year(clock: Clock) -> None:
    """December ends with the year (BUDGET-50)."""
    clock.moment = datetime(2026, 12, 31, 23, 59, tzinfo=UTC).timestamp()
    tracker = BudgetTracker(100, period="month")
    assert tracker.snapshot().opens_at == datetime(2027, 1, 1, tzinfo=UTC).timestamp()


def test_a_rolling_limit_holds_for_every_span_of_its_length(clock: Clock) -> None:
    """For any times of spending, no span of an hour exceeds the limit, and no call waits too long (BUDGET-51)."""
    tracker = BudgetTracker(10, period=timedelta(hours=1))
    spent: list[float] = []
    for _ in range(400):
        try:
            tracker.consume(1)
            spent.append(clock.moment)
        except Exception:
            assert clock.moment - spent[-10] <= 3_660
        clock.moment += 47.3
    assert len(spent) > 45
    for moment in spent:
        assert sum(moment <= other <= moment + 3_600 for other in spent) <= 10
    at_rest(tracker)


def test_each_tracker_has_a_window_of_its_own(clock: Clock) -> None:
    """Spend that leaves a child's window stays spent above it, and the other way round; the entries of each add up
    (BUDGET-52).
    """
    root = BudgetTracker(1_000, period="day", keep_entries=100)
    child = root.child("team", 50, period="hour")
    grandchild = child.child("bee", 500)
    grandchild.record(40, labels={"job": "a"}, model="m")
    clock.moment += 3_600
    root.record(5)
    assert [each.snapshot().spent.tokens for each in (root, child, grandchild)] == [45, 0, 40]
    assert [(entry.tracker, entry.amount.tokens) for entry in root.ledger if entry.outcome == "expired"] == [
        ("budget/team", -40),
        ("budget", 40),
    ]
    for each in (root, child, grandchild):
        mine = [entry for entry in root.ledger if f"{entry.tracker}/".startswith(f"{each.path}/")]
        assert sum(entry.amount.tokens for entry in mine) == each.snapshot().spent.tokens
    clock.moment += DAY
    assert [each.snapshot().spent.tokens for each in (root, child, grandchild)] == [0, 0, 40]
    at_rest(root)


def test_totals_keep_what_has_left_a_window(clock: Clock) -> None:
    """Totals by tracker, model and label count all spend ever booked, and an expiry is not an attempt (BUDGET-43,
    BUDGET-52).
    """
    tracker = BudgetTracker(100, period="day", keep_entries=1)
    child = tracker.child("c", period="hour")
    for _ in range(3):
        child.record(30, labels={"job": "a"}, model="m")
        clock.moment += DAY
    assert tracker.snapshot().spent == NOTHING
    totals = tracker.ledger.totals("label")["job=a"], tracker.ledger.totals("model")["m"]
    assert [(total.entries, total.amount.tokens) for total in totals] == [(3, 90), (3, 90)]
    assert {path: total.amount.tokens for path, total in tracker.ledger.totals("tracker").items()} == {"budget/c": 90}
    at_rest(tracker)


def test_a_hold_counts_in_the_window_in_which_it_ends(clock: Clock) -> None:
    """A hold stays held across a boundary, and its amount is spent after it (BUDGET-53)."""
    tracker = BudgetTracker(100, period="day")
    hold = in_thread(lambda: tracker.reserve(80)).result(20)
    hold.dispatch()
    clock.moment += DAY
    assert refused(lambda: tracker.consume(30)).reason == "refused"
    hold.settle(70)
    assert tracker.snapshot().spent.tokens == 70
    clock.moment += DAY
    assert tracker.snapshot().spent == NOTHING
    at_rest(tracker)


@pytest.mark.parametrize("actual", [0, 300, 1_000, 1_700])
def test_a_correction_counts_where_its_entry_does(clock: Clock, actual: int) -> None:
    """If the entry has left a window, the correction changes nothing there, and changes the windows above that
    still have it (BUDGET-54).
    """
    root = BudgetTracker(5_000)
    child = root.child("c", 2_000, period="day")
    with child.reserve(1_000) as hold:
        hold.dispatch()
    assert hold.entry is not None
    clock.moment += DAY
    child.record(50)
    root.correct(hold.entry.id, actual)
    assert child.snapshot().spent == Amount(50)
    assert child.snapshot().presumed == NOTHING
    assert root.snapshot().spent == Amount(50 + actual, 1)
    assert root.snapshot().presumed == NOTHING
    at_rest(root)


def test_a_correction_of_an_older_part_leaves_with_it(clock: Clock) -> None:
    """The part of a rolling window is corrected, and nothing remains when that part leaves (BUDGET-54)."""
    tracker = BudgetTracker(5_000, period=timedelta(hours=1))
    tracker.record(7)
    clock.moment += 120
    with tracker.reserve(1_000) as hold:
        hold.dispatch()
    assert hold.entry is not None
    clock.moment += 120
    tracker.record(11)
    clock.moment += 120
    tracker.correct(hold.entry.id, 400)
    assert (tracker.snapshot().spent.tokens, tracker.snapshot().presumed) == (418, NOTHING)
    clock.moment += 3_480
    assert tracker.snapshot().spent.tokens == 11
    clock.moment += 3_600
    assert tracker.snapshot().spent == NOTHING
    at_rest(tracker)


def test_who_waits_is_let_in_when_a_window_opens(short_parts: timedelta) -> None:
    """A waiting thread is admitted without any other operation, and the waiters beside it in order (BUDGET-55)."""
    tracker = BudgetTracker(10, period=short_parts)
    tracker.consume(10)
    began = time.monotonic()
    waiting = in_thread(lambda: tracker.reserve(10, max_wait_seconds=20).release())
    waiting.result(20)
    assert time.monotonic() - began < 5
    at_rest(tracker)


async def test_a_task_that_waits_is_let_in_when_a_window_opens(short_parts: timedelta) -> None:
    """The same holds for a task (BUDGET-55)."""
    tracker = BudgetTracker(10, period=short_parts)
    tracker.record(10)
    async with asyncio.timeout(10):
        hold = await tracker.areserve(10, max_wait_seconds=20)
    hold.release()


def test_who_waits_for_a_hold_sleeps_over_boundaries_of_its_window(short_parts: timedelta) -> None:
    """The thread wakes when the window opens, checks, and waits on until the hold ends (BUDGET-55)."""
    tracker = BudgetTracker(10, period=short_parts)
    hold = tracker.reserve(10)
    waiting = in_thread(lambda: tracker.reserve(10, max_wait_seconds=20).release())
    waits(tracker, 1)
    time.sleep(0.7)
    assert not waiting.done()
    hold.release()
    waiting.result(20)
    assert (
        in_thread(lambda: refused(lambda: tracker.reserve(11, max_wait_seconds=20))).result(20).reason == "never_fits"
    )
    hold = tracker.reserve(10)
    error = in_thread(lambda: refused(lambda: tracker.reserve(10, max_wait_seconds=0.5))).result(20)
    assert error.reason == "wait_expired"
    hold.release()


async def test_a_task_that_waits_for_a_hold_sleeps_over_boundaries(short_parts: timedelta) -> None:
    """The same holds for a task (BUDGET-55)."""
    tracker = BudgetTracker(10, period=short_parts)
    with await asyncio.create_task(tracker.areserve(10)):
        error = await arefused(tracker.areserve(10, max_wait_seconds=0.8))
    assert error.reason == "wait_expired"


def test_what_opens_too_late_is_refused_at_once(clock: Clock) -> None:
    """The error says when there is room again, as a number and in UTC, and how to make the call fit (BUDGET-56)."""
    tracker = BudgetTracker(100, period="day")
    tracker.record(80)
    for wait in (0.0, 60.0):
        error = refused(lambda wait=wait: tracker.reserve(30, max_wait_seconds=wait))  # type: ignore[misc]
        assert (error.reason, error.missing) == ("window_full", 10)
        assert error.opens_at == NOON + DAY / 2
        assert "There is room again at 2026-11-25 00:00:00 UTC" in str(error)
        assert "of 100 tokens a day" in str(error)
    assert pickle.loads(pickle.dumps(error)).opens_at == error.opens_at
    error = refused(lambda: tracker.reserve(101, max_wait_seconds=60))
    assert (error.reason, error.opens_at) == ("never_fits", None)
    at_rest(tracker)


def test_the_latest_window_on_the_path_decides_when_there_is_room(clock: Clock) -> None:
    """If one of the windows never opens enough, the call never fits (BUDGET-56)."""
    root = BudgetTracker(100, period="day")
    child = root.child("c", 100, period="hour")
    child.record(90)
    assert refused(lambda: child.consume(20)).opens_at == NOON + DAY / 2
    lasting = root.child("l", 50)
    lasting.record(50)
    assert refused(lambda: lasting.consume(1)).reason == "never_fits"


def test_a_waiter_that_a_window_no_longer_helps_is_told(clock: Clock) -> None:
    """A waiter is refused as soon as no window can open in time (BUDGET-56)."""
    clock.moment = NOON + DAY / 2 - 10
    tracker = BudgetTracker(100, period="day")
    tracker.record(60)
    waiting = in_thread(lambda: refused(lambda: tracker.reserve(100, max_wait_seconds=30)))
    waits(tracker, 1)
    tracker.set_limits(total=90)
    assert waiting.result(20).reason == "never_fits"


def test_a_breach_ends_with_its_window(clock: Clock) -> None:
    """Then an earlier hold may be sent, and calls are admitted again (BUDGET-10, BUDGET-50)."""
    tracker = BudgetTracker(100, period="day")
    hold = tracker.reserve(40)
    tracker.record(101)
    assert tracker.breached
    clock.moment += DAY
    hold.dispatch()
    hold.settle(40)
    assert not tracker.breached
    tracker.consume(60)
    at_rest(tracker)


@pytest.mark.parametrize("period", ["day", timedelta(hours=24)])
def test_a_threshold_is_told_once_in_each_window(clock: Clock, period: Period) -> None:
    """The callback runs again once all spend of that moment has left (BUDGET-57)."""
    tracker = BudgetTracker(100, period=period)
    seen: list[int] = []
    tracker.on_threshold(0.8, lambda snapshot: seen.append(snapshot.spent.tokens))
    for _ in range(3):
        tracker.record(80)
        tracker.record(10)
        clock.moment += DAY * 2
        tracker.snapshot()
    assert seen == [80, 80, 80]


def test_a_clock_that_is_set_back_does_not_open_a_window(clock: Clock) -> None:
    """If it is set back a little, the window lasts that much longer; if far, until the next boundary (BUDGET-58)."""
    for period in ("day", timedelta(hours=24)):
        clock.moment = NOON
        tracker = BudgetTracker(100, period=period)  # type: ignore[arg-type]
        tracker.record(60)
        clock.moment += 1_500
        tracker.record(30)
        clock.moment -= 1_500
        assert tracker.snapshot().spent.tokens == 90
        clock.moment -= 400 * DAY
        assert tracker.snapshot().spent.tokens == 90
        assert refused(lambda tracker=tracker: tracker.consume(20)).reason == "window_full"  # type: ignore[misc]
        clock.moment += 2 * DAY
        tracker.consume(20)
        assert tracker.snapshot().spent.tokens == 20
        at_rest(tracker)


def test_a_child_that_nobody_has_is_no_longer_looked_at(clock: Clock) -> None:
    """Its window goes with it, and its spend stays above (BUDGET-52)."""
    tracker = BudgetTracker(1_000)
    for number in range(20):
        tracker.child(f"c{number}", 50, period="hour").record(1)
    clock.moment += DAY
    assert tracker.snapshot().spent.tokens == 20
    at_rest(tracker)


def test_a_window_is_shown() -> None:
    """The text and the snapshot show the period (BUDGET-50)."""
    tracker = BudgetTracker(total_usd=5, period="day")
    assert "of 5 USD a day" in str(tracker)
    assert (tracker.period, tracker.snapshot().period) == ("day", "day")
    lasting = BudgetTracker(5)
    assert (lasting.period, lasting.snapshot().period, lasting.snapshot().opens_at) == (None, None, None)


@pytest.mark.parametrize(
    ("period", "described", "text"),
    [
        ("month", "a month", "month"),
        (timedelta(hours=24), "in any 24 hours", "86400000000 us"),
        (timedelta(days=7), "in any 7 days", "604800000000 us"),
        (timedelta(minutes=90), "in any 90 minutes", "5400000000 us"),
        (timedelta(seconds=1), "in any second", "1000000 us"),
        (timedelta(microseconds=7), "in any 7e-06 seconds", "7 us"),
    ],
)
def test_periods_are_described_and_stored(period: Period, described: str, text: str) -> None:
    """A period has a description for people, and a text from which a store reads it again."""
    assert (describe_period(period), period_text(period), period_of(text)) == (described, text, period)


@pytest.mark.parametrize("period", ["week", 5, timedelta(), timedelta(days=-1), timedelta(days=9_999), ""])
def test_invalid_periods_are_refused(period: Any) -> None:
    """The error is one line that names the valid periods."""
    with pytest.raises(LLMConfigurationError, match="period must be 'hour', 'day', 'month' or a timedelta"):
        BudgetTracker(5, period=period)
    with pytest.raises(LLMConfigurationError, match="period must be"):
        BudgetTracker(5).child("c", 5, period=period)


def test_an_allotment_below_a_window(clock: Clock) -> None:
    """An allotment lasts for its block, not for a window; trackers below and above it may have periods (BUDGET-40)."""
    tracker = BudgetTracker(100, period="day")
    tracker.record(60)
    assert refused(lambda: tracker.allot("s", 50).__enter__()).reason == "window_full"
    with tracker.allot("s", 40) as share:
        share.child("c", 40, period="hour").record(10)
        clock.moment += DAY
        assert (tracker.snapshot().spent, tracker.snapshot().allotted) == (NOTHING, Amount(30))
        assert share.snapshot().spent == Amount(10)
    assert tracker.snapshot().allotted == NOTHING
    at_rest(tracker)


@pytest.mark.parametrize("nested", [False, True])
def test_a_correction_gives_an_allotment_nothing_that_left_the_window_above(clock: Clock, nested: bool) -> None:
    """Others may have its place by now: to set it aside again would be a grant that does not fit. (BUDGET-54)"""
    root = BudgetTracker(10, period="day")
    with ExitStack() as blocks:
        shares = [blocks.enter_context(root.allot("s", 7))]
        if nested:
            shares.append(blocks.enter_context(shares[0].allot("t", 5)))
        call = shares[-1].child("c")
        with call.reserve(3) as hold:
            hold.dispatch()
        assert hold.entry is not None
        clock.moment += DAY
        assert root.snapshot().allotted.tokens == 4
        other = root.reserve(6)
        root.correct(hold.entry.id, 1, calls=1)
        assert (root.snapshot().allotted.tokens, root.snapshot().breached) == (4, False)
        for share in shares:
            assert (share.snapshot().spent.tokens, share.snapshot().presumed) == (3, NOTHING)
        assert call.snapshot().spent.tokens == 1
        refused(lambda: root.reserve(1))
        other.release()
    at_rest(root)


def test_a_call_is_let_in_by_its_adapter_in_the_next_window(clock: Clock) -> None:
    """The learned factor of a model stays across the boundary (BUDGET-41, BUDGET-50)."""
    tracker = BudgetTracker(600, period="day")
    adapter = MockLLMAdapter("x", prompt_tokens=40, completion_tokens=300)
    config = RunConfig(budget_tracker=tracker, max_tokens=150, max_wait_seconds=0)
    adapter.execute_prompt("x" * 100, config)
    factors = learned(tracker)
    assert factors
    assert refused(lambda: adapter.execute_prompt("x" * 100, config)).reason == "window_full"
    clock.moment += DAY
    assert learned(tracker) == factors
    adapter.execute_prompt("x" * 100, config)
    at_rest(tracker)

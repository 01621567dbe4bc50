"""Limits with a period in budgets of stores."""

from __future__ import annotations

import contextvars
import json
import math
import multiprocessing
import sqlite3
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from llm_connect.budget.admission import booking
from llm_connect.errors import LLMConfigurationError
from llm_connect.stores.command import main
from llm_connect.stores.opening import new_session, open_budget
from llm_connect.stores.sqlite import file as schema
from llm_connect.types.amounts import NOTHING
from tests.budget.budget_helpers import at_rest, in_thread, refused, until, waits
from tests.budget.test_windows import DAY, NOON, Clock
from tests.stores.crew import crew, results
from tests.stores.looking import second


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(booking, "now", clock)
    return clock


def other_process(session: Any) -> Any:
    """A new session, like that of another process."""
    return new_session(session.terms)


def test_another_period_is_another_limit(url: str) -> None:
    """A later process passes the same limits and period, or neither (STORE-13)."""
    budget = open_budget(url, total_usd="5.00", period="day")
    assert open_budget(url) is open_budget(url, total_usd=5, period="day") is open_budget(url, period="day") is budget
    for details in ({"total_usd": 5}, {"period": "hour"}, {"total_usd": 5, "period": "month", "change_limits": True}):
        with pytest.raises(LLMConfigurationError, match=r"has 5 USD a day, not .*Its period cannot change"):
            open_budget(url, **details)  # type: ignore[arg-type]
    open_budget(url, total_usd=6, period="day", change_limits=True)
    assert str(budget).endswith("of 6 USD a day")
    with pytest.raises(LLMConfigurationError, match="period must be"):
        open_budget(url, name="other", period="week")  # type: ignore[arg-type]


def test_a_window_is_one_for_all_processes(url: str, clock: Clock) -> None:
    """A process that loads a tracker, or has not used it for long, sees the expired spend (STORE-15)."""
    budget = open_budget(url, total=100, period="day")
    child = budget.child("team", 50, period="hour", join=True)
    child.record(50)
    clock.moment += DAY
    other = other_process(budget.gate.session)
    theirs = other.tracker(child.number)
    assert (theirs.period, theirs.snapshot().spent) == ("hour", NOTHING)
    theirs.consume(50)
    assert (child.snapshot().spent.tokens, budget.snapshot().spent.tokens) == (50, 50)
    clock.moment += 3_600
    assert (child.snapshot().spent.tokens, theirs.snapshot().spent.tokens) == (0, 0)
    at_rest(budget)
    other.shut()


def test_a_worker_knows_how_long_nothing_leaves_a_window(url: str, clock: Clock) -> None:
    """The worker sleeps until the next expiry on the path of a waiting caller (BUDGET-50, STORE-15)."""
    budget = open_budget(url, total=100, period="day")
    session: Any = budget.gate.session  # type: ignore[attr-defined]
    budget.child("other", 50, period="hour").consume(1)
    budget.consume(1)
    assert session.next_window == math.inf
    blocker = contextvars.Context().run(budget.reserve, 90)
    waiting = in_thread(lambda: contextvars.Context().run(budget.reserve, 50, max_wait_seconds=60))
    waits(budget, 1)
    assert abs(session.next_window - DAY / 2) < 1
    blocker.release()
    waiting.result(20).release()
    at_rest(budget)


def test_a_reset_begins_windows_anew(url: str, clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    """A reset clears the windows of parent and child, and no spend leaves them twice (STORE-9, STORE-15)."""
    budget = open_budget(url, total=1_000, period="hour")
    child = budget.child("c", 500, join=True)
    with child.reserve(90) as hold:
        hold.dispatch()
    clock.moment += 3_600
    budget.record(5)
    assert main(["reset", url, "--yes"]) == 0
    assert [each.snapshot().spent for each in (budget, child)] == [NOTHING, NOTHING]
    clock.moment += DAY
    assert [each.snapshot().spent for each in (budget, child)] == [NOTHING, NOTHING]
    assert [each.snapshot().presumed for each in (budget, child)] == [NOTHING, NOTHING]
    at_rest(budget)
    capsys.readouterr()


def test_the_command_shows_periods(url: str, clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    """The command shows the present spend of a window, even if no process has used the budget since (STORE-9)."""
    budget = open_budget(url, total=1_000, period="day")
    budget.record(300, labels={"job": "a"})
    assert main(["ls", url]) == 0
    assert capsys.readouterr().out.splitlines()[2].split() == [
        "budget",
        "tokens",
        "300",
        "0",
        "700",
        "1,000",
        "a",
        "day",
        "0",
    ]
    clock.moment += DAY
    assert main(["ls", url, "--json"]) == 0
    (said,) = json.loads(capsys.readouterr().out)
    assert (said["period"], said["opens_at"]) == ("a day", "2026-11-26T00:00:00+00:00")
    assert (said["tokens"]["spent"], said["tokens"]["left"]) == (0, 1_000)
    budget.snapshot()
    assert main(["show", url]) == 0
    out = capsys.readouterr().out
    assert "budget (opens 2026-11-26T00:00:00+00:00)" in out
    assert [line.split() for line in out.splitlines() if line.startswith("job=a")] == [["job=a", "1", "300", "0", "0"]]


def test_a_file_of_the_first_version_gets_windows(folder: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The budgets of an older file stay as they are, and new ones may have periods (STORE-12)."""
    path = f"{folder}/budget.db"
    with monkeypatch.context() as patch:
        patch.setattr(schema, "MIGRATIONS", schema.MIGRATIONS[:1])
        connection = schema.connect(path, 1.0)
    connection.execute("INSERT INTO budgets (name, on_unknown, created_at) VALUES ('old', 'presume', 0)")
    connection.execute(
        "INSERT INTO trackers (budget, name, path, joined, is_slice, closed, changed, tokens_limit, tokens_spent) "
        "VALUES (1, 'old', 'old', 0, 0, 0, 1, 100, 30)"
    )
    connection.close()
    old = open_budget(url, name="old", total=100)
    assert (old.period, old.snapshot().spent.tokens) == (None, 30)
    assert open_budget(url, name="new", total=5, period="day").period == "day"
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (len(schema.MIGRATIONS),)


def test_a_window_is_as_before_when_a_transaction_fails(
    url: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Spend that has left a window in an undone transaction leaves it in the next one (STORE-10, STORE-15)."""
    budget = open_budget(url, total=100, period="day")
    budget.record(60)
    clock.moment = NOON + DAY
    session: Any = budget.gate.session  # type: ignore[attr-defined]
    with monkeypatch.context() as patch:
        patch.setattr(session.changes, "write", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            budget.snapshot()
    assert budget.snapshot().spent == NOTHING
    at_rest(budget)


def test_the_numbers_at_which_parts_begin_are_those_of_the_file(url: str, clock: Clock) -> None:
    """A correction counts, even if parts of the window have ended before the first booking (BUDGET-54, STORE-15)."""
    budget = open_budget(url, total=100, period="hour")
    other = other_process(budget.gate.session)
    for _ in range(5):
        clock.moment += 3_600
        budget.snapshot()
    kept = budget.reserve(0)
    theirs = other.tracker(other.root)
    with theirs.reserve(50) as hold:
        hold.dispatch()
    assert hold.entry is not None
    budget.correct(hold.entry.id, 7)
    kept.release()
    assert budget.snapshot().spent.tokens == theirs.snapshot().spent.tokens == 7
    at_rest(budget)
    other.shut()


def test_what_leaves_a_window_leaves_it_once(url: str, clock: Clock) -> None:
    """The first process expires the spend, even if the others did not know of it yet (STORE-15)."""
    budget = open_budget(url, total=100, period="hour")
    other = other_process(budget.gate.session)
    theirs = other.tracker(other.root)
    for leaves in (theirs, budget):
        theirs.record(30)
        budget.record(40)
        clock.moment += 3_600
        leaves.reserve(100).release()
        budget.reserve(100).release()
        theirs.reserve(100).release()
    assert [entry.amount.tokens for entry in budget.ledger if entry.outcome == "expired"] == [-70, -70]
    at_rest(budget)
    other.shut()


def test_what_others_have_booked_before_a_part_ends_leaves_with_it(url: str, clock: Clock) -> None:
    """Bookings of others leave with their part of the window, and corrections find them there (BUDGET-54, STORE-15)."""
    budget = open_budget(url, total=100, period=timedelta(hours=1))
    other = other_process(budget.gate.session)
    with other.tracker(other.root).reserve(50) as hold:
        hold.dispatch()
    assert hold.entry is not None
    clock.moment += 60
    budget.reserve(1).settle(1)
    budget.correct(hold.entry.id, 20)
    assert budget.snapshot().spent.tokens == 21
    clock.moment += 3_600
    assert budget.snapshot().spent.tokens == 1
    at_rest(budget)
    other.shut()


def test_a_threshold_is_told_though_another_process_was_faster(url: str, clock: Clock) -> None:
    """A step that was decided on a window that others have moved is undone (BUDGET-57, STORE-15)."""
    budget = open_budget(url, total=100, period="day")
    seen: list[int] = []
    budget.on_threshold(0.8, lambda snapshot: seen.append(snapshot.spent.tokens))
    other = other_process(budget.gate.session)
    theirs = other.tracker(other.root)
    for _ in range(2):
        hold = budget.reserve(90)
        clock.moment += DAY
        theirs.record(3)
        hold.settle(90)
        clock.moment += DAY
    assert seen == [93, 93]
    at_rest(budget)
    other.shut()


def test_processes_that_book_without_pause_lose_nothing_of_windows(url: str) -> None:
    """Processes lose no spend in windows of the budget, of shared and of own children whose parts end all the time.

    (STORE-1, STORE-15)
    """
    budget = open_budget(url, period=timedelta(seconds=0.3), keep_entries=0)
    with crew(3, "short_windows", url, 120) as processes:
        found = results(processes)
    paths = [f"budget/{name}" for name in ("shared", "own 0", "own 1", "own 2")]
    totals = budget.ledger.totals("tracker")
    assert sum(totals[path].amount.tokens for path in (budget.path, *paths)) == sum(found) > 0
    shared = budget.child("shared", join=True)
    assert shared.period == timedelta(seconds=0.6)
    for each in (shared, budget):
        until(lambda each=each: each.snapshot().spent == NOTHING)  # type: ignore[misc]
        assert each.snapshot().presumed == NOTHING
    at_rest(budget)


def test_a_tracker_with_a_window_goes_to_other_processes(url: str) -> None:
    """A tracker keeps its window in a pickle and in a fork (STORE-6, STORE-15)."""
    budget = open_budget(url, total=100, period="month")
    child = budget.child("c", 50, period="day")
    for context in ("spawn", "fork"):
        with ProcessPoolExecutor(1, multiprocessing.get_context(context)) as pool:
            snapshot = pool.submit(child.snapshot).result(20)
            pool.submit(child.record, 7).result(20)
        assert (snapshot.period, snapshot.opens_at) == ("day", child.snapshot().opens_at)
    assert (budget.snapshot().spent.tokens, child.snapshot().spent.tokens) == (14, 14)
    at_rest(budget)


def test_a_child_that_was_never_used_stands_in_no_store(url: str, clock: Clock) -> None:
    """An unused child is not written, however often its window starts over; its first booking counts (STORE-15)."""
    budget = open_budget(url, total=100)
    child = budget.child("c", 50, period="hour")
    for _ in range(3):
        clock.moment += 3_600
        budget.record(1)
    assert child.number == 0
    with child.reserve(10) as hold:
        hold.dispatch()
    assert hold.entry is not None
    budget.correct(hold.entry.id, 4)
    assert child.snapshot().spent.tokens == 4
    clock.moment += 3_600
    assert child.snapshot().spent == NOTHING
    at_rest(budget)


def test_who_waits_for_a_window_keeps_its_place_in_other_processes(url: str) -> None:
    """The caller keeps its place even if the window opens after its row had to be renewed (STORE-14, STORE-15)."""
    budget = open_budget(url, total=10, period=timedelta(seconds=2.4), lease_seconds=0.6)
    budget.record(9)
    other = second(budget)
    first = in_thread(lambda: budget.reserve(10, max_wait_seconds=20).release())
    waits(budget, 1)
    assert refused(lambda: other.reserve(1)).reason == "refused"
    first.result(20)
    other.reserve(1).release()
    at_rest(budget)
    other.gate.session.shut()  # type: ignore[attr-defined]

"""Windows of budgets in a server: its clock, and decisions that overlap with an expiry."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from llm_connect.budget.admission import booking
from llm_connect.stores.opening import open_budget
from llm_connect.stores.redis.server import ServerClock
from tests.budget.budget_helpers import at_rest, outcomes
from tests.budget.stores import new_url
from tests.budget.test_windows import NOON, Clock
from tests.stores.looking import second, session_of


@pytest.fixture
def redis_url(folder: Path) -> str:
    """The URL of a server without budgets."""
    return new_url("redis", folder)


@pytest.mark.parametrize("days", [-3, 3])
def test_windows_go_by_the_clock_of_the_server(redis_url: str, monkeypatch: Any, days: int) -> None:
    """On a machine whose clock differs, or was just set, windows open at the same moment (BUDGET-58, STORE-15)."""
    right = open_budget(redis_url, total=100, period="day")
    expected = right.snapshot().opens_at
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 86_400 * days)
    monkeypatch.setattr(booking, "now", time.time)
    right.reserve(10).settle(10)
    other = second(right)
    assert other.snapshot().opens_at == right.snapshot().opens_at == expected
    made = open_budget(redis_url, name="made there", total=100, period="day")
    assert made.snapshot().opens_at == expected
    assert abs(session_of(other).clock() - real()) < 1
    monkeypatch.undo()
    assert right.child("c", 5, period="day").snapshot().opens_at == expected
    assert outcomes(right) == ["settled"]
    session_of(other).shut()


def test_the_clock_of_a_server_does_not_go_to_and_fro() -> None:
    """The offset stays in the interval of every reply, however slow, and changes only if it must (STORE-15)."""
    of_server = ServerClock()
    assert not of_server.known
    for ahead, asked, expected in ((-0.2, 0.4, 0), (50, 1, 50), (50.4, 1, 50.4), (49.9, 1, 50.4), (49, 0.1, 49.1)):
        of_server.hear(time.time() + ahead, time.time() - asked)
        assert of_server.known
        assert abs(of_server() - time.time() - expected) < 0.09


def test_a_correction_that_others_overtake_is_decided_anew(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the amended spend has left the window meanwhile, it does not leave it again (BUDGET-54, STORE-15)."""
    clock = Clock()
    monkeypatch.setattr(booking, "now", clock)
    budget = open_budget(redis_url, total=100, period="hour")
    theirs = second(budget)
    with budget.reserve(50) as hold:
        hold.dispatch()
    assert hold.entry is not None
    session: Any = session_of(budget)
    step = session._step

    def be_overtaken() -> Any:
        session._step = step
        clock.moment = NOON + 3_600
        theirs.record(5)
        return step()

    session._step = be_overtaken
    budget.correct(hold.entry.id, 7)
    assert (budget.snapshot().spent.tokens, budget.snapshot().presumed.tokens) == (5, 0)
    at_rest(budget)
    session_of(theirs).shut()

"""The look at every budget after each operation finds what breaks the promise (tests/promise.py)."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from llm_connect import BudgetTracker, open_budget
from llm_connect.budget.accounting import accounts, bounds
from llm_connect.budget.admission import booking
from llm_connect.budget.admission.holds import Ending, Hold
from tests import promise


def opened(store: str, folder: Path) -> BudgetTracker:
    return BudgetTracker(total=100) if store == "memory" else open_budget(f"sqlite:///{folder}/b.db", total=100)


@pytest.fixture(params=["memory", "sqlite"])
def tracker(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """A budget of 100 tokens."""
    with opened(request.param, tmp_path) as budget:
        yield budget


def test_a_grant_that_does_not_fit_is_found(tracker: BudgetTracker, monkeypatch: pytest.MonkeyPatch) -> None:
    """A planted fault, an admission that does not compare, is found at the grant that it lets through. (BUDGET-1)"""
    monkeypatch.setattr(bounds, "take", accounts.hold)
    with promise.expected() as found:
        within = tracker.reserve(60)
        assert found == []
        above = tracker.reserve(60)
        assert "more is held" in found[0]
        assert "120 tokens held of 100 tokens" in found[0]
        assert "test_a_grant_that_does_not_fit_is_found" in found[0]
        within.release()
        above.release()


def test_an_end_that_frees_twice_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A planted fault, an end that frees its hold once more, makes a figure negative, and is found. (BUDGET-1)"""
    end = booking.Books.end

    def end_twice(books: booking.Books, hold: Hold, ending: Ending) -> bool:
        hold.tracker.own_accounts[0].held -= hold.bound.tokens
        return end(books, hold, ending)

    hold = BudgetTracker(total=100).reserve(60)
    monkeypatch.setattr(booking.Books, "end", end_twice)
    with promise.expected() as found:
        hold.release()
        assert "a figure is negative" in found[0]


def test_a_fault_in_another_thread_is_found(tracker: BudgetTracker, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not matter who does the operation, nor that nobody sees what it raises. (BUDGET-1)"""
    monkeypatch.setattr(bounds, "take", accounts.hold)
    with promise.expected() as found:
        thread = threading.Thread(target=lambda: tracker.reserve(160).release())
        thread.start()
        thread.join()
        assert "160 tokens held of 100 tokens" in found[0]


def test_what_may_be_over_the_limit_is_no_fault(tracker: BudgetTracker) -> None:
    """A limit that is lowered, a call that costs more than its hold, and its correction break nothing. (BUDGET-1)"""
    first, second = tracker.reserve(40), tracker.reserve(40)
    tracker.set_limits(total=50)
    first.dispatch()
    second.dispatch()
    first.settle(70)
    second.presume()
    presumed = next(entry for entry in tracker.ledger if entry.outcome == "presumed")
    tracker.correct(presumed.id, tokens=1)
    assert promise.violations == []
    assert tracker.snapshot().breached

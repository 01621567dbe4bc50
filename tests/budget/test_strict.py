"""Strict budgets, and the number of calls that still fit."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from llm_connect.budget.accounting.bounds import Bound
from llm_connect.budget.accounting.prices import Price
from llm_connect.budget.tracker import BudgetTracker
from llm_connect.errors import LLMConfigurationError
from llm_connect.interface.config import RunConfig
from llm_connect.testing.mock import MockLLMAdapter
from tests.budget.budget_helpers import arefused, at_rest, refused


class Proven(MockLLMAdapter):
    def bound(self, prompt: str, config: RunConfig) -> Bound:
        return Bound(prompt_tokens=len(prompt), max_tokens=config.max_tokens or 50, grade="proven")


@pytest.mark.parametrize("named", [None, "child"])
async def test_a_strict_budget_admits_only_what_is_proven(named: str | None) -> None:
    """With `strict=True` a call with an estimated bound is refused before it is sent, also by children (BUDGET-44)."""
    root = BudgetTracker(1_000, strict=True)
    tracker = root if named is None else root.child(named)
    config = RunConfig(budget_tracker=tracker, max_tokens=50)
    adapter = MockLLMAdapter()
    for error in (
        refused(lambda: adapter.execute_prompt("hello", config)),
        await arefused(adapter.async_execute_prompt("hello", config)),
    ):
        assert (error.reason, error.model, error.booked) == ("unproven", "mock", (0, 0, 0))
        assert "is strict" in str(error)
        assert "estimated" in str(error)
    assert adapter.calls == []
    Proven().execute_prompt("hello", config)
    assert tracker.spent == 20
    at_rest(root)


def test_a_strict_budget_takes_a_reservation_that_its_user_calls_proven() -> None:
    """It admits proven tokens or a proven bound; the error for any other names the grade. (BUDGET-44)"""
    tracker = BudgetTracker(100, strict=True)
    bound = Bound(prompt_tokens=1, max_tokens=2)
    unproven: tuple[dict[str, Any], ...] = ({"tokens": 10}, {"tokens": 10, "grade": "unbounded"}, {"bound": bound})
    for asked in unproven:
        error = refused(partial(tracker.reserve, **asked))
        assert (error.reason, tracker.held) == ("unproven", 0)
    assert "grade='proven'" in str(error)
    with (
        tracker.reserve(10, grade="proven"),
        tracker.reserve(bound=Bound(prompt_tokens=10, max_tokens=20, grade="proven")),
    ):
        assert tracker.held == 40
    tracker.consume(5)


def test_how_many_calls_still_fit() -> None:
    """`fits` counts by the bound: the smallest count over all limits on the path, without the spent and held
    amounts (BUDGET-44).
    """
    adapter = MockLLMAdapter(price=Price(prompt=0, completion=1))
    tracker = BudgetTracker(1_000, total_calls=40)
    child = tracker.child("c", 500)
    config = RunConfig(max_tokens=45, budget_tracker=BudgetTracker(1))
    assert (tracker.fits(adapter, "hello", config), child.fits(adapter, "hello", config)) == (20, 10)
    with child.reserve(101):
        assert child.fits(adapter, "hello", config) == 7
    child.set_limits(total_usd="0.0001")
    assert child.fits(adapter, "hello", config) == 2
    tracker.set_limits(total_calls=1)
    assert child.fits(adapter, "hello", config) == 1
    assert adapter.calls == []


def test_over_a_limit_nothing_fits_that_costs_nothing() -> None:
    """While the spend exceeds a limit, even a free call is refused, and `fits` is 0 (BUDGET-44)."""
    tracker = BudgetTracker(total_usd="0.01")
    adapter, config = MockLLMAdapter(price=Price.free()), RunConfig(max_tokens=45, budget_tracker=tracker)
    tracker.record(usd="0.01")
    assert tracker.fits(adapter, "hello", config) is None
    tracker.record(usd="0.01")
    assert tracker.fits(adapter, "hello", config) == 0
    assert refused(lambda: adapter.execute_prompt("hello", config)).unit == "usd"


def test_fits_is_what_is_then_let_in() -> None:
    """Exactly as many holds of that size are granted."""
    adapter = MockLLMAdapter()
    tracker = BudgetTracker(107)
    config = RunConfig(max_tokens=10)
    holds = []
    for left in (7, 6, 5, 4, 3, 2, 1):
        assert tracker.fits(adapter, "hello", config) == left
        holds.append(tracker.reserve(15))
    assert tracker.fits(adapter, "hello", config) == 0
    assert refused(lambda: tracker.reserve(15)).requested == 15


def test_what_limits_nothing_fits_without_end() -> None:
    """`fits` is None if no limit applies to the call, and 0 if nothing is admitted at all."""
    adapter = MockLLMAdapter()
    assert BudgetTracker().fits(adapter, "hello") is None
    tracker = BudgetTracker(total_calls=5)
    assert tracker.fits(adapter, "hello") == 5
    tracker.record(calls=6)
    assert tracker.fits(adapter, "hello") == 0
    tracker.set_limits(total_calls=None)
    assert tracker.fits(adapter, "hello") is None
    tracker.close()
    assert tracker.fits(adapter, "hello") == 0


def test_fits_raises_what_the_call_would_raise() -> None:
    """A prompt that cannot be sent, an unknown price, and an unproven bound raise."""
    adapter = MockLLMAdapter()
    with pytest.raises(LLMConfigurationError, match="empty"):
        BudgetTracker(10).fits(adapter, " ")
    assert refused(lambda: BudgetTracker(total_usd=1).fits(adapter, "x")).reason == "unpriced"
    assert refused(lambda: BudgetTracker(10, strict=True).fits(adapter, "x")).reason == "unproven"


def test_a_refusal_says_what_the_call_is_likely_to_use() -> None:
    """The error has the bound in bytes, the likely tokens, and the option that tightens the bound."""
    adapter = MockLLMAdapter()
    tracker = BudgetTracker(120)
    error = refused(lambda: adapter.execute_prompt("x" * 400, RunConfig(budget_tracker=tracker, max_tokens=20)))
    assert (error.requested, error.likely) == (420, 120)
    assert "will probably use about 120 tokens: count_tokens= on the adapter" in str(error)
    assert refused(lambda: tracker.reserve(121)).likely is None

"""Reservations by users, which are priced and graded by the rules for calls of adapters."""

from __future__ import annotations

import subprocess
import sys
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import pytest

from llm_connect import Amount, Bound, LLMConfigurationError, Price, Usage
from llm_connect.budget.accounting.bounds import LearnedFactor
from llm_connect.budget.admission.holds import grow
from llm_connect.engine.price_lists import BudgetTracker, known_price
from tests.budget.budget_helpers import at_rest, learned, refused

PRICE = Price(prompt=1, completion=4, cached="0.5")
LONG = Price(prompt=1, completion=4, above={1_000: Price(prompt=3, completion=2)})


@pytest.mark.parametrize(
    ("tokens", "price", "held"),
    [(100, PRICE, "0.0004"), (2_000, LONG, "0.008"), (2_000, Price(prompt=1, completion=1, call="0.5"), "0.502")],
)
def test_tokens_are_held_at_the_dearest_rate_of_their_price(tokens: int, price: Price, held: str) -> None:
    """Tokens cost the highest rate, whether they are input or output, and at any length of the prompt. (BUDGET-60)"""
    tracker = BudgetTracker(total_usd=1)
    with tracker.reserve(tokens, price=price) as hold:
        assert (hold.bound.tokens, hold.bound.usd) == (tokens, Decimal(held))
        for prompt in (0, tokens // 2, tokens):
            usage = Usage(prompt_tokens=prompt, completion_tokens=tokens - prompt)
            assert price.of(usage) <= hold.bound.usd
    at_rest(tracker)


def test_a_price_comes_from_the_budget_where_none_is_given() -> None:
    """The budget's price of the model applies unless the reservation has its own price. (BUDGET-60)"""
    tracker = BudgetTracker(total_usd=1, prices={"m": PRICE}).child("c")
    with tracker.reserve(100, model="m") as hold:
        assert hold.bound.nano_usd == 400_000
    with tracker.reserve(100, model="m", price=Price.free()) as hold:
        assert hold.bound.nano_usd == 0
    with tracker.reserve(100, model="m", usd="0.1") as hold:
        assert hold.bound.usd == Decimal("0.1")


def test_a_model_alone_is_priced_by_the_list() -> None:
    """The list price is the highest of the providers that list the model, or that of the named adapter. (BUDGET-60)"""
    pytest.importorskip("genai_prices")
    tracker = BudgetTracker(total_usd="0.01")
    with tracker.reserve(1_000, model="gpt-4.1-mini") as hold:
        hold.dispatch()
        hold.settle(2_000)
    (entry,) = tracker.ledger
    assert (entry.bound.nano_usd, entry.amount.nano_usd) == (1_600_000, 3_200_000)
    assert entry.cost_source == "genai-prices:openai/gpt-4.1-mini"
    assert refused(partial(tracker.reserve, 10_000, model="gpt-4.1-mini")).unit == "usd"
    assert known_price("gemini", "gemini-2.5-flash") is not None
    assert known_price("my-client", "gpt-4.1-mini") is None
    assert refused(partial(tracker.reserve, 1, adapter="my-client", model="gpt-4.1-mini")).reason == "unpriced"


def test_a_budget_in_a_store_knows_the_list_as_well(tmp_path: Path) -> None:
    """List prices also apply in a program that imports only `open_budget`. (BUDGET-60)"""
    pytest.importorskip("genai_prices")
    program = "\n".join(
        [
            "from llm_connect import open_budget",
            f"budget = open_budget('sqlite:///{tmp_path}/budget.db', total_usd='0.01')",
            "with budget.reserve(1_000, model='gpt-4.1-mini') as hold:",
            "    print(hold.bound.nano_usd)",
        ]
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=200)
    assert (done.stdout, done.stderr) == ("1600000\n", "")


@pytest.mark.parametrize("asked", [{"tokens": 10}, {"tokens": 10, "model": "m"}, {"calls": 1}])
def test_what_has_no_price_is_refused_under_a_limit_in_usd(asked: dict[str, Any]) -> None:
    """Under a limit in USD, on the tracker or above it, the error shows how to declare a price; without one the
    call is admitted. (BUDGET-60)
    """
    child = BudgetTracker(total_usd=1).child("c", 100)
    error = refused(partial(child.reserve, **asked))
    assert (error.reason, error.unit, error.path) == ("unpriced", "usd", "budget")
    assert "price=Price(" in str(error)
    assert "usd=" in str(error)
    with BudgetTracker(100).reserve(**asked) as hold:
        assert hold.bound.nano_usd == 0


@pytest.mark.parametrize(
    ("settled", "cost"),
    [
        ({"tokens": 50}, 200_000),
        ({"usage": Usage(prompt_tokens=40, completion_tokens=10)}, 80_000),
        ({"usage": Usage(prompt_tokens=40, completion_tokens=10, cached_tokens=20)}, 70_000),
        ({"usage": Usage(prompt_tokens=40, completion_tokens=10, estimated=True)}, 200_000),
        ({"tokens": 50, "usd": "0.000001"}, 1_000),
        ({}, 400_000),
    ],
)
def test_what_was_used_costs_what_the_price_says(settled: dict[str, Any], cost: int) -> None:
    """The cost is computed part by part if the usage has parts, else at the highest rate; it is never 0. (BUDGET-60)"""
    tracker = BudgetTracker(total_usd=1)
    with tracker.reserve(100, price=PRICE) as hold:
        hold.dispatch()
        hold.settle(**settled)
    (entry,) = tracker.ledger
    assert (entry.amount.nano_usd, entry.grade) == (cost, "estimated")
    assert tracker.spent_usd == Decimal(cost) / 10**9
    at_rest(tracker)


def test_the_cap_in_usd_holds_for_tokens_of_a_known_price() -> None:
    """Nothing is admitted beyond the cap. (BUDGET-1, BUDGET-60)"""
    tracker = BudgetTracker(total_usd="0.001", prices={"m": PRICE})
    for _ in range(2):
        with tracker.reserve(100, model="m") as hold:
            hold.dispatch()
            hold.settle(100)
    error = refused(partial(tracker.reserve, 100, model="m"))
    assert (error.unit, error.missing, tracker.spent_usd) == ("usd", Decimal("0.0002"), Decimal("0.0008"))


def test_a_bound_is_held_by_its_parts_and_its_grade() -> None:
    """A bound is held like that of an adapter's call; its output limit shrinks only if that is allowed. (BUDGET-60)"""
    tracker = BudgetTracker(1_000, total_usd=1)
    bound = Bound(prompt_tokens=100, max_tokens=500, grade="proven")
    with tracker.reserve(bound=bound, price=PRICE) as hold:
        assert (hold.bound, hold.max_tokens) == (Amount(600, 1, 2_100_000), 500)
        assert refused(partial(tracker.reserve, bound=bound, price=PRICE)).requested == 600
        with tracker.reserve(bound=bound, price=PRICE, clamp_floor=50) as clamped:
            assert (clamped.max_tokens, clamped.bound.tokens) == (300, 400)
        assert refused(partial(tracker.reserve, bound=bound, price=PRICE, clamp_floor=400)).requested == 500
        hold.dispatch()
        hold.settle(usage=Usage(prompt_tokens=90, completion_tokens=10))
    entry = list(tracker.ledger)[-1]
    assert (entry.grade, entry.amount) == ("proven", Amount(100, 1, 130_000))


async def test_the_async_form_asks_the_same() -> None:
    """`areserve` prices, grades and refuses like `reserve`. (BUDGET-60)"""
    tracker = BudgetTracker(1_000, total_usd=1)
    with await tracker.areserve(100, price=PRICE) as hold:
        assert hold.bound == Amount(100, 1, 400_000)
    with await tracker.areserve(bound=Bound(prompt_tokens=1, max_tokens=2_000), price=PRICE, clamp_floor=10) as hold:
        assert hold.max_tokens == 999
    with pytest.raises(LLMConfigurationError, match="bound"):
        await tracker.areserve(5, bound=Bound(prompt_tokens=1, max_tokens=2))


def test_an_overrun_raises_the_next_reservation_of_its_name() -> None:
    """The factor of an adapter and model applies in tokens and in USD, and also to calls of adapters of that name.
    (BUDGET-41)
    """
    tracker = BudgetTracker(10_000, total_usd=1)
    with tracker.reserve(100, adapter="a", model="m", price=PRICE) as hold:
        hold.dispatch()
        hold.settle(200, usd="0.0016")
    assert set(learned(tracker)) == {("a", "m")}
    with tracker.reserve(100, adapter="a", model="m", price=PRICE) as hold:
        assert hold.bound == Amount(200, 1, 1_600_000)
    with tracker.reserve(bound=Bound(prompt_tokens=10, max_tokens=10), adapter="a", model="m", price=PRICE) as hold:
        assert hold.bound.tokens == 40
    for other in ({"adapter": "b", "model": "m"}, {"adapter": "a", "model": "n"}, {}):
        with tracker.reserve(100, price=PRICE, **other) as hold:
            assert hold.bound == Amount(100, 1, 400_000)


def test_usd_that_a_user_says_stay_as_they_are() -> None:
    """USD that a user gives are held as they are, and booked if no cost is known, whatever factor applies to
    tokens. (BUDGET-60)
    """
    tracker = BudgetTracker(10_000, total_usd=1)
    for _ in range(2):
        with tracker.reserve(100, usd="0.1", model="m") as hold:
            hold.dispatch()
            hold.settle(200)
    assert [entry.bound for entry in tracker.ledger] == [Amount(100, 1, 10**8), Amount(200, 1, 10**8)]
    assert tracker.spent_usd == Decimal("0.2")


@pytest.mark.parametrize(
    "asked",
    [
        {"tokens": 1, "bound": Bound(prompt_tokens=1, max_tokens=1)},
        {"usd": 1, "bound": Bound(prompt_tokens=1, max_tokens=1)},
        {"grade": "proven", "bound": Bound(prompt_tokens=1, max_tokens=1)},
        {"clamp_floor": 5},
        {"clamp_floor": 0, "bound": Bound(prompt_tokens=1, max_tokens=1)},
        {"bound": 100},
        {"price": 0.1},
        {"grade": "sure"},
        {"tokens": -1},
        {"tokens": True},
        {"calls": -1},
        {"usd": "x"},
        {"model": "\ud800"},
        {"labels": {"a": 1}},
    ],
)
def test_an_invalid_reservation_is_refused(asked: dict[str, Any]) -> None:
    """An invalid argument is refused before anything is held. (BUDGET-60)"""
    tracker = BudgetTracker(100, total_usd=1)
    with pytest.raises(LLMConfigurationError):
        tracker.reserve(**asked)
    at_rest(tracker)


@pytest.mark.parametrize("wrong", [{"tokens": -1}, {"calls": -1}, {"calls": True}])
def test_an_invalid_record_is_refused(wrong: dict[str, Any]) -> None:
    """Tokens and calls of a record are whole numbers. (BUDGET-60)"""
    tracker = BudgetTracker(100)
    with pytest.raises(LLMConfigurationError):
        tracker.record(**wrong)
    at_rest(tracker)


def test_tokens_without_a_name_learn_nothing() -> None:
    """A reservation without a name is never raised, whatever factors there are. (BUDGET-41)"""
    tracker = BudgetTracker(100)
    with tracker.reserve(10) as hold:
        assert grow(hold, LearnedFactor.__new__(LearnedFactor))
        assert hold.bound == Amount(10, 1)


def test_an_error_of_an_http_client_that_knows_no_request_proves_nothing() -> None:
    """The error may be about any request, so a dispatched hold is presumed. (BUDGET-60)"""
    tracker = BudgetTracker(100)
    hold = tracker.reserve(10)

    def fail() -> None:
        with hold:
            hold.dispatch()
            raise httpx2.ConnectError("no request")

    with pytest.raises(httpx2.ConnectError):
        fail()
    assert (hold.ended, tracker.spent) == (True, 10)

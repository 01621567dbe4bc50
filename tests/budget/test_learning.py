"""Calibration: after an overrun, the next bounds of that adapter and model cover it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_connect.budget.accounting.bounds import (
    CALM_CALLS,
    NOTHING_LEARNED,
    Bound,
    BoundDemand,
    CallFacts,
    LearnedFactor,
    Seen,
)
from llm_connect.budget.accounting.prices import Price
from llm_connect.budget.admission.holds import Hold
from llm_connect.budget.admission.wait_queue import Waiter
from llm_connect.budget.tracker import BudgetTracker
from llm_connect.interface.config import RunConfig
from llm_connect.testing.mock import MockLLMAdapter
from llm_connect.types.amounts import Amount
from llm_connect.types.response import LLMResponse
from llm_connect.types.usage import Usage
from tests.budget.budget_helpers import PATIENCE, admit, at_rest, in_thread, learned, refused, taken, waits

FACTS = CallFacts(adapter="a", model="m")
KEY = ("a", "m")
FREE = Price.free()


def used(prompt: int, completion: int) -> Usage:
    return Usage(prompt_tokens=prompt, completion_tokens=completion)


def demand(prompt: int = 10, limit: int = 20, price: Price | None = None) -> BoundDemand:
    return BoundDemand(Bound(prompt_tokens=prompt, max_tokens=limit), limit, price)


def take(tracker: BudgetTracker, asked: BoundDemand, facts: CallFacts = FACTS) -> Hold:
    return admit(tracker, asked, facts, deadline=0.0)


def call(tracker: BudgetTracker, usage: Usage, asked: BoundDemand | None = None, usd: Any = None) -> Hold:
    hold = take(tracker, asked or demand())
    hold.dispatch()
    hold.settle(usage=usage, usd=usd)
    return hold


def test_an_overrun_raises_the_next_bound() -> None:
    """After a call that used half as much again, the next hold covers that; the sent limit stays (BUDGET-41)."""
    tracker = BudgetTracker(1_000)
    assert call(tracker, used(10, 30)).bound == Amount(30, 1)
    hold = take(tracker, demand())
    assert (hold.bound, hold.max_tokens) == (Amount(40, 1), 20)
    assert learned(tracker) == {KEY: LearnedFactor(completion_permille=1_500)}
    hold.release()
    at_rest(tracker)


def test_a_second_overrun_adds_to_what_the_first_taught() -> None:
    """After an answer that was too long and a hidden prompt, the next hold covers both (BUDGET-41)."""
    tracker = BudgetTracker(1_000)
    call(tracker, used(10, 30))
    call(tracker, used(20, 1))
    assert learned(tracker) == {KEY: LearnedFactor(prompt_permille=2_000, completion_permille=1_500)}
    with take(tracker, demand()) as hold:
        assert hold.bound.tokens == 20 + 30


def test_what_is_learned_is_of_one_adapter_and_model() -> None:
    """The factor does not apply to another adapter, another model, an amount without a name, or another tree
    (BUDGET-41).
    """
    tracker = BudgetTracker(1_000)
    call(tracker, used(10, 30))
    for facts in (CallFacts(adapter="b", model="m"), CallFacts(adapter="a", model="n"), CallFacts()):
        with take(tracker, demand(), facts) as hold:
            assert hold.bound == Amount(30, 1)
    with tracker.reserve(30) as hold:
        hold.dispatch()
        assert hold.bound == Amount(30, 1)
        hold.settle(10)
    with take(BudgetTracker(1_000), demand()) as hold:
        assert hold.bound == Amount(30, 1)


def test_input_and_output_are_learned_apart() -> None:
    """A hidden prompt does not raise the bound of the output."""
    tracker = BudgetTracker(100_000)
    call(tracker, used(15, 1))
    with take(tracker, demand(prompt=100, limit=100)) as hold:
        assert hold.bound.tokens == 250


def test_a_prompt_that_was_too_long_counts_though_the_whole_fitted() -> None:
    """An overrun of the input is learned even if a short answer makes up for it, and open holds grow (BUDGET-41)."""
    tracker = BudgetTracker(1_000)
    early = take(tracker, demand())
    call(tracker, used(15, 1))
    assert early.try_dispatch()
    assert early.bound.tokens == 35
    early.release()


def test_a_large_hidden_prompt_is_added_rather_than_multiplied() -> None:
    """Above a factor of four the rest is added as a number of tokens; otherwise a long prompt would never fit
    (BUDGET-2).
    """
    tracker = BudgetTracker(100_000)
    call(tracker, used(700, 1))
    with take(tracker, demand(prompt=10)) as small, take(tracker, demand(prompt=1_000)) as large:
        assert small.bound.tokens == 700 + 20
        assert large.bound.tokens == 4_000 + 660 + 20


def test_too_low_a_price_is_learned() -> None:
    """If the provider reports a higher cost than the price gives, the next hold in USD is raised in proportion."""
    tracker = BudgetTracker(total_usd=1)
    price = Price(prompt=1, completion=1)
    assert call(tracker, used(10, 20), demand(price=price), usd="0.00006").bound.nano_usd == 30_000
    with take(tracker, demand(price=price)) as hold:
        assert (hold.bound.tokens, hold.bound.nano_usd) == (30, 60_000)
    call(tracker, used(10, 20), demand(price=FREE), usd="0.000001")
    with take(tracker, demand(price=FREE)) as hold:
        assert hold.bound.nano_usd == 1_000


def test_a_cost_without_a_price_teaches_nothing() -> None:
    """Without a price there is no bound in USD, so the provider's bill is not an overrun."""
    tracker = BudgetTracker(1_000)
    call(tracker, used(10, 20), usd="0.05")
    assert learned(tracker) == {}


def test_waiting_calls_ask_for_what_was_learned() -> None:
    """A waiter whose raised bound can no longer fit is refused at once (BUDGET-41)."""
    tracker = BudgetTracker(75)
    first = take(tracker, demand())
    second = take(tracker, demand())
    for hold in (first, second):
        hold.dispatch()
    waiter = Waiter(tracker, demand(), FACTS, arrival=tracker.gate.arrive(), deadline=1e18, own=())
    other = Waiter(tracker, demand(limit=5), CallFacts(), arrival=tracker.gate.arrive(), deadline=1e18, own=())
    tracker.gate.queue(waiter, may_wait=True)
    tracker.gate.queue(other, may_wait=True)
    first.settle(usage=used(10, 50))
    assert waiter.error is not None
    assert (waiter.error.reason, waiter.error.requested) == ("never_fits", 60)
    assert other.waiting
    second.settle(usage=used(1, 1))
    assert other.error is not None


def test_a_reserved_hold_grows_before_it_is_sent() -> None:
    """A hold from before the overrun is sent only if it covers the call by the raised bound (BUDGET-41)."""
    tracker = BudgetTracker(110)
    early, late = take(tracker, demand()), take(tracker, demand())
    call(tracker, used(10, 30))
    assert early.try_dispatch()
    assert (early.bound.tokens, tracker.held) == (40, 70)
    assert not late.try_dispatch()
    assert (late.state, tracker.held) == ("ended", 40)
    early.settle(usage=used(10, 30))
    at_rest(tracker)


def test_more_than_a_smaller_limit_is_an_overrun() -> None:
    """The usage of a clamped call is compared with the limit that was sent, not with the original one. (BUDGET-41)"""
    tracker = BudgetTracker(1_000)
    with tracker.reserve(900):
        hold = take(tracker, BoundDemand(Bound(prompt_tokens=10, max_tokens=200), 20, None))
        assert hold.max_tokens == 90
        hold.dispatch()
        hold.settle(usage=used(10, 135))
    assert learned(tracker) == {KEY: LearnedFactor(completion_permille=1_500)}


def test_a_hold_with_a_smaller_limit_grows_by_that_limit() -> None:
    """A clamped call is sent with its smaller limit, and grows only by the factor of that limit (BUDGET-41)."""
    tracker = BudgetTracker(1_000)
    with tracker.reserve(900):
        small = take(tracker, BoundDemand(Bound(prompt_tokens=10, max_tokens=200), 20, None))
        assert (small.max_tokens, small.bound.tokens) == (90, 100)
    call(tracker, used(10, 30))
    assert small.try_dispatch()
    assert (small.max_tokens, small.bound.tokens) == (90, 10 + 135)
    small.release()


def test_a_manual_hold_that_was_given_back_says_why() -> None:
    """While the spend exceeds a limit, an earlier hold is not sent, and its error has the figures."""
    tracker = BudgetTracker(100)
    hold = tracker.reserve(30)
    tracker.record(90)
    tracker.record(20)
    error = refused(hold.dispatch)
    assert (error.reason, error.spent, error.total) == ("never_fits", 110, 100)
    assert "raise it with set_limits" in str(error)
    assert hold.state == "ended"
    at_rest(tracker)


def test_calls_within_their_bounds_halve_what_was_learned() -> None:
    """A hundred calls in a row without an overrun halve the factor, and in the end it is gone (BUDGET-2)."""
    tracker = BudgetTracker()
    call(tracker, used(10, 30))
    for expected in (1_250, 1_125, 1_062):
        for _ in range(CALM_CALLS):
            call(tracker, used(10, 20))
        assert learned(tracker)[KEY].completion_permille == expected
    for _ in range(6 * CALM_CALLS):
        call(tracker, used(10, 20))
    assert learned(tracker) == {}


def test_the_hundredth_call_within_its_bound_halves_what_was_learned() -> None:
    """The ninety-ninth call does not, neither the first time nor the second (BUDGET-2)."""
    tracker = BudgetTracker()
    call(tracker, used(10, 30))
    for before, after in ((1_500, 1_250), (1_250, 1_125)):
        for _ in range(CALM_CALLS - 1):
            call(tracker, used(10, 20))
        assert learned(tracker)[KEY].completion_permille == before
        call(tracker, used(10, 20))
        assert learned(tracker)[KEY].completion_permille == after


def test_an_overrun_in_between_begins_the_hundred_anew() -> None:
    """The hundred calls must be consecutive."""
    tracker = BudgetTracker()
    call(tracker, used(10, 30))
    for _ in range(CALM_CALLS - 1):
        call(tracker, used(10, 20))
    call(tracker, used(10, 30))
    for _ in range(CALM_CALLS - 1):
        call(tracker, used(10, 20))
    assert learned(tracker)[KEY].completion_permille == 1_500


def test_a_waiting_call_gains_by_what_is_forgotten() -> None:
    """When the factor is halved, a waiting call is admitted as soon as its lower bound fits."""
    tracker = BudgetTracker(1_000)
    call(tracker, used(10, 30))
    for _ in range(CALM_CALLS - 1):
        call(tracker, used(1, 1))
    last = take(tracker, demand())
    last.dispatch()
    with tracker.reserve(tracker.remaining() - 27):  # type: ignore[operator]
        waiter = Waiter(tracker, demand(), FACTS, arrival=tracker.gate.arrive(), deadline=1e18, own=())
        tracker.gate.queue(waiter, may_wait=True)
        assert waiter.waiting
        last.settle(usage=used(10, 20))
    hold = taken(tracker, waiter)
    assert hold.bound.tokens == 10 + 25
    hold.release()
    at_rest(tracker)


def test_an_estimated_usage_teaches_nothing() -> None:
    """An estimated usage is not an overrun."""
    tracker = BudgetTracker(1_000)
    estimated = Usage(prompt_tokens=500, completion_tokens=500, estimated=True)
    call(tracker, estimated)
    assert learned(tracker) == {}


AMOUNT = st.integers(0, 2_048)


@given(AMOUNT, AMOUNT, AMOUNT, AMOUNT, AMOUNT, AMOUNT)
def test_a_factor_covers_the_call_that_taught_it(a: int, b: int, c: int, x: int, y: int, z: int) -> None:
    """The factor covers the same call again, for any usage, and half of a factor is never larger."""
    seen = Seen((a, b, c), (x, y, z))
    factor = NOTHING_LEARNED.after(seen)
    raised = (factor.prompt(a), factor.completion(b), factor.cost(c))
    assert all(bound >= actual for bound, actual in zip(raised, seen.actual, strict=True))
    assert seen.within == (factor == NOTHING_LEARNED)
    assert factor.after(seen) == factor
    half = factor.halved()
    assert all(less <= more for less, more in zip(half, factor, strict=True))


def test_figures_that_are_learned_are_whole_and_rounded_up() -> None:
    """4 tokens over a bound of 3 are a factor of 1.334, which raises 3 to 5: never below the usage."""
    factor = NOTHING_LEARNED.after(Seen((3, 0, 0), (4, 0, 0)))
    assert factor == LearnedFactor(prompt_permille=1_334)
    assert factor.prompt(3) == 5
    assert all(type(figure) is int for figure in (*factor, *factor.halved(), factor.prompt(3)))


def test_over_a_bound_of_nothing_only_tokens_are_added() -> None:
    """A bound of 0 has no factor: the usage is added to each later bound, and half of it after calm calls."""
    factor = NOTHING_LEARNED.after(Seen((0, 0, 0), (7, 0, 0)))
    assert factor == LearnedFactor(prompt_extra=7)
    assert [factor.prompt(1_000), factor.halved().prompt(1_000)] == [1_007, 1_003]


async def test_with_the_limit_ignored_spend_ends_at_the_excess_of_what_was_in_flight() -> None:
    """200 calls that each write half as much again: the spend is at most the cap plus the excess of the calls in flight
    (BUDGET-41).
    """
    adapter = MockLLMAdapter("x", prompt_tokens=5, completion_tokens=30, delay_seconds=0.001)
    tracker = BudgetTracker(500)
    config = RunConfig(budget_tracker=tracker, max_tokens=20, timeout_seconds=30)
    in_flight = tracker.fits(adapter, "12345", config)
    assert in_flight == 20
    calls = (adapter.async_execute_prompt("12345", config) for _ in range(200))
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert sum(isinstance(result, LLMResponse) for result in results) == len(adapter.calls)
    assert tracker.spent == 35 * len(adapter.calls) <= 500 + 10 * in_flight
    at_rest(tracker)


def test_a_sync_call_whose_hold_was_revoked_reserves_again() -> None:
    """Metered calls with a hold from before an overrun wait for their raised bound, and are sent then."""
    adapter = MockLLMAdapter("x", prompt_tokens=5, completion_tokens=30)
    tracker = BudgetTracker(200)
    config = RunConfig(budget_tracker=tracker, max_tokens=20, timeout_seconds=30)
    blocker = tracker.reserve(190)
    waiting = [in_thread(lambda: adapter.execute_prompt("12345", config)) for _ in range(3)]
    waits(tracker, 3)
    blocker.release()
    for future in waiting:
        future.result(PATIENCE)
    assert tracker.spent == 105
    at_rest(tracker)


def test_one_absurd_figure_does_not_keep_a_model_out() -> None:
    """One call raises the bounds only so far; the model still fits, and so does a call of a sibling. (BUDGET-41,
    BUDGET-2)
    """
    tracker = BudgetTracker()
    wrong, sibling = tracker.child("wrong", 50_000), tracker.child("sibling", 5_000)
    call(wrong, used(10**9, 10**9))
    assert learned(tracker) == {KEY: LearnedFactor(4_000, 2_048, 4_000, 2_048)}
    with take(sibling, demand()) as hold:
        assert hold.bound.tokens == 4 * 30 + 2 * 2_048
    assert refused(lambda: take(wrong, demand())).reason == "never_fits"
    wrong.set_limits(total=2 * 10**9 + 5_000)
    take(wrong, demand()).release()
    with take(sibling, demand(), CallFacts(adapter="a", model="n")) as hold:
        assert hold.bound.tokens == 30


def test_what_calls_confirm_is_believed_further() -> None:
    """After three calls the bound covers a hidden prompt of 30,000 tokens. (BUDGET-41)"""
    tracker = BudgetTracker()
    extras = []
    for _ in range(4):
        call(tracker, used(30_000, 1))
        extras.append(learned(tracker)[KEY].prompt_extra)
    assert extras == [2_048, 8_192, 29_960, 29_960]


def test_what_is_learned_has_an_end() -> None:
    """However often an absurd figure comes, it adds at most a million tokens and 10 USD to a bound. (BUDGET-41)"""
    tracker = BudgetTracker()
    for _ in range(12):
        call(tracker, used(10**9, 10**9), demand(price=Price(prompt=0, completion=0, call=1)), usd=90_000)
    assert learned(tracker) == {KEY: LearnedFactor(4_000, 2**20, 4_000, 2**20, 4_000, 10**10)}


def test_a_correction_teaches_what_a_call_really_came_to() -> None:
    """The lesson of a correction replaces that of the call, and waiting calls use it. (BUDGET-63)"""
    tracker = BudgetTracker(50_000)
    absurd = call(tracker, used(10**9, 1))
    tracker.correct(absurd.entry_id, 20)
    assert (learned(tracker), tracker.spent) == ({}, 20)
    low = call(tracker, used(5, 5))
    tracker.correct(low.entry_id, 60)
    assert set(learned(tracker)) == {KEY}
    with take(tracker, demand()) as hold:
        assert hold.bound.tokens >= 60
    within = call(tracker, used(5, 5))
    tracker.correct(within.entry_id, 11)
    assert set(learned(tracker)) == {KEY}


def test_a_presumption_that_is_corrected_above_its_bound_teaches() -> None:
    """It has the effect of an overrun of the call itself. (BUDGET-63)"""
    tracker = BudgetTracker(50_000)
    hold = take(tracker, demand())
    hold.presume()
    tracker.correct(hold.entry_id, 45)
    assert set(learned(tracker)) == {KEY}


def test_a_waiting_call_gains_by_a_correction() -> None:
    """Correcting a wrong figure lowers the bounds of waiting calls again. (BUDGET-63)"""
    tracker = BudgetTracker(1_200)
    wrong = call(tracker, used(1_000, 1))
    blocker = tracker.reserve(150)
    assert refused(lambda: take(tracker, demand())).reason == "never_fits"
    tracker.correct(wrong.entry_id, 20)
    take(tracker, demand()).release()
    blocker.release()
    at_rest(tracker)


@pytest.mark.parametrize(("reserved", "spent"), [(5, 900), (50, 150), (50, 300), (500, 2_400), (100, 100)])
def test_the_next_reservation_of_tokens_is_raised_by_the_excess_once(reserved: int, spent: int) -> None:
    """The next hold is as large as what the last one used, however far that was above its bound. (BUDGET-63)"""
    tracker = BudgetTracker(100_000)
    with tracker.reserve(reserved, adapter="a", model="m") as hold:
        hold.dispatch()
        hold.settle(spent)
    with tracker.reserve(reserved, adapter="a", model="m") as hold:
        assert hold.bound.tokens == spent

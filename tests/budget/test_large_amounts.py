"""Amounts that are too large for a store: they are refused where they are given, in memory and in stores alike."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from llm_connect.budget.accounting.bounds import Bound
from llm_connect.budget.accounting.prices import Price
from llm_connect.budget.tracker import BudgetTracker
from llm_connect.errors import LLMConfigurationError
from llm_connect.interface.config import RunConfig
from llm_connect.types.amounts import MOST, NANO, usd_of
from tests.budget.budget_helpers import at_rest

#: One nano-USD per token.
PRICE = Price(prompt=1_000, completion="0.001")
TOKEN = Price(prompt="0.001", completion="0.001")
EDGES = [most + step for most in (MOST, 2**53, 2**63) for step in (-1, 0, 1)]
HUGE = [10**19, 10**400, 10**5_000]
amounts = st.one_of(st.integers(1, 2 * MOST), st.integers(1, 2**64), st.sampled_from([*EDGES, *HUGE]))

Way = Callable[[BudgetTracker, int], Any]


def dollars(nano_usd: int) -> Decimal:
    """This many nano-USD in USD, exactly."""
    return usd_of(nano_usd) if nano_usd < 10**30 else Decimal(nano_usd)


def presumed(tracker: BudgetTracker) -> int:
    """The id of an entry that can be corrected."""
    with tracker.reserve(0, calls=0) as hold:
        hold.dispatch()
    assert hold.entry is not None
    return hold.entry.id


def held(hold: Any) -> int:
    """The one figure that a reservation holds."""
    (figure,) = {*hold.bound} - {0}
    hold.release()
    return int(figure)


#: Ways to pass an amount, and the figure that is held.
OF_CALLS: dict[str, Way] = {
    "reserve": lambda tracker, n: held(tracker.reserve(n, calls=0)),
    "areserve": lambda tracker, n: held(asyncio.run(tracker.areserve(n, calls=0))),
    "reserve of a model": lambda tracker, n: held(tracker.reserve(n, calls=0, model="m")),
    "reserve calls": lambda tracker, n: held(tracker.reserve(calls=n)),
    "reserve usd": lambda tracker, n: held(tracker.reserve(calls=0, usd=dollars(n))),
    "reserve a prompt": lambda tracker, n: held(tracker.reserve(bound=Bound(prompt_tokens=n, max_tokens=0, calls=0))),
    "reserve an output": lambda tracker, n: held(tracker.reserve(bound=Bound(prompt_tokens=0, max_tokens=n, calls=0))),
    "reserve outputs": lambda tracker, n: held(
        tracker.reserve(bound=Bound(prompt_tokens=0, max_tokens=1, outputs=n, calls=0))
    ),
    "reserve requests": lambda tracker, n: held(tracker.reserve(bound=Bound(prompt_tokens=0, max_tokens=0, calls=n))),
    "record": lambda tracker, n: tracker.record(n).amount.tokens,
    "record calls": lambda tracker, n: tracker.record(calls=n).amount.calls,
    "record usd": lambda tracker, n: tracker.record(usd=dollars(n)).amount.nano_usd,
    "consume": lambda tracker, n: (tracker.consume(n), tracker.snapshot().spent.tokens)[1],
    "correct": lambda tracker, n: tracker.correct(presumed(tracker), n).amount.tokens,
    "correct calls": lambda tracker, n: tracker.correct(presumed(tracker), calls=n).amount.calls,
    "correct usd": lambda tracker, n: tracker.correct(presumed(tracker), usd=dollars(n)).amount.nano_usd,
    "output limit of a call": lambda _, n: RunConfig(max_tokens=n).max_tokens,
    "price of a call": lambda _, n: Price(prompt=0, completion=0, call=dollars(n)).call,
    "price of tokens": lambda _, n: Price(prompt=dollars(n), completion=0).prompt // NANO,
}
LIMITS: dict[str, Way] = {
    "child": lambda tracker, n: tracker.child("c", n).snapshot().total,
    "child calls": lambda tracker, n: tracker.child("c", total_calls=n).snapshot().total_calls,
    "child usd": lambda tracker, n: nano(tracker.child("c", total_usd=dollars(n)).snapshot().total_usd),
    "limits": lambda tracker, n: (tracker.set_limits(total=n), tracker.snapshot().total)[1],
    "limits of calls": lambda tracker, n: (tracker.set_limits(total_calls=n), tracker.snapshot().total_calls)[1],
    "limits in usd": lambda tracker, n: (tracker.set_limits(total_usd=dollars(n)), nano(tracker.snapshot().total_usd))[
        1
    ],
    "budget": lambda _, n: BudgetTracker(n).snapshot().total,
    "budget of calls": lambda _, n: BudgetTracker(total_calls=n).snapshot().total_calls,
    "budget in usd": lambda _, n: nano(BudgetTracker(total_usd=dollars(n)).snapshot().total_usd),
}


def nano(usd: Decimal | None) -> int:
    assert usd is not None
    return int(usd * NANO)


@pytest.mark.parametrize("way", [*OF_CALLS, *LIMITS])
@example(MOST)
@example(MOST + 1)
@example(2**53 - 1)
@example(2**53)
@example(2**63 - 1)
@example(2**63)
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(amount=amounts)
def test_an_amount_counts_exactly_or_is_refused(store: str, way: str, amount: int) -> None:
    """Every store counts up to 10^15 for a call, and up to 2^63 - 1 or 2^53 - 1 for a limit; a larger amount changes
    nothing (BUDGET-72).
    """
    tracker = BudgetTracker()
    say, most = (
        (OF_CALLS[way], MOST) if way in OF_CALLS else (LIMITS[way], 2**53 - 1 if store == "redis" else 2**63 - 1)
    )
    if amount <= most:
        assert say(tracker, amount) == amount
    else:
        with pytest.raises(LLMConfigurationError, match="must be at most"):
            say(tracker, amount)
        assert tracker.snapshot().spent == tracker.snapshot().presumed == (0, 0, 0)
        assert (tracker.snapshot().total, tracker.snapshot().total_calls) == (None, None)
    at_rest(tracker)


@pytest.mark.parametrize("price", [PRICE, Price(prompt=0, completion=1_000_000)])
def test_a_bound_that_would_cost_too_much_is_refused(price: Price) -> None:
    """Tokens and price may each be small enough although their product is not (BUDGET-72)."""
    tracker = BudgetTracker()
    for ask in (
        lambda: tracker.reserve(MOST, price=price),
        lambda: tracker.reserve(bound=Bound(prompt_tokens=MOST // 2, max_tokens=MOST // 2), price=price),
    ):
        with pytest.raises(LLMConfigurationError, match="a budget counts at most 1000000 USD for one call"):
            ask()
    tracker.reserve(MOST, price=TOKEN).release()
    at_rest(tracker)


@pytest.mark.parametrize("figures", [{"tokens": 10**400}, {"tokens": MOST + 1}, {"usd": 1_000_001}, {"calls": 2**63}])
def test_what_a_call_is_said_to_have_used_costs_no_answer(figures: dict[str, int]) -> None:
    """`settle` gets figures from a reply: one that is too large for a store is presumed, without error (STORE-19)."""
    tracker = BudgetTracker()
    for price in (None, TOKEN):
        with tracker.reserve(10, price=price) as hold:
            hold.dispatch()
            hold.settle(**figures)
        assert hold.ending.outcome == "presumed"
    assert tracker.snapshot().spent.tokens == 20
    at_rest(tracker)


@pytest.mark.parametrize("value", [-(10**5_000), "x" * 5_000, [10**5_000]], ids=["number", "text", "list"])
def test_an_error_shows_little_of_an_invalid_value(value: Any) -> None:
    """The message is one line, however long the value is. (BUDGET-72)"""
    for say in (
        lambda: BudgetTracker(total=value),
        lambda: BudgetTracker(total_usd=value),
        lambda: BudgetTracker().reserve(1, max_wait_seconds=value),
    ):
        with pytest.raises(LLMConfigurationError) as caught:
            say()
        assert len(str(caught.value)) < 300

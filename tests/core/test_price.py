"""What calls cost, and a cap in USD."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_connect.core.budget import BudgetTracker
from llm_connect.core.exceptions import LLMBudgetExceededError, LLMConfigurationError
from llm_connect.core.mock import MockLLMAdapter
from llm_connect.core.models import LLMResponse, RunConfig
from llm_connect.core.price import Price
from llm_connect.core.usage import Usage

#: 10 USD for a million prompt tokens, 30 for completion tokens: 10 and 10 tokens cost 0.0004 USD.
DEAR = Price(prompt=10, completion=30)
COST = Decimal("0.0004")

counts = st.integers(0, 10**6)
rates = st.decimals(0, 1000, places=6)


def usage(prompt: int, completion: int, **parts: int) -> Usage:
    return Usage(prompt_tokens=prompt, completion_tokens=completion, **parts)


def test_each_part_costs_its_own_rate_once() -> None:
    """Cached and cache-write tokens are parts of the prompt, and cost their own rate instead of the prompt's."""
    price = Price(prompt="2", completion="8", cached="0.5", cache_write="2.5", call="0.001")
    used = usage(1_000, 100, cached_tokens=600, cache_write_tokens=100, reasoning_tokens=50)
    assert price.of(used) == Decimal("0.001") + (300 * 2 + 600 * Decimal("0.5") + 100 * Decimal("2.5") + 800) / 10**6


@given(prompt=counts, completion=counts, rates=st.tuples(rates, rates, rates, rates), data=st.data())
def test_the_bound_is_never_below_the_cost(
    prompt: int, completion: int, rates: tuple[Decimal, ...], data: st.DataObject
) -> None:
    """Whatever part of the prompt is cached or written to a cache, a call costs at most what is held."""
    price = Price(prompt=rates[0], completion=rates[1], cached=rates[2], cache_write=rates[3])
    cached = data.draw(st.integers(0, prompt))
    written = data.draw(st.integers(0, prompt - cached))
    cost = price.of(usage(prompt, completion, cached_tokens=cached, cache_write_tokens=written))
    assert cost <= Decimal(price.at_most(prompt, completion, 1)) / 10**9


def test_costs_are_rounded_up_to_a_nano_dollar() -> None:
    """A fraction of a nano-dollar counts as one, so that many small calls never cost less than they do."""
    assert Price(prompt="0.0000001", completion=0).of(usage(1, 0)) == Decimal("0.000000001")
    assert Price(prompt="0.000001", completion=0).of(usage(1_000_000, 0)) == Decimal("0.000001")


@pytest.mark.parametrize("rate", [-1, "a", True, float("nan"), float("inf"), None])
def test_a_rate_that_is_none_is_refused(rate: Any) -> None:
    """A price is a finite amount of USD of at least 0."""
    with pytest.raises(LLMConfigurationError, match="completion"):
        Price(prompt=1, completion=rate)


def test_a_price_shows_its_rates_in_usd() -> None:
    """The repr is in the units of the arguments."""
    assert repr(Price(prompt="0.40", completion=2)).startswith("Price(cache_write=0.4, cached=0.4, call=0, comp")


async def test_a_cap_in_usd_holds_in_a_gather() -> None:
    """200 calls under a cap that has room for 20: what is spent never passes it (BUDGET-1, BUDGET-12)."""
    tracker = BudgetTracker(total_usd=20 * COST)
    adapter = MockLLMAdapter(price=DEAR, delay_seconds=0.001)
    config = RunConfig(budget_tracker=tracker, max_tokens=10)
    calls = (adapter.async_execute_prompt("0123456789", config) for _ in range(200))
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert sum(isinstance(answer, LLMResponse) for answer in answers) == len(adapter.prompts) == 20
    assert tracker.spent_usd == 20 * COST == tracker.total_usd
    assert tracker.held_usd == 0
    assert {error.unit for error in answers if isinstance(error, LLMBudgetExceededError)} == {"usd"}


def test_an_entry_says_what_a_call_cost_and_who_says_so() -> None:
    """With a declared price the ledger has the cost, to the nano-dollar (BUDGET-12)."""
    tracker = BudgetTracker()
    MockLLMAdapter(price=DEAR).execute_prompt("hi", RunConfig(budget_tracker=tracker))
    (entry,) = tracker.ledger
    assert (entry.cost, entry.cost_source, entry.amount.usd) == (COST, "declared", COST)


def test_without_a_price_the_cost_is_not_known() -> None:
    """Unknown is None in the ledger, never 0 (BUDGET-12)."""
    tracker = BudgetTracker()
    MockLLMAdapter().execute_prompt("hi", RunConfig(budget_tracker=tracker))
    (entry,) = tracker.ledger
    assert (entry.cost, entry.cost_source) == (None, None)


def test_what_is_free_fits_any_cap_in_usd() -> None:
    """A local model is declared free, and is then no unpriced call."""
    tracker = BudgetTracker(total_usd="0.01")
    MockLLMAdapter(price=Price.free()).execute_prompt("hi", RunConfig(budget_tracker=tracker))
    assert tracker.spent_usd == 0
    assert tracker.spent == 20

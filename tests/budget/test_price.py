"""Costs of calls, and a cap in USD."""

from __future__ import annotations

import asyncio
from decimal import Decimal, localcontext
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_connect.budget.accounting.prices import Price, cost_of
from llm_connect.budget.tracker import BudgetTracker
from llm_connect.errors import LLMBudgetExceededError, LLMConfigurationError
from llm_connect.interface.adapter import LLMAdapter
from llm_connect.interface.attempt import declared_price
from llm_connect.interface.config import RunConfig
from llm_connect.testing.mock import MockLLMAdapter
from llm_connect.types.response import LLMResponse
from llm_connect.types.usage import Usage

#: 10 USD per million prompt tokens, 30 per million completion tokens: 10 and 10 tokens cost 0.0004 USD.
DEAR = Price(prompt=10, completion=30)
COST = Decimal("0.0004")

counts = st.integers(0, 10**6)
rates = st.decimals(0, 1000, places=6)


def usage(prompt: int, completion: int, **parts: int) -> Usage:
    return Usage(prompt_tokens=prompt, completion_tokens=completion, **parts)


@pytest.mark.parametrize(("tokens", "cost"), [(1_000, 2_000_000), (1_001, 9_009_000)])
def test_tokens_of_no_kind_cost_the_dearest_rate_of_their_level(tokens: int, cost: int) -> None:
    """Tokens that are neither input nor output cost the highest rate; the price of long prompts counts from its
    threshold. (BUDGET-60)
    """
    price = Price(prompt=1, completion=2, above={1_000: Price(prompt=3, completion=9)})
    assert price.dearest(tokens, 1) == cost


def test_each_part_costs_its_own_rate_once() -> None:
    """Cached and cache-write tokens are parts of the prompt, and cost their own rate in place of the prompt rate."""
    price = Price(prompt="2", completion="8", cached="0.5", cache_write="2.5", call="0.001")
    used = usage(1_000, 100, cached_tokens=600, cache_write_tokens=100, reasoning_tokens=50)
    assert price.of(used) == Decimal("0.001") + (300 * 2 + 600 * Decimal("0.5") + 100 * Decimal("2.5") + 800) / 10**6


@given(prompt=counts, completion=counts, rates=st.tuples(rates, rates, rates, rates), data=st.data())
def test_the_bound_is_never_below_the_cost(
    prompt: int, completion: int, rates: tuple[Decimal, ...], data: st.DataObject
) -> None:
    """For any part of the prompt that is cached or written to a cache, a call costs at most the held amount."""
    price = Price(prompt=rates[0], completion=rates[1], cached=rates[2], cache_write=rates[3])
    cached = data.draw(st.integers(0, prompt))
    written = data.draw(st.integers(0, prompt - cached))
    cost = price.of(usage(prompt, completion, cached_tokens=cached, cache_write_tokens=written))
    assert cost <= Decimal(price.at_most(prompt, completion, 1)) / 10**9


def test_costs_are_rounded_up_to_a_nano_dollar() -> None:
    """A fraction of a nano-USD counts as a whole one, so that many small calls never cost less than they should."""
    assert Price(prompt="0.0000001", completion=0).of(usage(1, 0)) == Decimal("0.000000001")
    assert Price(prompt="0.000001", completion=0).of(usage(1_000_000, 0)) == Decimal("0.000001")


@pytest.mark.parametrize("rate", [-1, "a", True, float("nan"), float("inf"), None])
def test_an_invalid_rate_is_refused(rate: Any) -> None:
    """A rate is a finite amount of USD of at least 0."""
    with pytest.raises(LLMConfigurationError, match="completion"):
        Price(prompt=1, completion=rate)


@pytest.mark.parametrize("name", ["prompt", "completion", "cached", "cache_write", "call"])
def test_a_refused_rate_is_named(name: str) -> None:
    """The error names the invalid rate."""
    rates: dict[str, Any] = {"prompt": 1, "completion": 1, name: "cheap"}
    with pytest.raises(LLMConfigurationError, match=f"^{name} must be an amount of USD of at least 0, not 'cheap'"):
        Price(**rates)


def test_a_price_shows_its_rates_in_usd() -> None:
    """The repr is the price as it was declared, in any decimal context of the thread."""
    above = {300: Price(prompt=20, completion=30), 200: Price(prompt="0.0833333333333", completion=3)}
    price = Price(prompt="0.40", completion=20, call="0.0001", above=above)
    with localcontext(prec=2):
        assert eval(repr(price)).in_usd() == price.in_usd()
        assert repr(price) == (
            "Price(prompt=0.4, completion=20, cached=0.4, cache_write=0.4, call=0.0001, above={"
            "200: Price(prompt=0.0833333333333, completion=3, cached=0.0833333333333, cache_write=0.0833333333333, "
            "call=0), 300: Price(prompt=20, completion=30, cached=20, cache_write=20, call=0)})"
        )
    assert repr(Price(prompt="0.40", completion=20)) == (
        "Price(prompt=0.4, completion=20, cached=0.4, cache_write=0.4, call=0)"
    )


def test_a_long_prompt_makes_the_whole_request_dearer() -> None:
    """Above a number of prompt tokens every token costs the rates of that level, output and cached tokens included."""
    price = Price(
        prompt=1,
        completion=2,
        call="0.5",
        above={
            300: Price(prompt=30, completion=60, cached=3),
            200: Price(prompt=10, completion=20, call="0.25"),
        },
    )
    assert price.of(usage(200, 100)) == Decimal("0.5") + Decimal(400) / 10**6
    assert price.of(usage(201, 100)) == Decimal("0.25") + Decimal(4_010) / 10**6
    assert price.of(usage(301, 100, cached_tokens=300)) == Decimal(30 + 900 + 6_000) / 10**6
    assert price.at_most(200, 100, 1) == 500_400_000
    assert price.at_most(201, 100, 1) == max(500_401_000, 254_010_000)
    assert price.at_most(301, 100, 1) == max(500_501_000, 255_010_000, 15_030_000)


def test_a_prompt_of_exactly_so_many_tokens_is_below_the_level() -> None:
    """A prompt of exactly the threshold is held and billed at the lower price."""
    price = Price(prompt=1, completion=1, above={200: Price(prompt=10, completion=10)})
    assert price.at_most(200, 100, 1) == price.of(usage(200, 100)) * 10**9 == 300_000
    assert price.at_most(201, 100, 1) == price.of(usage(201, 100)) * 10**9 == 3_010_000


def test_each_request_of_a_long_prompt_has_its_price() -> None:
    """Three requests that are settled together cost three times the price per request, at the level of the prompt."""
    price = Price(prompt=1, completion=1, call=1, above={200: Price(prompt=1, completion=1, call=2)})
    assert price.of(usage(200, 0), calls=3) == Decimal("3.0002")
    assert price.of(usage(201, 0), calls=3) == Decimal("6.000201")


@pytest.mark.parametrize(
    ("above", "message"),
    [
        ({-1: Price.free()}, "^above must be an? .*, not -1"),
        ({"200": Price.free()}, "^above must be an? .*, not '200'"),
        ({200: 1}, "^above must map numbers of tokens to Prices that have no `above`"),
        ([200], "^above must be a mapping from tokens to Price, not list"),
        (
            {1: Price(prompt=1, completion=1, above={2: Price.free()})},
            "^above must map .* to Prices that have no `above`",
        ),
    ],
)
def test_invalid_levels_are_refused(above: Any, message: str) -> None:
    """`above` has a Price for each number of tokens, without further levels; the error shows the value that it got."""
    with pytest.raises(LLMConfigurationError, match=message):
        Price(prompt=1, completion=1, above=above)


@given(levels=st.dictionaries(counts, st.tuples(rates, rates, rates), max_size=3), prompt=counts, data=st.data())
def test_the_bound_covers_every_level_below_it(
    levels: dict[int, tuple[Decimal, Decimal, Decimal]], prompt: int, data: st.DataObject
) -> None:
    """A call that uses less than its hold may be on another level, and never costs more than the held amount."""
    above = {start: Price(prompt=p, completion=c, cached=d) for start, (p, c, d) in levels.items()}
    price = Price(prompt=3, completion=7, cached=9, above=above)
    used, completion = data.draw(st.integers(0, prompt)), data.draw(counts)
    cost = price.of(usage(used, completion, cached_tokens=data.draw(st.integers(0, used))))
    assert cost <= Decimal(price.at_most(prompt, completion, 1)) / 10**9


def test_rates_are_exact() -> None:
    """A rate with many digits is not rounded before the multiplication, so a billion tokens cost the exact sum."""
    price = Price(prompt="0.08333333333333334", completion=0)
    assert price.of(usage(10**9, 0)) == Decimal("83.333333334")
    assert price.in_usd()["prompt"] == Decimal("0.08333333333333334")


async def test_a_cap_in_usd_holds_in_a_gather() -> None:
    """200 calls under a cap with room for 20: the spend never exceeds it (BUDGET-1, BUDGET-12)."""
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
    """With a declared price the ledger has the cost, exact to the nano-USD, and its source (BUDGET-12)."""
    tracker = BudgetTracker()
    MockLLMAdapter(price=DEAR).execute_prompt("hi", RunConfig(budget_tracker=tracker))
    (entry,) = tracker.ledger
    assert (entry.cost, entry.cost_source, entry.amount.usd) == (COST, "declared", COST)


def test_without_a_price_the_cost_is_not_known() -> None:
    """An unknown cost is None in the ledger, never 0 (BUDGET-12)."""
    tracker = BudgetTracker()
    MockLLMAdapter().execute_prompt("hi", RunConfig(budget_tracker=tracker))
    (entry,) = tracker.ledger
    assert (entry.cost, entry.cost_source) == (None, None)


def test_what_is_free_fits_any_cap_in_usd() -> None:
    """A local model that is declared free is not unpriced."""
    tracker = BudgetTracker(total_usd="0.01")
    MockLLMAdapter(price=Price.free()).execute_prompt("hi", RunConfig(budget_tracker=tracker))
    assert tracker.spent_usd == 0
    assert tracker.spent == 20


def test_prices_by_model_are_those_of_the_whole_tree() -> None:
    """A budget's prices apply to every adapter and every child; the adapter's own price takes precedence
    (BUDGET-12).
    """
    tracker = BudgetTracker(total_usd=1, prices={"mock": DEAR, "other": Price.free()})
    config = RunConfig(budget_tracker=tracker.child("below", total_usd="0.5").child("deep"))
    MockLLMAdapter().execute_prompt("hi", config)
    assert tracker.spent_usd == COST
    MockLLMAdapter(price=Price(prompt=0, completion=1)).execute_prompt("hi", config)
    assert tracker.spent_usd == COST + Decimal("0.00001")
    MockLLMAdapter(model="other").execute_prompt("hi", config)
    assert [entry.cost for entry in tracker.ledger] == [COST, Decimal("0.00001"), 0]
    assert {entry.cost_source for entry in tracker.ledger} == {"declared"}


def test_an_adapters_price_is_not_that_of_another_model() -> None:
    """A call of a more expensive model is not held at the price of the adapter's own model (BUDGET-12)."""
    adapter = MockLLMAdapter(price=Price.free())
    config = RunConfig(budget_tracker=BudgetTracker(total_usd=1), model_name="dear")
    with pytest.raises(LLMBudgetExceededError, match="no price of 'dear'"):
        adapter.execute_prompt("hi", config)
    assert adapter.prompts == []
    tracker = BudgetTracker(total_usd=1, prices={"dear": DEAR})
    adapter.execute_prompt("hi", RunConfig(budget_tracker=tracker, model_name="dear"))
    adapter.execute_prompt("hi", RunConfig(budget_tracker=tracker, model_name="mock"))
    assert tracker.spent_usd == COST


class Nameless(LLMAdapter):
    """An adapter without a model name, as users write it."""

    def execute_prompt(self, prompt: Any, config: RunConfig | None = None) -> LLMResponse:
        return LLMResponse(content="", model="some", usage=usage(10, 10))


def test_an_adapter_without_a_model_has_one_price() -> None:
    """The price of such an adapter applies to every model; without a price the refusal names no model."""
    tracker = BudgetTracker(total_usd=1, prices={"some": DEAR})
    with pytest.raises(LLMBudgetExceededError) as caught:
        Nameless().execute_prompt("hi", RunConfig(budget_tracker=tracker))
    assert "knows no price of its model." in str(caught.value)
    assert "completion=...) on the adapter. If the model costs nothing" in str(caught.value)
    adapter = Nameless()
    adapter.price = DEAR
    adapter.execute_prompt("hi", RunConfig(budget_tracker=tracker, model_name="x"))
    assert tracker.spent_usd == COST


def test_without_a_budget_only_the_adapters_price_counts() -> None:
    """Without a tracker the adapter's price applies to its own model; any other cost is unknown."""
    adapter = MockLLMAdapter(price=DEAR)
    assert declared_price(adapter, None, RunConfig()) is DEAR
    assert declared_price(adapter, None, RunConfig(model_name="other")) is None
    assert declared_price(MockLLMAdapter(), None, RunConfig()) is None


def test_an_adapter_may_know_its_prices() -> None:
    """`price_for` is called under a limit in USD if no price was declared, and in no other case (BUDGET-12)."""
    asked: list[tuple[str | None, RunConfig]] = []

    class Knowing(MockLLMAdapter):
        def price_for(self, model: str | None, config: RunConfig) -> Price | None:
            asked.append((model, config))
            return DEAR

    Knowing().execute_prompt("hi", RunConfig(budget_tracker=BudgetTracker(1_000, total_calls=2)))
    Knowing(price=DEAR).execute_prompt("hi", RunConfig(budget_tracker=BudgetTracker(total_usd=1)))
    assert asked == []
    tracker = BudgetTracker(total_usd=1)
    below = tracker.child("below")
    configs = [RunConfig(budget_tracker=below, model_name="m"), RunConfig(budget_tracker=below, max_tokens=30)]
    for config in configs:
        Knowing(model="its own").execute_prompt("hi", config)
    assert asked == [("m", configs[0]), ("its own", configs[1])]
    assert tracker.spent_usd == 2 * COST


@pytest.mark.parametrize(
    ("prices", "shown"), [([DEAR], "list"), ({"m": 1}, "'m' to 1"), ({1: DEAR}, r"1 to Price\(.*\)"), (DEAR, "Price")]
)
def test_invalid_prices_are_refused(prices: Any, shown: str) -> None:
    """`prices` is a mapping from models to prices; the error shows the value that it got."""
    with pytest.raises(LLMConfigurationError, match=rf"^prices must .*, not .*{shown}\.$"):
        BudgetTracker(prices=prices)


def test_later_changes_of_a_mapping_do_not_count() -> None:
    """The budget copies its prices: a change under an open hold must not change the settlement."""
    prices = {"mock": DEAR}
    tracker = BudgetTracker(total_usd=1, prices=prices)
    prices.clear()
    MockLLMAdapter().execute_prompt("hi", RunConfig(budget_tracker=tracker))
    assert tracker.spent_usd == COST


@pytest.mark.parametrize(
    ("reported", "source", "cost", "said_by"),
    [
        (Decimal("0.0001"), "provider", Decimal("0.0001"), "provider"),
        (Decimal("0.0001"), "claude-cli", COST, "declared"),
        (Decimal("0.0009"), "claude-cli", Decimal("0.0009"), "claude-cli"),
        (COST, "claude-cli", COST, "claude-cli"),
        (None, None, COST, "declared"),
    ],
)
def test_what_a_reply_says_goes_first(reported: Any, source: Any, cost: Decimal, said_by: str) -> None:
    """A cost that the provider bills takes precedence; one that a command computes counts only if it is higher
    (BUDGET-12).
    """
    assert cost_of(reported, source, usage(10, 10), DEAR) == (cost, said_by)
    assert cost_of(reported, source, None, DEAR) == (reported, source)
    assert cost_of(reported, source, usage(10, 10), None) == (reported, source)


class _ByTier(Price):
    """A price that knows the tiers `fast` and `slow`."""

    def billed_as(self, service_tier: str | None) -> Price | None:
        return {None: self, "fast": DEAR, "slow": Price.free()}.get(service_tier)


@pytest.mark.parametrize(("tier", "cost"), [(None, Decimal("0.00002")), ("fast", COST), ("slow", 0)])
def test_a_call_costs_what_its_tier_costs(tier: str | None, cost: Decimal) -> None:
    """The service tier that the reply names determines the rates (BUDGET-12)."""
    price = _ByTier(prompt=1, completion=1)
    assert cost_of(None, None, usage(10, 10), price, tier) == (cost, "declared")


def test_of_a_tier_without_a_price_only_the_reply_is_believed() -> None:
    """If the price does not know the tier, the cost is the one in the reply, or unknown."""
    price = _ByTier(prompt=1, completion=1)
    assert cost_of(None, None, usage(10, 10), price, "odd") == (None, None)
    assert cost_of(COST, "claude-cli", usage(10, 10), price, "odd") == (COST, "claude-cli")


def test_a_guessed_usage_has_no_cost() -> None:
    """An estimated usage is not multiplied by a price: the cost is unknown, and never looks exact."""
    assert cost_of(None, None, usage(10, 10, estimated=True), DEAR) == (None, None)
    assert cost_of(Decimal("0.0001"), "claude-cli", usage(10, 10, estimated=True), DEAR)[0] == Decimal("0.0001")

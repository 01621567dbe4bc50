"""What each adapter does for a limit in USD: which price counts, and what is sent so that it does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import openai
import pytest

from llm_connect import (
    BudgetTracker,
    ClaudeCodeAdapter,
    GeminiAdapter,
    LLMBudgetExceededError,
    LLMConfigurationError,
    OpenAIAdapter,
    OpenRouterAdapter,
    Price,
    RunConfig,
)
from llm_connect.providers import openrouter
from llm_connect.testing import Behaviour, EmbeddedProvider
from tests.providers.claude_binary import find_claude, needs_claude
from tests.providers.conftest import WIRINGS, Make, Wiring
from tests.providers.messages_server import MessagesServer

PRICE = Price(prompt="1.25", completion=10)
#: A model of each adapter that costs in the snapshot what the provider on loopback takes, and the source of its cost.
KNOWN = {
    "openai": ("gpt-5", "genai-prices:openai/gpt-5"),
    "gemini": ("gemini-2.5-pro", "genai-prices:google/gemini-2.5-pro"),
    "openrouter": ("openai/gpt-5", "provider"),
}


@pytest.fixture
def at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """The provider on loopback counts as the adapters' own."""
    monkeypatch.setattr(OpenAIAdapter, "_own_endpoint", True)
    monkeypatch.setattr(GeminiAdapter, "price_list", "google")
    monkeypatch.setattr(OpenRouterAdapter, "price_list", "openrouter")
    monkeypatch.setattr(ClaudeCodeAdapter, "price_list", "anthropic")


def capped(**fields: Any) -> RunConfig:
    return RunConfig(budget_tracker=BudgetTracker(total_usd=1), max_tokens=20, **fields)


def entry_of(config: RunConfig) -> Any:
    assert config.budget_tracker is not None
    assert config.budget_tracker.held_usd == 0
    (entry,) = config.budget_tracker.ledger
    return entry


# --- where the list prices apply ---


@pytest.mark.usefixtures("at_home")
def test_list_prices_count_at_the_provider(wiring: Wiring, make: Make, provider: EmbeddedProvider) -> None:
    """Without a declared price a call is held and settled by the snapshot, which the ledger names (BUDGET-12)."""
    model, source = KNOWN[wiring.name]
    config = capped()
    response = make(model=model).execute_prompt("hello", config)
    entry = entry_of(config)
    assert (entry.cost, entry.cost_source) == (response.cost, response.cost_source)
    assert response.cost_source == source
    assert entry.bound.usd >= entry.amount.usd == response.cost == provider.meter.cost > 0


def test_list_prices_do_not_count_elsewhere(wiring: Wiring, make: Make, provider: EmbeddedProvider) -> None:
    """At another endpoint the call is refused unsent, with the lines that declare a price (BUDGET-12)."""
    model, _ = KNOWN[wiring.name]
    with pytest.raises(LLMBudgetExceededError) as caught:
        make(model=model).execute_prompt("hello", capped())
    assert (caught.value.reason, caught.value.model) == ("unpriced", model)
    assert "price=Price(prompt=..., completion=...) on the adapter" in str(caught.value)
    assert f"BudgetTracker(prices={{{model!r}: Price(" in str(caught.value)
    assert provider.requests == []


@pytest.mark.parametrize("name", ["openai", "gemini", "claude"])
def test_an_address_in_the_environment_is_another_endpoint(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variables that redirect an SDK or the command take its list prices away (BUDGET-12)."""
    make, variable = {
        "openai": (lambda: OpenAIAdapter(api_key="key-1"), "OPENAI_BASE_URL"),
        "gemini": (lambda: GeminiAdapter(api_key="key-1"), "GOOGLE_GEMINI_BASE_URL"),
        "claude": (lambda: ClaudeCodeAdapter(api_key="key-1", cli_path="/bin/true"), "ANTHROPIC_BASE_URL"),
    }[name]
    monkeypatch.delenv(variable, raising=False)
    adapter = make()
    assert adapter.price_for(None, RunConfig()) is not None
    monkeypatch.setenv(variable, "http://127.0.0.1:9")
    assert make().price_for(None, RunConfig()) is None


def test_an_own_client_is_another_endpoint() -> None:
    """Nobody knows where a client of the user's own sends (BUDGET-12)."""
    with openai.OpenAI(api_key="key-1", base_url="http://127.0.0.1:9") as client:
        assert OpenAIAdapter(client=client).price_for("gpt-4.1-mini", RunConfig()) is None


def test_openrouter_has_an_endpoint_of_its_own() -> None:
    """Without `base_url`, or with OpenRouter's, its list prices count."""
    assert OpenRouterAdapter(api_key="key-1").price_for(None, RunConfig()) is not None
    assert OpenRouterAdapter(api_key="key-1", base_url=openrouter.BASE_URL).price_for(None, RunConfig()) is not None
    assert OpenRouterAdapter(api_key="key-1", base_url="http://127.0.0.1:9").price_for(None, RunConfig()) is None


def test_every_default_model_has_a_price() -> None:
    """A cap in USD works with an adapter as it comes."""
    adapters = (
        OpenAIAdapter(api_key="key-1"),
        GeminiAdapter(api_key="key-1"),
        OpenRouterAdapter(api_key="key-1"),
        ClaudeCodeAdapter(api_key="key-1", cli_path="/bin/true"),
    )
    for adapter in adapters:
        assert adapter.price_for(None, RunConfig()) is not None, adapter


@pytest.mark.usefixtures("at_home")
def test_a_declared_price_goes_before_the_list(make: Make, wiring: Wiring) -> None:
    """Who says what a model costs knows it, from a contract for example, and the list does not (BUDGET-12)."""
    model, _ = KNOWN[wiring.name]
    dear = Price(prompt=1_000, completion=1_000)
    for adapter, tracker in (
        (make(model=model, price=dear), BudgetTracker(total_usd="0.01")),
        (make(model=model), BudgetTracker(total_usd="0.01", prices={model: dear})),
    ):
        with pytest.raises(LLMBudgetExceededError) as caught:
            adapter.execute_prompt("hello", RunConfig(budget_tracker=tracker, max_tokens=20))
        assert caught.value.reason == "never_fits"


def test_without_a_limit_in_usd_the_cost_is_not_looked_up(make: Make, wiring: Wiring) -> None:
    """The reply's cost is kept, a declared price is applied, and else the cost is None (BUDGET-22)."""
    config = RunConfig(budget_tracker=BudgetTracker(10_000), max_tokens=20)
    for given in (None, config):
        response = make().execute_prompt("hello", given)
        assert (response.cost is None) == (wiring.name != "openrouter")
        assert (make(price=PRICE).execute_prompt("hello", given).cost or 0) > 0
    assert make(price=PRICE).execute_prompt("hello", RunConfig(model_name="other")).cost_source != "declared"


# --- OpenAI's service tier ---


@pytest.fixture(params=["openai", "openai-responses"])
def adapter(request: pytest.FixtureRequest, provider: EmbeddedProvider) -> Iterator[OpenAIAdapter]:
    wired = WIRINGS[request.param]
    options = {"api_key": "key-1", "base_url": wired.url(provider), "model": "gpt-5.5", **wired.options}
    with OpenAIAdapter(**options) as made:
        yield made


@pytest.mark.usefixtures("at_home")
def test_the_tier_that_is_priced_is_sent(adapter: OpenAIAdapter, provider: EmbeddedProvider) -> None:
    """Under a limit in USD "default" is sent, because else the settings of a project decide (BUDGET-21)."""
    adapter.execute_prompt("hello", capped())
    adapter.execute_prompt("hello", capped(model_params={"service_tier": None}))
    adapter.price = PRICE
    adapter.execute_prompt("hello", capped())
    assert [request.body["service_tier"] for request in provider.requests] == ["default"] * 3


@pytest.mark.usefixtures("at_home")
def test_no_tier_is_sent_without_a_limit_in_usd(adapter: OpenAIAdapter, provider: EmbeddedProvider) -> None:
    """Without one the user's settings stand, also with a declared price (BUDGET-21)."""
    adapter.price = PRICE
    for config in (None, RunConfig(budget_tracker=BudgetTracker(10_000), max_tokens=20)):
        adapter.execute_prompt("hello", config)
    assert all("service_tier" not in request.body for request in provider.requests)


def test_no_tier_is_sent_elsewhere(adapter: OpenAIAdapter, provider: EmbeddedProvider) -> None:
    """A compatible server may not know the parameter (BUDGET-21)."""
    adapter.price = PRICE
    adapter.execute_prompt("hello", capped())
    assert "service_tier" not in provider.requests[0].body


@pytest.mark.usefixtures("at_home")
def test_a_tier_of_the_callers_is_sent_and_priced(adapter: OpenAIAdapter, provider: EmbeddedProvider) -> None:
    """`priority` is held and settled at its own price (BUDGET-21)."""
    costs = []
    for params in ({}, {"service_tier": "priority"}):
        config = capped(model_params=params)
        costs.append(adapter.execute_prompt("hello", config).cost)
        assert entry_of(config).cost == costs[-1]
    assert costs[1] == Decimal("2.5") * costs[0]
    assert provider.requests[1].body["service_tier"] == "priority"


@pytest.mark.usefixtures("at_home")
def test_the_tier_that_served_is_what_is_paid(adapter: OpenAIAdapter) -> None:
    """`auto` is held at the dearest tier and settled by the one that the reply names (BUDGET-21)."""
    default, auto = capped(), capped(model_params={"service_tier": "auto"})
    for config in (default, auto):
        adapter.execute_prompt("hello", config)
    assert entry_of(auto).bound.nano_usd == pytest.approx(2.5 * entry_of(default).bound.nano_usd, abs=2)
    assert entry_of(auto).cost == entry_of(default).cost


@pytest.mark.usefixtures("at_home")
def test_a_tier_without_a_price_is_refused(adapter: OpenAIAdapter, provider: EmbeddedProvider) -> None:
    """What a tier costs has to be known before anything is sent (BUDGET-21)."""
    for tier in ("scale", 7, ["flex"]):
        with pytest.raises(LLMBudgetExceededError) as caught:
            adapter.execute_prompt("hello", capped(model_params={"service_tier": tier}))
        assert caught.value.reason == "unpriced"
    assert provider.requests == []


@pytest.mark.usefixtures("at_home")
def test_a_served_tier_without_a_price_is_booked_as_held(provider: EmbeddedProvider) -> None:
    """What such a call cost is not known: None in the response, and the USD that were held in the books (BUDGET-21)."""
    reply = {
        "model": "gpt-5.5",
        "choices": [{"message": {"role": "assistant", "content": "Hi."}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
        "service_tier": "scale",
    }
    provider.script(Behaviour(body=json.dumps(reply).encode()))
    config = capped()
    with OpenAIAdapter(api_key="key-1", base_url=provider.openai_url, model="gpt-5.5") as adapter:
        assert adapter.execute_prompt("hello", config).cost is None
    entry = entry_of(config)
    assert (entry.cost, entry.cost_source, entry.amount.tokens) == (None, None, 5)
    assert entry.amount.usd == entry.bound.usd > 0


# --- OpenRouter's max_price ---


@pytest.fixture
def router(provider: EmbeddedProvider) -> Iterator[OpenRouterAdapter]:
    with OpenRouterAdapter(api_key="key-1", base_url=provider.openrouter_url, model="openai/gpt-4.1-mini") as made:
        yield made


@pytest.mark.usefixtures("at_home")
def test_the_price_that_is_held_is_sent(router: OpenRouterAdapter, provider: EmbeddedProvider) -> None:
    """`max_price` keeps OpenRouter from a provider that is dearer than the hold assumes (BUDGET-23)."""
    router.execute_prompt("hello", capped())
    router.price = Price(prompt="0.123456789", completion="2.50", cache_write=9, call="0.001", above={9: PRICE})
    router.execute_prompt("hello", capped(model_params={"provider": {"sort": "price"}}))
    assert [request.body["provider"] for request in provider.requests] == [
        {"max_price": {"prompt": 0.4, "completion": 1.6, "request": 0.0}, "require_parameters": True},
        {
            "max_price": {"prompt": 0.123456789, "completion": 2.5, "request": 0.001},
            "require_parameters": True,
            "sort": "price",
        },
    ]


def test_a_lower_price_of_the_callers_is_kept(router: OpenRouterAdapter, provider: EmbeddedProvider) -> None:
    """What the caller wishes is sent as it is, where it is not more than what is held (BUDGET-23)."""
    router.price = Price(prompt=1, completion=2)
    wished = {"prompt": "0.5", "completion": 3, "image": 1, "request": 0}
    router.execute_prompt("hello", capped(model_params={"provider": {"max_price": wished}}))
    assert provider.requests[0].body["provider"]["max_price"] == {**wished, "completion": 2.0}


def test_no_price_is_sent_without_a_limit_in_usd(router: OpenRouterAdapter, provider: EmbeddedProvider) -> None:
    """Without one every provider of the model will do, and the caller's wish stands as it is (BUDGET-23)."""
    router.price = PRICE
    router.execute_prompt("hello", RunConfig(budget_tracker=BudgetTracker(10_000), max_tokens=20))
    router.execute_prompt("hello", RunConfig(model_params={"provider": {"max_price": "x"}}))
    assert [request.body["provider"].get("max_price") for request in provider.requests] == [None, "x"]


@pytest.mark.parametrize("wished", ["x", {"prompt": "x"}, {"completion": -1}, {"request": []}])
def test_a_wish_that_is_no_price_is_refused(router: OpenRouterAdapter, provider: EmbeddedProvider, wished: Any) -> None:
    """It cannot be compared with what is held; nothing is sent, and nothing stays held."""
    router.price = PRICE
    config = capped(model_params={"provider": {"max_price": wished}})
    with pytest.raises(LLMConfigurationError, match="max_price"):
        router.execute_prompt("hello", config)
    assert entry_of(config).outcome == "released"
    assert provider.requests == []


# --- the claude command ---


@needs_claude
@pytest.mark.usefixtures("at_home")
def test_the_command_is_held_by_the_list_and_settled_by_the_dearer(server: MessagesServer) -> None:
    """The command's own figure counts unless ours is more, and ours where it only guesses (BUDGET-12)."""
    options = {"api_key": "key-1", "cli_path": find_claude(), "base_url": server.url}
    known = ClaudeCodeAdapter(model="claude-haiku-4-5-20251001", **options)
    config = capped()
    response = known.execute_prompt("hello", config)
    assert (response.cost, response.cost_source) == (Decimal("0.0002"), "claude-cli")
    assert entry_of(config).bound.usd > Decimal("0.0002")
    known.price = Price(prompt=1, completion=6)
    dearer = known.execute_prompt("hello", capped())
    assert (dearer.cost, dearer.cost_source) == (Decimal("0.00022"), "declared")
    known.price = Price.free()
    assert known.execute_prompt("hello", capped()).cost == Decimal("0.0002")
    guessed = ClaudeCodeAdapter(model="my-model", price=Price(prompt=2, completion=5), **options)
    assert guessed.execute_prompt("hello", capped()).cost == Decimal("0.0003")

"""List prices out of genai-prices' snapshot."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal, localcontext
from typing import Any

import genai_prices
import pytest
from genai_prices.data import providers
from genai_prices.types import (
    ClauseEquals,
    ConditionalPrice,
    ModelInfo,
    ModelPrice,
    PriceVariant,
    Provider,
    StartDateConstraint,
    Tier,
    TieredPrices,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llm_connect.engine import price_lists
from llm_connect.engine.price_lists import ListPrice, list_price
from llm_connect.types.usage import Usage
from tests.leftovers import nothing_left

#: The providers of the adapters, by their ids in the snapshot.
OURS = ("anthropic", "google", "openai", "openrouter")
LISTED = [(provider.id, model.id) for provider in providers if provider.id in OURS for model in provider.models]
#: Prompt lengths at which prices change, and around them.
EDGES = [edge + step for edge in (0, 32_000, 100_000, 128_000, 200_000, 256_000, 272_000) for step in (0, 1)]
NANO = Decimal("1e-9")
#: When a made-up snapshot is looked at.
NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
TODAY = NOON.date()


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """Nothing is remembered of another test's snapshot."""
    price_lists._list_price.cache_clear()
    yield
    price_lists._list_price.cache_clear()


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Puts one model into a snapshot that has nothing else, at a fixed time."""
    monkeypatch.setattr("time.time", NOON.timestamp)

    def put(name: str = "m", **fields: Any) -> None:
        model = ModelInfo(id=name, match=ClauseEquals(name), **fields)
        provider = Provider(id="openai", name="made up", api_pattern="", models=[model])
        monkeypatch.setattr("genai_prices.data.providers", [provider])

    return put


def priced(provider: str, model: str, tier: str = "default") -> ListPrice:
    price = list_price(provider, model, tier)
    assert price is not None
    return price


def flat(prompt: int, completion: int, **more: Any) -> ModelPrice:
    return ModelPrice(input_mtok=Decimal(prompt), output_mtok=Decimal(completion), **more)


@pytest.mark.slow
@settings(max_examples=1_000, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    model=st.sampled_from(LISTED),
    prompt=st.one_of(st.sampled_from(EDGES), st.integers(0, 2_000_000)),
    completion=st.integers(0, 200_000),
    data=st.data(),
)
def test_the_snapshot_costs_what_genai_prices_says(
    model: tuple[str, str], prompt: int, completion: int, data: st.DataObject
) -> None:
    """Any usage of any model costs what genai-prices says, rounded up to a nano-dollar, and is held (BUDGET-20)."""
    price = list_price(*model)
    if price is None:
        return
    cached = data.draw(st.integers(0, prompt))
    written = data.draw(st.integers(0, prompt - cached))
    theirs = genai_prices.calc_price(
        genai_prices.Usage(
            input_tokens=prompt, output_tokens=completion, cache_read_tokens=cached, cache_write_tokens=written
        ),
        model[1],
        provider_id=model[0],
    )
    used = Usage(prompt_tokens=prompt, completion_tokens=completion, cached_tokens=cached, cache_write_tokens=written)
    ours = price.of(used)
    assert 0 <= ours - theirs.total_price < NANO
    assert price.source == f"genai-prices:{model[0]}/{theirs.model.id}"
    assert ours <= price.at_most(prompt, completion, 1) * NANO
    assert ours <= price.at_most(prompt + 1_000_000, completion, 1) * NANO


def test_nearly_all_models_for_text_have_a_price() -> None:
    """What has none makes something else than text, searches, or is not priced by tokens."""
    unpriced = [model for provider, model in LISTED if list_price(provider, model) is None]
    assert len(unpriced) < len(LISTED) / 10
    other = "image|audio|realtime|live|transcribe|whisper|tts|embedding|moderation|search|research|omni|banana"
    openai_and_google = [model for provider, model in LISTED if provider != "openrouter" and model in unpriced]
    rest = [model for model in openai_and_google if re.search(other, model) is None]
    assert all(model.startswith(("gemma", "ft:")) for model in rest)


@pytest.mark.parametrize(
    ("provider", "model", "start", "below", "above"),
    [
        ("google", "gemini-2.5-pro", 200_000, ("1.25", "10"), ("2.5", "15")),
        ("anthropic", "claude-haiku-5-5", 100_000, ("0.1", "0.5"), ("0.5", "2.5")),
        ("openai", "gpt-5.5", 272_000, ("5", "30"), ("10", "45")),
    ],
)
def test_long_prompts_cost_more(
    provider: str, model: str, start: int, below: tuple[str, str], above: tuple[str, str]
) -> None:
    """The whole request is settled, and held, by the level that its prompt reaches (BUDGET-20)."""
    price = priced(provider, model)
    for prompt, (input_rate, output_rate) in ((start, below), (start + 1, above)):
        usd = (prompt * Decimal(input_rate) + 10 * Decimal(output_rate)) / 10**6
        assert price.of(Usage(prompt_tokens=prompt, completion_tokens=10)) == usd
    assert price.at_most(start + 1, 10, 1) > 1.4 * price.at_most(start, 10, 1)


def test_writing_to_a_cache_is_held() -> None:
    """The bound assumes that all input is written to a cache, where that is dearer (BUDGET-20)."""
    price = priced("anthropic", "claude-opus-5-5")
    assert price.at_most(1_000, 0, 1) * NANO == price.of(
        Usage(prompt_tokens=1_000, completion_tokens=0, cache_write_tokens=1_000)
    )
    assert price.of(Usage(prompt_tokens=1_000, completion_tokens=0)) == Decimal("0.004")


@pytest.mark.parametrize(
    ("provider", "model", "matched"),
    [
        ("openai", "GPT-4.1-mini", "gpt-4.1-mini"),
        ("openai", "gpt-4.1-mini-2025-04-14", "gpt-4.1-mini"),
        ("openai", "gpt-5.6", "gpt-5.6-sol"),
        ("google", "gemini-2.5-pro-preview-05-06", "gemini-2.5-pro"),
        ("google", "gemini-flash-latest", "gemini-3.8-flash"),
        ("google", "gemini-3.8-flash-001", "gemini-3.8-flash"),
        ("anthropic", "claude-haiku-4-5-20251001", "claude-haiku-4-5"),
        ("anthropic", "claude-opus-5.5", "claude-opus-5-5"),
        ("openrouter", "anthropic/claude-sonnet-5.5", "anthropic/claude-sonnet-5.5"),
    ],
)
def test_a_version_of_a_model_has_its_price(provider: str, model: str, matched: str) -> None:
    """Dates, versions and listed aliases are found, and the source names what was matched (BUDGET-20)."""
    assert priced(provider, model).source == f"genai-prices:{provider}/{matched}"


@pytest.mark.parametrize(
    ("provider", "model"),
    [
        ("openai", "gpt-4.1-mini-ultra"),
        ("openai", "gpt-99"),
        ("openai", ""),
        ("google", "gemini-3.8-flash-ultra"),
        ("google", "gemini-2.5-pro-max"),
        ("anthropic", "claude-haiku-4-5-9"),
        ("anthropic", "claude-opus-5-5[1m]"),
        ("anthropic", "opus"),
        ("openrouter", "openai/gpt-4.1-mini:online"),
        ("openrouter", "openrouter/auto"),
    ],
)
def test_a_model_that_only_looks_alike_has_no_price(provider: str, model: str) -> None:
    """A new model must not inherit the price of an old one because its name begins so (BUDGET-20)."""
    assert list_price(provider, model) is None


@pytest.mark.parametrize(
    ("provider", "model"),
    [
        ("openai", "gpt-4o-search-preview"),
        ("openai", "o3-deep-research"),
        ("openai", "gpt-image-1.5"),
        ("openai", "text-embedding-3-small"),
        ("google", "gemini-2.5-flash-image"),
        ("google", "gemma-3"),
        ("openrouter", "perplexity/sonar"),
    ],
)
def test_a_price_that_tokens_do_not_tell_is_none(provider: str, model: str) -> None:
    """Searches, made images and missing rates are not bounded by a limit on tokens (BUDGET-20)."""
    assert list_price(provider, model) is None


def test_a_free_model_is_free() -> None:
    """OpenRouter's free models have an empty price, which stands for 0 there and for nothing else."""
    price = priced("openrouter", "openai/gpt-oss-20b:free")
    assert price.at_most(10**6, 10**6, 1) == 0
    assert list_price("openrouter", "gemini-2.5-pro-exp-03-25") is None


def test_openrouter_may_take_its_fee_on_top() -> None:
    """With a key of the user's own the bill is 5 % higher: that is held, and not what is settled or sent."""
    price = priced("openrouter", "openai/gpt-4.1-mini")
    used = Usage(prompt_tokens=1_000, completion_tokens=1_000)
    assert price.at_most(1_000, 1_000, 1) * NANO == price.of(used) * Decimal("1.05")


# --- service tiers ---


@pytest.mark.parametrize("tier", ["default", "flex", "priority", "fast"])
def test_each_tier_has_its_price(tier: str) -> None:
    """A tier costs what genai-prices says of it, by the tier that the reply names (BUDGET-21)."""
    used = Usage(prompt_tokens=1_000, completion_tokens=500)
    theirs = genai_prices.calc_price(
        genai_prices.Usage(input_tokens=1_000, output_tokens=500),
        "gpt-5.5",
        provider_id="openai",
        price_context={"service_tier": tier},
    ).total_price
    assert priced("openai", "gpt-5.5", tier).of(used) == theirs
    served = priced("openai", "gpt-5.5", "auto").billed_as(tier)
    assert served is not None
    assert served.of(used) == theirs


def test_a_request_is_held_at_every_tier_that_may_serve_it() -> None:
    """`auto` may be any tier, and a named one may be served by the default tier (BUDGET-21)."""
    held = {
        tier: priced("openai", "gpt-5.5", tier).at_most(1_000, 1_000, 1) for tier in ("default", "flex", "priority")
    }
    assert held["flex"] == held["default"] < held["priority"]
    auto = priced("openai", "gpt-5.5", "auto")
    assert auto.at_most(1_000, 1_000, 1) == held["priority"]
    assert auto.of(Usage(prompt_tokens=1_000, completion_tokens=1_000)) == held["priority"] * NANO


@pytest.mark.parametrize("tier", ["scale", "Priority", "x"])
def test_a_tier_that_is_not_listed_has_no_price(tier: str) -> None:
    """What is not known is refused, not taken for the default (BUDGET-21)."""
    assert list_price("openai", "gpt-5.5", tier) is None
    assert priced("openai", "gpt-5.5").billed_as(tier) is None


def test_without_tiers_the_reply_is_not_asked_for_one() -> None:
    """A model that has one price costs it whatever the reply calls its tier."""
    price = priced("openrouter", "openai/gpt-4.1-mini")
    assert price.billed_as("provisioned") is price
    assert price.billed_as(None) is price


# --- time ---


def test_a_price_that_is_about_to_rise_is_held(listed: Any) -> None:
    """The dearer of what holds now and within two days is held, and what holds now is settled (BUDGET-20)."""
    tomorrow, later = (StartDateConstraint(TODAY + timedelta(days=days)) for days in (1, 9))
    listed(
        prices=[
            ConditionalPrice(prices=flat(100, 100), constraint=StartDateConstraint(date(2020, 1, 1))),
            ConditionalPrice(prices=flat(2, 2), constraint=StartDateConstraint(date(2024, 1, 1))),
            ConditionalPrice(prices=flat(3, 3), constraint=tomorrow),
            ConditionalPrice(prices=flat(500, 500), constraint=later),
        ]
    )
    price = priced("openai", "m")
    assert price.at_most(1_000, 0, 1) == 3_000_000
    assert price.of(Usage(prompt_tokens=1_000, completion_tokens=0)) == Decimal("0.002")


def test_fast_may_be_served_as_priority(listed: Any) -> None:
    """OpenAI shows "priority" for a request of the tier "fast", so it is held at both (BUDGET-21)."""
    variants = [
        PriceVariant(when={"service_tier": tier}, prices=flat(n, n)) for tier, n in (("fast", 3), ("priority", 5))
    ]
    listed(prices=flat(2, 2), price_variants=variants)
    assert priced("openai", "m", "fast").at_most(1_000, 0, 1) == 5_000_000
    assert priced("openai", "m", "priority").at_most(1_000, 0, 1) == 5_000_000
    assert priced("openai", "m", "default").at_most(1_000, 0, 1) == 2_000_000


def test_a_tier_that_begins_later_is_not_known_yet(listed: Any) -> None:
    """Until then its price is not."""
    later = StartDateConstraint(TODAY + timedelta(days=9))
    variants = [
        PriceVariant(when={"service_tier": "flex"}, prices=flat(1, 1), constraint=later),
        PriceVariant(when={"service_tier": "priority"}, prices=flat(4, 4)),
        PriceVariant(when={"service_tier": "fast", "speed": "x"}, prices=flat(9, 9)),
    ]
    listed(prices=flat(2, 2), price_variants=variants)
    assert [tier for tier in ("flex", "priority", "fast") if list_price("openai", "m", tier)] == ["priority"]


def test_the_hour_is_looked_at_anew(monkeypatch: pytest.MonkeyPatch, listed: Any) -> None:
    """A program that runs for months learns of a price that has changed meanwhile (BUDGET-20)."""
    tomorrow = StartDateConstraint(TODAY + timedelta(days=1))
    listed(prices=[ConditionalPrice(prices=flat(1, 1)), ConditionalPrice(prices=flat(2, 2), constraint=tomorrow)])
    used = Usage(prompt_tokens=1_000_000, completion_tokens=0)
    assert priced("openai", "m").of(used) == 1
    assert priced("openai", "m") is priced("openai", "m")
    monkeypatch.setattr("time.time", (NOON + timedelta(hours=12)).timestamp)
    assert priced("openai", "m").of(used) == 2


# --- forms of a price ---


def test_levels_of_different_rates_are_kept_apart(listed: Any) -> None:
    """Each rate has its own levels; each is what it is at a prompt's length (BUDGET-20)."""

    def tiered(base: int, *tiers: tuple[int, int]) -> TieredPrices:
        return TieredPrices(base=Decimal(base), tiers=[Tier(start, Decimal(rate)) for start, rate in tiers])

    prices = ModelPrice(
        input_mtok=tiered(1, (100, 2), (300, 3)), output_mtok=tiered(10, (200, 20)), cache_read_mtok=Decimal("0.5")
    )
    listed(prices=prices)
    for prompt in (100, 101, 200, 201, 300, 301):
        theirs = prices.calc_price(genai_prices.Usage(input_tokens=prompt, output_tokens=50, cache_read_tokens=10))
        used = Usage(prompt_tokens=prompt, completion_tokens=50, cached_tokens=10)
        assert priced("openai", "m").of(used) == theirs["total_price"]


def test_a_price_for_each_request_counts(listed: Any) -> None:
    """USD for a thousand requests are a part of the price."""
    listed(prices=flat(1, 1, requests_kcount=Decimal(5)))
    assert priced("openai", "m").of(Usage(prompt_tokens=0, completion_tokens=0)) == Decimal("0.005")
    assert priced("openai", "m").at_most(0, 0, 2) == 10_000_000


@pytest.mark.parametrize(
    "price",
    [
        ModelPrice(input_mtok=Decimal(1)),
        ModelPrice(output_mtok=Decimal(1)),
        ModelPrice(),
        flat(1, 1, output_reasoning_mtok=Decimal(2)),
        flat(1, 1, output_image_mtok=Decimal(2)),
        flat(1, 1, input_text_mtok=Decimal(2)),
        flat(1, 1, something_new=Decimal(2)),
    ],
)
def test_a_part_that_is_not_understood_leaves_no_price(listed: Any, price: ModelPrice) -> None:
    """Better no price than one that leaves something out (BUDGET-20)."""
    listed(prices=price)
    assert list_price("openai", "m") is None


def test_a_later_price_that_is_not_understood_leaves_none(listed: Any) -> None:
    """What the request may come to tomorrow has to be known today."""
    tomorrow = StartDateConstraint(TODAY + timedelta(days=1))
    listed(prices=[ConditionalPrice(prices=flat(1, 1)), ConditionalPrice(prices=ModelPrice(), constraint=tomorrow)])
    assert list_price("openai", "m") is None


def test_the_decimal_context_of_the_thread_does_not_matter() -> None:
    """A program may set a low precision for its own sums."""
    with localcontext(prec=2):
        rough = priced("openrouter", "~google/gemini-flash-latest").in_usd()
    price_lists._list_price.cache_clear()
    assert priced("openrouter", "~google/gemini-flash-latest").in_usd() == rough


# --- the package ---


def test_without_the_package_there_is_no_price(monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing extra is no error: prices can be declared."""
    monkeypatch.setattr(price_lists, "find_spec", lambda name: None)
    assert list_price("openai", "gpt-4.1-mini") is None


@pytest.mark.parametrize("snapshot", [[], [object()], None])
def test_a_snapshot_of_another_form_has_no_prices(monkeypatch: pytest.MonkeyPatch, snapshot: Any) -> None:
    """A later genai-prices may be built otherwise; then calls are refused, and no foreign error is raised."""
    monkeypatch.setattr("genai_prices.data.providers", snapshot)
    assert list_price("openai", "gpt-4.1-mini") is None


def test_nothing_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    """A look-up starts no thread and opens no connection (BUDGET-22)."""

    def refuse(*_: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr("socket.socket.connect", refuse)
    with nothing_left():
        assert list_price("openai", "gpt-4.1-mini") is not None


PROGRAM = """
import sys
from llm_connect import BudgetTracker, LLMBudgetExceededError, LLMError, OpenAIAdapter, Price, RunConfig

def imported_by(tracker, **options):
    adapter = OpenAIAdapter(model="gpt-4.1-mini", api_key="sk-no-key", **options)
    # Every call ends before it is sent: under a limit in USD by its refusal, else by its deadline.
    seconds = 0.000001 if tracker is None or tracker.remaining_usd() is None else 60
    try:
        adapter.execute_prompt("x" * 40, RunConfig(budget_tracker=tracker, max_tokens=1_000, timeout_seconds=seconds))
    except LLMError as error:
        return type(error).__name__, "genai_prices" in sys.modules

print(imported_by(None))
print(imported_by(BudgetTracker(1_000_000)))
print(imported_by(BudgetTracker(total_usd="0.0001"), price=Price(prompt=1, completion=1)))
print(imported_by(BudgetTracker(total_usd="0.0001", prices={"gpt-4.1-mini": Price(prompt=1, completion=1)})))
print(imported_by(BudgetTracker(total_usd="0.0001"), base_url="http://127.0.0.1:9"))
print(imported_by(BudgetTracker(total_usd="0.0001")))
"""


def test_the_package_is_imported_when_a_limit_in_usd_needs_it() -> None:
    """Its half second is not paid without such a limit, with a declared price, or at another endpoint (BUDGET-22)."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, timeout=200)
    lines = done.stdout.splitlines()
    assert [line.endswith("True)") for line in lines] == [False, False, False, False, False, True]
    assert lines[2] == lines[3] == "('LLMBudgetNeverFitsError', False)"

"""The terms on which a call reserves: waiting, clamping, and metadata."""

from __future__ import annotations

import contextvars
import time
from typing import Any

import pytest

from llm_connect.budget.tracker import BudgetTracker
from llm_connect.errors import LLMBudgetExceededError, LLMConfigurationError
from llm_connect.interface.attempt import Terms
from llm_connect.interface.config import RunConfig
from llm_connect.testing.mock import MockLLMAdapter
from tests.budget.budget_helpers import PATIENCE, at_rest, in_thread, refused, waits

PROMPT = "1234567890"


def config_of(tracker: BudgetTracker, **fields: Any) -> RunConfig:
    return RunConfig(**{"budget_tracker": tracker, "timeout_seconds": 2 * PATIENCE, **fields})


def limits_sent(adapter: MockLLMAdapter) -> list[int | None]:
    return [config.max_tokens for _, config in adapter.calls]


def test_wait_is_the_default() -> None:
    """A call that does not fit at present waits until it does, with the output limit of its config (BUDGET-8)."""
    tracker, adapter = BudgetTracker(1_000), MockLLMAdapter()
    hold = tracker.reserve(500)
    call = in_thread(lambda: adapter.execute_prompt(PROMPT, config_of(tracker, max_tokens=900)))
    waits(tracker, 1)
    hold.release()
    call.result(PATIENCE)
    assert limits_sent(adapter) == [900]
    at_rest(tracker)


def test_refuse_does_not_wait() -> None:
    """With `when_short="refuse"` a call that does not fit at present is refused at once."""
    tracker = BudgetTracker(1_000)
    hold = contextvars.Context().run(tracker.reserve, 500)
    config = config_of(tracker, max_tokens=900, when_short="refuse")
    error = refused(lambda: MockLLMAdapter().execute_prompt(PROMPT, config))
    assert (error.reason, error.provider, error.model) == ("refused", "MockLLMAdapter", "mock")
    hold.release()
    at_rest(tracker)


def test_clamp_takes_what_is_free() -> None:
    """With `when_short="clamp"` the free budget becomes the output limit, which is sent (BUDGET-8)."""
    tracker, adapter = BudgetTracker(1_000), MockLLMAdapter()
    with tracker.reserve(500):
        adapter.execute_prompt(PROMPT, config_of(tracker, max_tokens=900, when_short="clamp"))
    assert limits_sent(adapter) == [490]


def test_clamp_is_within_every_ceiling() -> None:
    """The free budget is the smallest remainder on the whole path (BUDGET-8)."""
    tracker, adapter = BudgetTracker(1_000), MockLLMAdapter()
    adapter.execute_prompt(PROMPT, config_of(tracker.child("a", 400), max_tokens=900, when_short="clamp"))
    assert limits_sent(adapter) == [390]


def test_clamp_waits_for_its_floor() -> None:
    """If less than `clamp_floor` is free, the call waits (BUDGET-8)."""
    tracker, adapter = BudgetTracker(1_000), MockLLMAdapter()
    hold = tracker.reserve(900)
    config = config_of(tracker, max_tokens=900, when_short="clamp", clamp_floor=100)
    call = in_thread(lambda: adapter.execute_prompt(PROMPT, config))
    waits(tracker, 1)
    hold.settle(890)
    call.result(PATIENCE)
    assert limits_sent(adapter) == [100]
    at_rest(tracker)


def test_a_floor_that_never_fits_is_refused() -> None:
    """A floor above the remainder of a limit is refused at once, with an error about the floor."""
    tracker = BudgetTracker(100)
    error = refused(lambda: MockLLMAdapter().execute_prompt(PROMPT, config_of(tracker, when_short="clamp")))
    assert (error.reason, error.requested) == ("never_fits", 10 + 256)


def test_a_limit_below_the_floor_is_its_own_floor() -> None:
    """A small `max_tokens` is never raised to the floor (BUDGET-8)."""
    tracker, adapter = BudgetTracker(100), MockLLMAdapter()
    adapter.execute_prompt(PROMPT, config_of(tracker, max_tokens=20, when_short="clamp"))
    assert limits_sent(adapter) == [20]


def test_a_call_waits_no_longer_than_its_config_says() -> None:
    """`max_wait_seconds` is half of the timeout by default, and never exceeds it."""
    tracker, adapter = BudgetTracker(100), MockLLMAdapter()
    for fields, seconds in (
        ({"timeout_seconds": 10}, 5),
        ({"timeout_seconds": 10, "max_wait_seconds": 2}, 2),
        ({"timeout_seconds": 10, "max_wait_seconds": 99}, 10),
        ({"timeout_seconds": 10, "when_short": "refuse"}, 0),
    ):
        terms = Terms.of(adapter, PROMPT, config_of(tracker, **fields))
        assert terms is not None
        assert terms.wait_until - time.monotonic() == pytest.approx(seconds, abs=1)


def test_the_ledger_names_only_text() -> None:
    """Whatever a foreign adapter has as `provider` or `model`, the ledger stays plain data."""

    class Odd(MockLLMAdapter):
        provider = object()

    tracker, adapter = BudgetTracker(10_000), Odd()
    adapter.model = 7  # type: ignore[assignment]
    terms = Terms.of(adapter, PROMPT, config_of(tracker))
    assert terms is not None
    assert (terms.facts.adapter, terms.facts.model) == ("Odd", None)


@pytest.mark.parametrize("fields", [{"when_short": "hope"}, {"when_short": []}, {"budget_tracker": 500}], ids=str)
def test_invalid_terms_are_refused(fields: dict[str, Any]) -> None:
    """Any word but wait, refuse or clamp, and a number in place of a tracker, is refused at construction."""
    with pytest.raises(LLMConfigurationError, match=next(iter(fields))):
        RunConfig(**fields)


def test_no_budget_no_terms() -> None:
    """A call without a tracker has no terms."""
    assert Terms.of(MockLLMAdapter(), PROMPT, None) is None


def test_a_wait_that_expires_is_an_error_of_the_budget() -> None:
    """A call whose wait ends raises the tracker's refusal, and is not sent."""
    tracker, adapter = BudgetTracker(100), MockLLMAdapter()
    hold = contextvars.Context().run(tracker.reserve, 90)
    with pytest.raises(LLMBudgetExceededError) as caught:
        adapter.execute_prompt(PROMPT, config_of(tracker, max_tokens=50, max_wait_seconds=0.2))
    assert (caught.value.reason, adapter.calls) == ("wait_expired", [])
    hold.release()


def test_a_cap_in_usd_refuses_a_call_whose_price_is_not_known() -> None:
    """Under a limit in USD on its path, a call without a known price is refused before anything runs."""
    tracker = BudgetTracker(total=10_000)
    adapter = MockLLMAdapter()
    line = r"price=Price\(prompt=..., completion=...\) on the adapter, or BudgetTracker\(prices={'mock': Price\("
    with pytest.raises(LLMBudgetExceededError, match=f"no price of 'mock'.* {line}") as caught:
        adapter.execute_prompt("hi", RunConfig(budget_tracker=tracker.child("dear", total_usd="0.50").child("below")))
    assert (caught.value.reason, caught.value.unit, caught.value.path) == ("unpriced", "usd", "budget/dear")
    assert adapter.prompts == []
    assert tracker.held == tracker.spent == 0
    adapter.execute_prompt("hi", RunConfig(budget_tracker=tracker))


def test_the_ledger_names_the_provider_of_an_adapter() -> None:
    """Entries and errors name the adapter's `provider`, or its class if it has none."""

    class Gateway(MockLLMAdapter):
        provider = "acme"

    class Odd(MockLLMAdapter):
        provider = 5

    tracker = BudgetTracker(1_000)
    for adapter in (Gateway(), Odd(), MockLLMAdapter()):
        adapter.execute_prompt(PROMPT, config_of(tracker))
    assert [entry.adapter for entry in tracker.ledger] == ["acme", "Odd", "MockLLMAdapter"]
    tracker.set_limits(total=1)
    assert refused(lambda: Gateway().execute_prompt(PROMPT, config_of(tracker))).provider == "acme"

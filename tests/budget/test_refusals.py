"""Refusals: the limit that the error is about, its figures, and its advice."""

from __future__ import annotations

import pickle
import sys
import time
from datetime import timedelta
from decimal import Decimal
from importlib.util import find_spec
from typing import Any

import pytest

from llm_connect import GeminiAdapter, OpenAIAdapter, OpenRouterAdapter
from llm_connect.budget.accounting.bounds import Bound
from llm_connect.budget.accounting.prices import Price
from llm_connect.budget.admission.holds import Hold
from llm_connect.budget.tracker import BudgetTracker
from llm_connect.errors import LLMBudgetExceededError, LLMBudgetNeverFitsError, LLMBudgetWaitError
from llm_connect.interface.config import RunConfig
from llm_connect.testing.mock import MockLLMAdapter
from llm_connect.types.amounts import NOTHING, Amount
from tests.budget.budget_helpers import PATIENCE, in_thread, refused

HINT = " It will probably use about 200 tokens: count_tokens= on the adapter tightens its bound."


def call(tracker: BudgetTracker, adapter: MockLLMAdapter | None = None, **fields: Any) -> LLMBudgetExceededError:
    """The refusal of a call with a bound of 500 tokens and a likely use of about 200."""
    config = RunConfig(**{"budget_tracker": tracker, "max_tokens": 100, **fields})
    return refused(lambda: (adapter or MockLLMAdapter()).execute_prompt("x" * 400, config))


def held_elsewhere(tracker: BudgetTracker, tokens: int) -> Hold:
    """An open hold of another caller."""
    return in_thread(lambda: tracker.reserve(tokens)).result(PATIENCE)


def test_what_never_fits() -> None:
    """The message says by how much the call is too large, whatever is held at present, and how to make it fit."""
    tracker = BudgetTracker(300)
    tracker.record(10)
    with held_elsewhere(tracker, 50):
        error = call(tracker)
    assert str(error) == (
        "Budget 'budget': a call of up to 500 tokens does not fit, even with nothing in flight (10 tokens spent and 50 "
        "tokens held of 300 tokens). Raise the limit by 210 tokens, or use a smaller max_tokens or a shorter prompt."
        + HINT
    )


def test_what_does_not_fit_now() -> None:
    """The message distinguishes a call that must not wait from one that has waited."""
    tracker = BudgetTracker(700)
    with held_elsewhere(tracker, 600):
        assert str(call(tracker, when_short="refuse")) == (
            "Budget 'budget': a call of up to 500 tokens does not fit now, and must not wait (0 tokens spent and 600 "
            "tokens held of 700 tokens). Let it wait: leave when_short at 'wait' and max_wait_seconds above 0, and in "
            "a running event loop use async_execute_prompt or async_stream_prompt."
        )
        assert str(call(tracker, max_wait_seconds=0.2)) == (
            "Budget 'budget': a call of up to 500 tokens did not fit before its wait ended (0 tokens spent and 600 "
            "tokens held of 700 tokens). Raise the limit by 400 tokens, or use a smaller max_tokens or a shorter "
            "prompt, or raise max_wait_seconds."
        )


def test_what_asks_is_named_and_how_it_waits() -> None:
    """A reservation, an allotment and a booking are not called a call, and have no output limit or prompt."""
    tracker = BudgetTracker(700, total_calls=1)
    with held_elsewhere(tracker, 600):
        figures = "(0 tokens spent and 600 tokens held of 700 tokens)"
        assert str(refused(lambda: tracker.reserve(500))) == (
            f"Budget 'budget': a reservation of 500 tokens does not fit now, and must not wait {figures}. Let it wait: "
            "pass max_wait_seconds, and in a running event loop await areserve."
        )
        assert str(refused(lambda: tracker.reserve(500, max_wait_seconds=0.05))) == (
            f"Budget 'budget': a reservation of 500 tokens did not fit before its wait ended {figures}. Raise the "
            "limit by 400 tokens, or reserve less, for example with a smaller max_tokens, or raise max_wait_seconds."
        )
        assert str(refused(tracker.allot("share", 500).__enter__)) == (
            f"Budget 'budget': an allotment of 500 tokens does not fit now, and must not wait {figures}. Let it wait: "
            "pass max_wait_seconds, and in a running event loop use async with."
        )
        assert str(refused(lambda: tracker.consume(500))) == (
            f"Budget 'budget': a booking of 500 tokens does not fit now, and must not wait {figures}. Let it wait: in "
            "place of consume, which never waits, use reserve with max_wait_seconds."
        )
    smaller = [
        (
            lambda: tracker.reserve(701),
            "Raise the limit by 1 token, or reserve less, for example with a smaller max_tokens.",
        ),
        (lambda: tracker.reserve(calls=2), "Raise the limit by 1 call, or make fewer calls."),
        (tracker.allot("share", 701).__enter__, "Raise the limit by 1 token, or allot less."),
        (lambda: tracker.consume(701), "Raise the limit by 1 token, or book less."),
    ]
    assert [str(refused(ask)).partition("). ")[2] for ask, _ in smaller] == [advice for _, advice in smaller]


def test_a_likely_use_is_told_only_if_it_would_fit() -> None:
    """A tighter bound is no advice for a call that would not fit with it."""
    for limit, held, hint in ((199, 0, ""), (200, 0, HINT), (700, 501, ""), (700, 500, HINT)):
        tracker = BudgetTracker(limit)
        with held_elsewhere(tracker, held):
            assert str(call(tracker, when_short="refuse")).endswith(hint or ".")
            assert ("probably" in str(call(tracker, when_short="refuse"))) is bool(hint)


@pytest.mark.parametrize(("total", "figures"), [(700, " (0 tokens spent and 0 tokens held of 700 tokens)"), (None, "")])
def test_a_closed_budget(total: int | None, figures: str) -> None:
    """Nothing is missing and a smaller call would not help; without a limit there are no figures."""
    tracker = BudgetTracker(total)
    tracker.close()
    error = call(tracker)
    assert error.missing == 0
    assert str(error) == (
        "Budget 'budget': a call of up to 500 tokens is refused, because the budget is closed"
        f"{figures}. Make another BudgetTracker."
    )


def test_a_closed_child() -> None:
    """A child has a parent that may be open, whatever the root is called."""
    child = BudgetTracker(name="a/b").child("c")
    child.close()
    assert str(call(child)).endswith("is closed. Use its parent, or open another child.")


def test_a_wait_for_oneself() -> None:
    """The message says whose hold is in the way; it does not suggest a smaller call."""
    tracker = BudgetTracker(1_000)
    with tracker.reserve(600):
        assert str(call(tracker, max_wait_seconds=0.2)) == (
            "Budget 'budget': a call of up to 500 tokens waited for open holds of its own caller (0 tokens spent and "
            "600 tokens held of 1,000 tokens). End the outer hold first, or set metered = False on an adapter that "
            "only wraps another one."
        )


def test_a_breach() -> None:
    """While the spend exceeds the limit, the advice is to change the limit and not the call."""
    tracker = BudgetTracker(1_000)
    tracker.record(1_001)
    assert str(call(tracker)).startswith(
        "Budget 'budget': a call of up to 500 tokens does not fit, even with nothing in flight (1,001 tokens spent and "
        "0 tokens held of 1,000 tokens). The spend exceeds the limit: raise it with set_limits, or correct"
    )
    assert "probably" not in str(call(tracker))


def test_what_is_likely_is_said_of_tokens_only_and_only_when_it_is_less() -> None:
    """A bound that is already tight, or a limit in another unit, gives no hint at a tighter bound."""

    class Tight(MockLLMAdapter):
        def bound(self, prompt: str, config: RunConfig) -> Bound:
            return Bound(prompt_tokens=0, max_tokens=100)

    tight = call(BudgetTracker(50), Tight())
    assert (tight.requested, tight.likely) == (100, 100)
    assert "probably" not in str(tight)
    dear = call(BudgetTracker(total_usd="0.01"), MockLLMAdapter(price=Price(prompt=100, completion=100)))
    assert (dear.unit, dear.requested, dear.missing, dear.likely) == ("usd", Decimal("0.05"), Decimal("0.04"), None)
    assert str(dear).endswith(" Raise the limit by 0.04 USD, or make fewer calls.")


def test_an_unproven_bound() -> None:
    """The error has the tracker's tokens with the figures of that moment, and says which calls would be admitted."""
    tracker = BudgetTracker(1_000, strict=True).child("c", 900)
    tracker.record(10)
    error = call(tracker)
    assert (error.unit, error.path, error.total, error.spent, error.held) == ("tokens", "budget/c", 900, 10, 0)
    assert (error.provider, error.model, error.booked, error.reason) == ("MockLLMAdapter", "mock", NOTHING, "unproven")
    assert str(error) == (
        "Budget 'budget/c' is strict, and the bound of 'mock' at MockLLMAdapter is estimated: use a model and an "
        "endpoint whose bounds are proven, or a budget without strict=True."
    )


def test_an_unknown_price() -> None:
    """The error is about the limit in USD, with its figures, and says how to declare a price."""
    root = BudgetTracker(total_usd="0.5")
    root.record(usd="0.2")
    error = call(root.child("c", 900))
    assert (error.unit, error.path, error.total, error.spent) == ("usd", "budget", Decimal("0.5"), Decimal("0.2"))
    assert (error.provider, error.model, error.booked, error.reason) == ("MockLLMAdapter", "mock", NOTHING, "unpriced")
    assert str(error) == (
        "Budget 'budget' limits USD, and MockLLMAdapter knows no price of 'mock'. Declare one in USD per million "
        "tokens: price=Price(prompt=..., completion=...) on the adapter, or BudgetTracker(prices={'mock': "
        "Price(prompt=..., completion=...)}). If the model costs nothing, use Price.free()."
    )


@pytest.mark.parametrize("kind", [OpenAIAdapter, GeminiAdapter, OpenRouterAdapter])
def test_an_unknown_price_has_a_reason(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind `base_url` no list price counts; elsewhere the extra is named if, and only if, it is missing."""
    config = RunConfig(budget_tracker=BudgetTracker(total_usd=1), max_tokens=10)

    def said(**options: Any) -> str:
        with kind(model="no-such-model", api_key="test", **options) as adapter:
            return str(refused(lambda: adapter.execute_prompt("Hello", config)))

    behind = said(base_url="http://127.0.0.1:9/v1")
    assert "knows no price of 'no-such-model': list prices do not count behind base_url. Declare one" in behind
    assert "extra" not in behind
    if find_spec("genai_prices") is not None:
        assert "knows no price of 'no-such-model'. Declare one" in said()
    monkeypatch.setitem(sys.modules, "genai_prices", None)
    missing = "list prices need the extra 'prices', which is not installed"
    assert f"knows no price of 'no-such-model': {missing}. Declare one" in said()
    assert f"model= ({missing})." in str(refused(lambda: BudgetTracker(total_usd=1).reserve(10)))


def test_a_reservation_without_a_price_names_no_extra_that_is_installed() -> None:
    """The advice is about the reservation."""
    pytest.importorskip("genai_prices")
    assert str(refused(lambda: BudgetTracker(total_usd=1).reserve(10, model="no-such-model"))) == (
        "Budget 'budget' limits USD, and no price of 'no-such-model' is known. Pass a price in USD per million tokens, "
        "price=Price(prompt=..., completion=...), or the USD to hold, usd=...; or name a model that has a list price "
        "with model=."
    )


def test_a_refusal_is_about_the_limit_that_stays_in_the_way() -> None:
    """The error is not about a limit that is only full at present, because of open holds."""
    for hold in (held_elsewhere, BudgetTracker.reserve):
        root = BudgetTracker(100)
        team = root.child("team", 200)
        with hold(team, 90):
            error = refused(lambda: team.reserve(150, max_wait_seconds=PATIENCE))  # noqa: B023 - it is called at once
        assert (error.reason, error.path, error.missing) == ("never_fits", "budget", 50)


def test_a_wait_for_oneself_is_about_the_limit_that_ones_own_hold_fills() -> None:
    """The error is about a limit on which the caller's own holds are in the way. (BUDGET-9)"""
    root = BudgetTracker(100)
    team = root.child("team", 70)
    with root.reserve(50):
        error = refused(lambda: team.reserve(55, max_wait_seconds=0.2))
    assert (error.reason, error.path, error.total) == ("self_wait", "budget", 100)


def test_never_and_later_are_classes() -> None:
    """Each refusal has one of two classes, also after pickling. (ERROR-7, ERROR-4)"""
    tracker = BudgetTracker(100, total_usd=1, strict=True)
    closed = tracker.child("c")
    closed.close()
    with tracker.reserve(60, usd=0, grade="proven"):
        errors = [
            refused(lambda: tracker.reserve(101, usd=0, grade="proven")),
            refused(lambda: closed.reserve(1, usd=0, grade="proven")),
            refused(lambda: tracker.reserve(1, grade="proven")),
            refused(lambda: tracker.reserve(1)),
            refused(lambda: tracker.reserve(60, usd=0, grade="proven")),
            refused(lambda: tracker.reserve(60, usd=0, grade="proven", max_wait_seconds=0.2)),
        ]
    reasons = ["never_fits", "closed", "unpriced", "unproven", "refused", "self_wait"]
    assert [error.reason for error in errors] == reasons
    kinds = [LLMBudgetNeverFitsError] * 4 + [LLMBudgetWaitError] * 2
    assert [type(error) for error in errors] == kinds
    assert [type(pickle.loads(pickle.dumps(error))) for error in errors] == kinds
    assert {error.retry_after for error in errors} == {None}


def test_a_full_window_says_in_how_many_seconds_it_opens() -> None:
    """`retry_after` can be sent as a `Retry-After` header. (ERROR-7)"""
    tracker = BudgetTracker(100, period=timedelta(hours=1))
    tracker.record(80)
    error = refused(lambda: tracker.reserve(30))
    assert isinstance(error, LLMBudgetWaitError)
    assert error.reason == "window_full"
    assert error.retry_after is not None
    assert error.opens_at is not None
    assert 0 < error.retry_after <= error.opens_at - time.time() + 30
    assert 3_500 < error.retry_after < 3_700


def test_a_snapshot_has_limits_as_the_tracker_has_them() -> None:
    """Limits are in tokens, calls and USD, and money has no trailing zeros. (BUDGET-62)"""
    tracker = BudgetTracker(100, total_usd="2.50", total_calls=4)
    with tracker.reserve(10, usd="0.25") as hold:
        snapshot = tracker.snapshot()
        limits = (snapshot.total, snapshot.total_calls, snapshot.total_usd)
        assert limits == (tracker.total, tracker.total_calls, tracker.total_usd) == (100, 4, Decimal("2.5"))
        figures = (snapshot.spent_usd, snapshot.held_usd, snapshot.spent_calls, snapshot.held_calls)
        assert figures == (tracker.spent_usd, tracker.held_usd, tracker.spent_calls, tracker.held_calls)
        hold.settle(5, usd="0.10")
    shown = [str(usd) for usd in (tracker.total_usd, tracker.spent_usd, tracker.held_usd, BudgetTracker().spent_usd)]
    assert shown == ["2.5", "0.1", "0", "0"]
    assert str(Amount(nano_usd=-100 * 10**9).usd) == "-100"

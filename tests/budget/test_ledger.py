"""The ledger: one entry for each attempt."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest

from llm_connect.budget.accounting.bounds import CallFacts, PlainDemand
from llm_connect.budget.accounting.ledger import KeptEntries, Ledger, LedgerEntry
from llm_connect.budget.tracker import BudgetTracker
from llm_connect.errors import LLMConfigurationError
from llm_connect.types.amounts import NOTHING, Amount
from llm_connect.types.usage import Usage
from tests.budget.budget_helpers import admit, at_rest


def test_an_entry_is_plain_data() -> None:
    """`json.dumps` accepts the result of `to_dict`, which loses no digit of money."""
    tracker = BudgetTracker(100, total_usd=1)
    hold = tracker.child("a").reserve(50, usd="0.1", adapter="own", model="m", labels={"task": "x"})
    hold.settle(
        usage=Usage(prompt_tokens=3, completion_tokens=4), usd="0.000000001", cost_source="provider", model="m-1"
    )
    (entry,) = tracker.ledger
    data = json.loads(json.dumps(entry.to_dict()))
    assert data["usd"] == data["cost"] == "0.000000001"
    assert (data["tracker"], data["outcome"], data["tokens"], data["calls"]) == ("budget/a", "settled", 7, 1)
    assert (data["bound"], data["model"]) == ({"tokens": 50, "calls": 1, "usd": "0.1"}, "m-1")
    assert (data["labels"], data["adapter"]) == ({"task": "x"}, "own")
    assert data["usage"]["total_tokens"] == 7
    assert data["reserved_at"] <= data["ended_at"]
    assert (data["grade"], data["cost_source"], data["corrects"]) == ("estimated", "provider", None)
    assert data["request_id"] is None


def test_an_entry_without_usage_and_cost() -> None:
    """An unknown figure is None, never 0."""
    tracker = BudgetTracker()
    data = tracker.record(5).to_dict()
    assert (data["usage"], data["cost"]) == (None, None)


@pytest.mark.parametrize(
    "fields",
    [{"adapter": "\ud800"}, {"model": "a\udfff"}, {"labels": {"task": "\ud800"}}, {"labels": "task"}, {"model": 5}],
)
def test_what_cannot_be_written_is_refused_before_anything_is_held(fields: Any) -> None:
    """A text that a file, a server or a sink cannot store would otherwise fail after the call is paid."""
    tracker = BudgetTracker()
    with pytest.raises(LLMConfigurationError):
        tracker.reserve(5, **fields)
    with pytest.raises(LLMConfigurationError):
        tracker.record(5, **fields)
    with pytest.raises(LLMConfigurationError, match="surrogates"):
        tracker.child("\ud800")
    at_rest(tracker)


def test_a_model_of_half_characters_is_booked() -> None:
    """An odd model name in a reply does not prevent the booking of a paid call."""
    tracker = BudgetTracker()
    with tracker.reserve(5) as hold:
        hold.settle(5, model="m\ud800")
    (entry,) = tracker.ledger
    assert (entry.model, tracker.spent) == ("m?", 5)


def test_memory_stays_flat() -> None:
    """Beyond `keep_entries` only the sum is kept, and sum and entries still add up (BUDGET-4)."""
    for keep in (0, 1, 5):
        tracker = BudgetTracker(keep_entries=keep)
        for number in range(20):
            tracker.record(number, usd=Decimal(number).scaleb(-9))
        assert len(tracker.ledger) == keep
        at_rest(tracker)
        assert tracker.spent == 190


def test_a_thousand_entries_are_kept_unless_another_number_is_said() -> None:
    """By default the ledger keeps the last thousand entries, and the sum of the earlier ones."""
    tracker = BudgetTracker()
    for number in range(1_001):
        tracker.record(number)
    assert (len(tracker.ledger), next(iter(tracker.ledger)).amount.tokens) == (1_000, 1)
    at_rest(tracker)


def test_iterating_goes_on_while_calls_are_made() -> None:
    """An iteration yields the entries of the moment at which it began."""
    tracker = BudgetTracker()
    tracker.record(1)
    entries = iter(tracker.ledger)
    tracker.record(2)
    assert [entry.amount.tokens for entry in entries] == [1]


def test_ids_are_in_order_over_the_tree() -> None:
    """Every entry has its own id, on any tracker; the entries of a path add up to the spend of its tracker
    (BUDGET-4).
    """
    root = BudgetTracker()
    child, other = root.child("a"), root.child("b")
    for tracker in (root, child, other, child.child("c")):
        tracker.record(10)
    assert [entry.id for entry in root.ledger] == [1, 2, 3, 4]
    assert child.ledger is root.ledger
    below = [entry for entry in root.ledger if (entry.tracker + "/").startswith("budget/a/")]
    assert sum(entry.amount.tokens for entry in below) == child.spent == 20


def test_an_empty_ledger() -> None:
    """Before any booking the ledger is empty."""
    ledger = Ledger(KeptEntries(10, lambda operation, *args: operation(*args)))
    assert (list(ledger), len(ledger), ledger.earlier) == ([], 0, NOTHING)
    assert Amount() == NOTHING


def test_every_field_of_an_entry_has_its_name() -> None:
    """Every field has its name, money is text, and times are in UTC (BUDGET-43)."""
    entry = LedgerEntry(
        id=7,
        tracker="budget/c",
        outcome="settled",
        amount=Amount(30, 1, 5),
        bound=Amount(100, 2, 9_000_000_000),
        grade="estimated",
        adapter="a",
        model="m",
        labels={"job": "report"},
        usage=Usage(prompt_tokens=10, completion_tokens=20),
        cost=Decimal("5E-9"),
        cost_source="provider",
        request_id="r",
        reserved_at=0.0,
        ended_at=1.5,
        corrects=3,
    )
    assert entry.to_dict() == {
        "id": 7,
        "tracker": "budget/c",
        "outcome": "settled",
        "tokens": 30,
        "calls": 1,
        "usd": "0.000000005",
        "bound": {"tokens": 100, "calls": 2, "usd": "9"},
        "grade": "estimated",
        "adapter": "a",
        "model": "m",
        "labels": {"job": "report"},
        "usage": Usage(prompt_tokens=10, completion_tokens=20).to_dict(),
        "cost": "0.000000005",
        "cost_source": "provider",
        "request_id": "r",
        "reserved_at": "1970-01-01T00:00:00+00:00",
        "ended_at": "1970-01-01T00:00:01.500000+00:00",
        "corrects": 3,
    }
    assert json.loads(entry.to_json()) == entry.to_dict()


def test_a_correction_is_about_the_attempt_that_it_amends() -> None:
    """It has the bound, grade, request id and time of that attempt, and its own figures (BUDGET-43)."""
    tracker = BudgetTracker(1_000)
    facts = CallFacts(adapter="a", model="m", labels={"job": "x"}, grade="estimated")
    hold = admit(tracker, PlainDemand(100, 1), facts, deadline=0.0)
    hold.request_id = "r"
    hold.dispatch()
    hold.presume()
    presumed, corrected = hold.entry, tracker.correct(hold.entry_id, 40)
    assert presumed is not None
    assert (corrected.outcome, corrected.amount, corrected.corrects) == ("corrected", Amount(-60), presumed.id)
    for name in ("tracker", "bound", "grade", "adapter", "model", "labels", "request_id", "reserved_at"):
        assert getattr(corrected, name) == getattr(presumed, name)
    assert presumed.ended_at <= corrected.ended_at
    recorded = tracker.record(1)
    assert (recorded.bound, recorded.request_id, recorded.corrects) == (Amount(1), None, None)
    assert recorded.reserved_at == recorded.ended_at

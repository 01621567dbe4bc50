"""Totals of the ledger, which cover all entries ever made."""

from __future__ import annotations

from decimal import Decimal

import pytest

from llm_connect.budget.accounting import ledger as totals
from llm_connect.budget.accounting.ledger import OTHERS, Total
from llm_connect.budget.tracker import BudgetTracker
from llm_connect.errors import LLMConfigurationError
from llm_connect.types.amounts import NOTHING, Amount
from tests.budget.budget_helpers import at_rest


def test_totals_by_everything() -> None:
    """Entries and amounts by tracker, adapter, answered model and label, including entries that are no longer kept
    (BUDGET-43).
    """
    tracker = BudgetTracker(keep_entries=5)
    child = tracker.child("c")
    for number in range(200):
        at = child if number % 2 else tracker
        labels = {"job": "report", "part": str(number % 4)}
        with at.reserve(10, adapter="a", model="asked", labels=labels) as hold:
            hold.dispatch()
            hold.settle(number, usd=Decimal("0.000000001"), model="answered" if number % 2 else None)
    tracker.record(7)
    ledger = tracker.ledger
    even, odd = Total(100, Amount(9_900, 100, 100)), Total(100, Amount(10_000, 100, 100))
    assert ledger.totals("tracker") == {"budget": even.plus(1, Amount(7)), "budget/c": odd}
    assert ledger.totals("adapter") == {"a": even.plus(*odd), "": Total(1, Amount(7))}
    assert ledger.totals("model") == {"asked": even, "answered": odd, "": Total(1, Amount(7))}
    by_label = ledger.totals("label")
    assert by_label["job=report"] == even.plus(*odd)
    assert sorted(by_label) == ["job=report", "part=0", "part=1", "part=2", "part=3"]
    assert sum((total.entries for total in by_label.values()), 0) == 400
    assert len(ledger) == 5
    at_rest(tracker)


def test_reading_totals_changes_nothing() -> None:
    """Totals can be read again and again while calls go on."""
    tracker = BudgetTracker(keep_entries=0)
    for number in range(1, 4):
        tracker.record(number, labels={"a": "b"})
        assert tracker.ledger.totals("label") == {"a=b": Total(number, Amount(sum(range(number + 1))))}
        assert tracker.ledger.totals("tracker") == tracker.ledger.totals("tracker")
    at_rest(tracker)


def test_another_key_is_refused() -> None:
    """`totals` accepts four keys, and the error names them."""
    with pytest.raises(LLMConfigurationError, match="accepts tracker, adapter, model or label, not 'provider'"):
        BudgetTracker().ledger.totals("provider")  # type: ignore[arg-type]
    assert BudgetTracker().ledger.totals("model") == {}


@pytest.mark.in_memory_only
def test_memory_stays_flat_whatever_names_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Above a number of names, new ones are collected under one name, known ones go on, and the sum stays exact."""
    monkeypatch.setattr(totals, "_MOST_KINDS", 3)
    monkeypatch.setattr(totals, "_MOST_LABELS", 2)
    tracker = BudgetTracker(keep_entries=0)
    for number in range(10):
        tracker.record(1, model=f"m{number}", labels={"n": str(number)})
    tracker.record(1, model="m0", labels={"n": "0"})
    by_model = tracker.ledger.totals("model")
    assert {name: total.entries for name, total in by_model.items()} == {"m0": 2, "m1": 1, "m2": 1, OTHERS: 7}
    by_label = tracker.ledger.totals("label")
    assert {name: total.amount.tokens for name, total in by_label.items()} == {"n=0": 2, "n=1": 1, OTHERS: 8}
    assert tracker.ledger.earlier == Amount(11)
    at_rest(tracker)


def test_no_entries() -> None:
    """Without entries the totals are empty."""
    ledger = BudgetTracker().ledger
    assert (len(ledger), list(ledger), ledger.earlier) == (0, [], NOTHING)

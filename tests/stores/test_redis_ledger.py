"""What a server keeps of the ledger for good."""

from __future__ import annotations

from pathlib import Path

from llm_connect.core.totals import Total
from llm_connect.core.units import Amount
from llm_connect.stores.opening import open_budget
from tests.core.budget_helpers import at_rest
from tests.core.stores import new_url


def test_labels_beyond_the_most_count_together(folder: Path) -> None:
    """A thousand labels are kept apart, and what is beyond counts under "(others)", as in memory (STORE-1)."""
    budget = open_budget(new_url("redis", folder))
    for number in range(1_003):
        budget.record(2, labels={"request": str(number)})
    totals = budget.ledger.totals("label")
    assert len(totals) == 1_001
    assert totals["(others)"] == Total(3, Amount(6, 0, 0))
    assert sum(total.amount.tokens for total in totals.values()) == budget.spent == 2_006
    at_rest(budget)

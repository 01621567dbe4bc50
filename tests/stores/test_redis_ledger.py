"""The parts of the ledger that a server keeps for ever."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llm_connect.budget.accounting.ledger import Total
from llm_connect.errors import LLMConfigurationError
from llm_connect.stores.opening import open_budget
from llm_connect.types.amounts import Amount
from tests.budget.budget_helpers import at_rest
from tests.budget.stores import new_url
from tests.stores.looking import alone, session_of


def test_labels_beyond_the_most_count_together(folder: Path) -> None:
    """A thousand labels have sums of their own, and all others count under "(others)", as in memory (STORE-1)."""
    budget = open_budget(new_url("redis", folder))
    for number in range(1_003):
        budget.record(2, labels={"request": str(number)})
    totals = budget.ledger.totals("label")
    assert len(totals) == 1_001
    assert totals["(others)"] == Total(3, Amount(6, 0, 0))
    assert sum(total.amount.tokens for total in totals.values()) == budget.spent == 2_006
    at_rest(budget)


def test_a_settled_entry_is_corrected_as_long_as_it_is_kept(folder: Path) -> None:
    """Entries are found by number, even if earlier ones are dropped before or during the correction (STORE-8)."""
    budget = open_budget(new_url("redis", folder), total=1_000)
    for _ in range(6):
        budget.consume(10)
    session = session_of(budget)
    with alone(session):
        session.fetch("LTRIM", "ledger", 2, -1)
    for number in (1, 2):
        with pytest.raises(LLMConfigurationError, match="no longer keeps it"):
            budget.correct(number, 1)
    fetch, trimmed = session.fetch, []

    def others_trim(command: str, *args: Any) -> Any:
        found = fetch(command, *args)
        if command == "LINDEX" and not trimmed:
            trimmed.append(fetch("LTRIM", "ledger", 1, -1))
        return found

    session.fetch = others_trim
    budget.correct(5, 4)
    del session.fetch
    assert (len(trimmed), budget.snapshot().spent.tokens) == (1, 54)
    at_rest(budget)

"""Several processes under one budget."""

from __future__ import annotations

import signal
import time
from pathlib import Path

from llm_connect.budget.tracker import BudgetTracker
from llm_connect.stores.opening import open_budget
from tests.budget.budget_helpers import at_rest, until
from tests.stores.crew import LIMIT, SECONDS, bill, crew, results
from tests.stores.looking import stored


def test_eight_processes_are_granted_exactly_the_cap(url: str) -> None:
    """Eight processes with 300 attempts each under a cap of 1,000 get exactly 1,000 grants (STORE-2)."""
    budget = open_budget(url, total=1_000)
    with crew(8, "equal_attempts", url, 300) as processes:
        granted = results(processes)
    assert sum(granted) == 1_000 == budget.snapshot().spent.tokens
    at_rest(budget)


def test_processes_of_all_kinds_keep_the_cap(url: str) -> None:
    """With mixed sizes, waiting, and shared and own children, no limit is exceeded and the books match the bill."""
    budget = open_budget(url, total=1_500)
    with crew(8, "mixed_attempts", url, 60) as processes:
        found = results(processes)
    snapshot = budget.snapshot()
    assert snapshot.spent.tokens == sum(each["billed"] for each in found) <= 1_500
    assert sum(each["refused"] for each in found) > 0
    totals = budget.ledger.totals("tracker")
    assert totals["budget/shared"].amount.tokens <= 400
    assert all(total.amount.tokens <= 300 for path, total in totals.items() if path.startswith("budget/own"))
    at_rest(budget)


def test_killed_processes_leave_no_hold_and_no_unbooked_bill(url: str, folder: Path) -> None:
    """After `kill -9` at random moments the cap holds, the books are at or above the bill, and nothing stays held.

    (STORE-3)
    """
    bills = folder / "bills"
    bills.mkdir()
    budget = open_budget(url, total=LIMIT)
    end = time.monotonic() + SECONDS
    started = 0
    while time.monotonic() < end:
        with crew(4, "spender", url, str(bills), 1.0) as processes:
            started += len(processes)
            until(lambda started=started: len(list(bills.iterdir())) >= started)  # type: ignore[misc]
            time.sleep(0.2)
            for process in processes:
                process.send_signal(signal.SIGKILL)
    come_to_an_end(budget, url, bills)


def come_to_an_end(budget: BudgetTracker, url: str, bills: Path) -> None:
    """Check the end state: the limit holds, the books are at or above the bill, and nothing is held."""
    assert budget.snapshot().spent.tokens <= LIMIT
    until(lambda: budget.snapshot().held.tokens == 0)
    at_rest(budget)
    assert 0 < bill(bills) <= budget.spent <= LIMIT
    print(f"limit {LIMIT}, books {budget.spent}, bill {bill(bills)}, {len(list(bills.iterdir()))} processes")
    assert stored(budget, "holds") == 0

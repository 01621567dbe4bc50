"""Creating and joining budgets."""

from __future__ import annotations

import os
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from llm_connect.budget.accounting.prices import Price
from llm_connect.errors import LLMConfigurationError
from llm_connect.stores.opening import aopen_budget, open_budget
from llm_connect.stores.urls import path_of


def test_who_joins_says_the_same_limits_or_none(url: str) -> None:
    """Other limits are refused, by an error of one line that names both (STORE-13)."""
    budget = open_budget(url, name="nightly", total=50_000, total_usd="5.00")
    assert open_budget(url, name="nightly") is budget
    assert open_budget(url, name="nightly", total=50_000, total_usd=5) is budget
    for limits in ({"total": 40_000}, {"total_usd": 5}, {"total": 50_000, "total_usd": 5, "total_calls": 1}):
        with pytest.raises(LLMConfigurationError, match=r"has 50,000 tokens and 5 USD, not .*change_limits=True"):
            open_budget(url, name="nightly", **limits)  # type: ignore[arg-type]
    snapshot = budget.snapshot()
    assert (snapshot.total, snapshot.total_calls, snapshot.total_usd) == (50_000, None, 5)


def test_limits_are_changed_by_wish(url: str) -> None:
    """`change_limits` changes all limits at once, for all processes (STORE-13)."""
    budget = open_budget(url, total=50_000)
    assert open_budget(url, total_usd="2.5", change_limits=True) is budget
    assert (budget.total, budget.total_usd) == (None, Decimal("2.5"))


def test_a_file_holds_several_budgets(url: str) -> None:
    """The budgets of a file are independent of each other."""
    one, two = open_budget(url, name="one", total=10), open_budget(url, name="two", total=20)
    one.consume(10)
    two.consume(20)
    assert (one.snapshot().spent.tokens, two.snapshot().spent.tokens) == (10, 20)
    assert [entry.tracker for entry in two.ledger] == ["two"]
    assert one.ledger.totals("tracker").keys() == {"one"}


def test_a_process_uses_a_budget_on_the_same_terms(url: str) -> None:
    """Opening a budget again with other prices is refused: the tracker would have the earlier ones."""
    budget = open_budget(url, prices={"m": Price.free()})
    with pytest.raises(LLMConfigurationError, match="with other settings"):
        open_budget(url)
    assert budget.prices


async def test_the_async_form(url: str) -> None:
    """`aopen_budget` returns the same tracker."""
    assert await aopen_budget(url, total=5) is open_budget(url, total=5)


@pytest.mark.parametrize(
    "details",
    [
        {"url": "postgres://localhost"},
        {"url": "redis://localhost/budget"},
        {"url": "sqlite:///"},
        {"url": 5},
        {"name": " "},
        {"total": 0},
        {"lease_seconds": 0},
        {"keep_entries": -1},
        {"on_unknown": "ignore"},
        {"sink": "ledger.jsonl"},
    ],
    ids=str,
)
def test_what_cannot_be_meant_is_refused(details: dict[str, Any], url: str, folder: Path) -> None:
    """An invalid argument is refused before a file is created."""
    with pytest.raises(LLMConfigurationError):
        open_budget(**{"url": url, **details})
    assert list(folder.iterdir()) == []


def test_urls_are_those_of_sqlalchemy() -> None:
    """A relative path follows three slashes, an absolute path four."""
    assert path_of("sqlite:///budget.db") == os.path.join(os.getcwd(), "budget.db")
    assert path_of("sqlite:////tmp/budget.db") == "/tmp/budget.db"


@pytest.mark.skipif(os.sep != "/", reason="there are drives here")
@pytest.mark.parametrize("written", ["C:\\data\\budget.db", "c:/data/budget.db", "\\data\\budget.db"])
def test_a_path_of_windows_is_refused_elsewhere(written: str, folder: Path, monkeypatch: Any) -> None:
    """A path of Windows is refused: elsewhere it would name another file, and so another budget (STORE-21)."""
    monkeypatch.chdir(folder)
    with pytest.raises(LLMConfigurationError, match=r"did you mean sqlite:////data/budget\.db"):
        open_budget(f"sqlite:///{written}", total=5)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("name", ["Bob's & co;/100%/x+y, z.db", "a[1].db", "budget-wallet.db"])
def test_a_path_with_odd_characters_is_taken_as_it_is(name: str) -> None:
    """Characters that no other program interprets are part of the name."""
    assert path_of(f"sqlite:////tmp/{name}") == f"/tmp/{name}"


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("budget.db", "did you mean sqlite:///budget.db?"),
        ("/var/lib/budget.db", "did you mean sqlite:////var/lib/budget.db?"),
        ("sqlite://budget.db", "did you mean sqlite:///budget.db?"),
        ("sqlite:budget.db", "did you mean sqlite:///budget.db?"),
        ("sqlite3:///budget.db", "did you mean sqlite:///budget.db?"),
        ("SQLite:///budget.db", "did you mean sqlite:///budget.db?"),
        ("sqlite+aiosqlite:///budget.db", "did you mean sqlite:///budget.db?"),
        ("file:budget.db", "did you mean sqlite:///budget.db?"),
        ("file:///var/budget.db", "did you mean sqlite:////var/budget.db?"),
        ("sqlite:///budget.db?timeout=5", "did you mean sqlite:///budget.db?"),
        ("sqlite:///budget.db#main", "did you mean sqlite:///budget.db?"),
        ("sqlite:///budget.db\n", "did you mean sqlite:///budget.db?"),
        (" sqlite:///budget.db", "did you mean sqlite:///budget.db?"),
        ("sqlite:///budget\x00.db", "did you mean sqlite:///budget.db?"),
        ("sqlite:///~/budget.db", f"did you mean sqlite:///{os.path.expanduser('~/budget.db')}?"),
        ("sqlite:///budget.db;mode=ro", "did you mean sqlite:///budget.db?"),
        ("sqlite:///budget.db&cache=shared", "did you mean sqlite:///budget.db?"),
        ("sqlite:///budget%2Edb", "did you mean sqlite:///budget.db?"),
        ("sqlite:///budget.db%20", "did you mean sqlite:///budget.db?"),
        ("sqlite:///budget.db%3Ftimeout=5", "did you mean sqlite:///budget.db?"),
        ("sqlite:///'budget.db'", "did you mean sqlite:///budget.db?"),
        ('sqlite:///"budget.db"', "did you mean sqlite:///budget.db?"),
        ("sqlite:///<budget.db>", "did you mean sqlite:///budget.db?"),
        ("sqlite:///file:budget.db", "did you mean sqlite:///budget.db?"),
        ("sqlite:///file:budget.db?mode=memory", "did you mean sqlite:///budget.db?"),
        ("sqlite:///FILE://budget.db", "did you mean sqlite:///budget.db?"),
        ("sqlite:///budget.db-wal", "did you mean sqlite:///budget.db?"),
        ("sqlite:///budget.db-shm", "did you mean sqlite:///budget.db?"),
        ("sqlite:///budget.db-journal", "did you mean sqlite:///budget.db?"),
        ("sqlite:///$HOME/budget.db", f"did you mean sqlite:///{os.path.expanduser('~/budget.db')}?"),
        ("sqlite:///:MEMORY:", "a budget in memory is BudgetTracker(total=...)"),
        ("sqlite:////:memory:", "a budget in memory is BudgetTracker(total=...)"),
        ("sqlite:///file::memory:", "a budget in memory is BudgetTracker(total=...)"),
        ("sqlite:///file::memory:?cache=shared", "a budget in memory is BudgetTracker(total=...)"),
        ("redis://[::1:6379/0", "an IPv6 address stands in brackets"),
        ("redis://me:secret@[::1/0", "an IPv6 address stands in brackets"),
        ("sqlite:///:memory:", "a budget in memory is BudgetTracker(total=...)"),
        ("sqlite://", "a budget in memory is BudgetTracker(total=...)"),
        (":memory:", "a budget in memory is BudgetTracker(total=...)"),
        ("REDIS://localhost/0", "did you mean redis://localhost/0?"),
        ("redis:localhost/0", "did you mean redis://localhost/0?"),
        ("redis://localhost:6379/0\n", "did you mean redis://localhost:6379/0?"),
        ("redis://localhost/0?timeout=5", "not timeout. Its timeouts"),
        ("redis://localhost/0#x", "not #. Its timeouts"),
        ("postgresql://me:secret@localhost/budget", "no other store is known"),
    ],
)
def test_a_url_that_is_written_otherwise(written: str, said: str, folder: Path, monkeypatch: Any) -> None:
    """An invalid URL opens nothing; the error suggests a valid one, and shows no password (STORE-21)."""
    monkeypatch.chdir(folder)
    with pytest.raises(LLMConfigurationError) as caught:
        open_budget(written, total=5)
    assert said in str(caught.value)
    assert "secret" not in str(caught.value)
    assert list(folder.iterdir()) == []

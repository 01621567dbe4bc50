"""Stores that are lost, slow, full or cut off."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import shutil
import signal
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from llm_connect.budget.accounting.bounds import NO_FACTS, CallFacts
from llm_connect.budget.tracker import BudgetTracker
from llm_connect.errors import LLMConfigurationError, LLMStoreError
from llm_connect.interface.config import RunConfig
from llm_connect.stores.opening import open_budget
from llm_connect.stores.sqlite import file as schema
from llm_connect.stores.sqlite.session import FileSession
from llm_connect.testing.mock import MockLLMAdapter
from llm_connect.types.amounts import NOTHING, Amount
from tests.budget.budget_helpers import WAIT, at_rest, in_thread, outcomes, until, waits
from tests.stores.crew import SECONDS, bill, crew
from tests.stores.looking import alone
from tests.stores.test_sharing import Busy


def session_of(budget: BudgetTracker) -> FileSession:
    session = budget.gate.session  # type: ignore[attr-defined]
    assert isinstance(session, FileSession)
    return session


def impatient(url: str, **details: Any) -> BudgetTracker:
    """A budget whose store counts as lost after less than half a second."""
    return open_budget(url, lease_seconds=2.4, **details)


def test_a_busy_store_refuses_and_names_itself(url: str) -> None:
    """While the store cannot be reached, nothing is admitted or dispatched, and the error names it (STORE-10)."""
    budget = impatient(url, total=100)
    hold = contextvars.Context().run(budget.reserve, 10)
    with Busy(url):
        for use in (lambda: budget.reserve(1), hold.dispatch, budget.snapshot, lambda: budget.set_limits(total=5)):
            with pytest.raises(LLMStoreError, match=r"sqlite:///.*budget\.db cannot be used") as caught:
                use()
            assert (caught.value.store, caught.value.maybe_billed) == (url, False)
    hold.dispatch()
    hold.settle(5)
    assert budget.snapshot().spent.tokens == 5
    at_rest(budget)


def test_who_has_waited_for_long_tries_at_every_chance(url: str) -> None:
    """A caller that has waited for long tries more often, so the busiest file admits every process (STORE-10)."""
    budget, tries = impatient(url, total=100), 0

    def begin() -> None:
        nonlocal tries
        tries += 1
        session_of(budget).connection.execute("BEGIN IMMEDIATE")

    with Busy(url), pytest.raises(sqlite3.OperationalError, match="locked"):
        schema.patiently(begin, 1.0)
    assert tries > 60


async def test_an_answer_is_not_lost_with_the_store(url: str, caplog: pytest.LogCaptureFixture) -> None:
    """A call returns its answer at once; its usage is booked when the store can be reached again (STORE-10)."""
    budget = impatient(url, total=1_000)
    adapter = MockLLMAdapter("x", prompt_tokens=3, completion_tokens=4, delay_seconds=0.2)
    config = RunConfig(budget_tracker=budget, max_tokens=20)
    with caplog.at_level(logging.CRITICAL, "llm_connect"):
        task = asyncio.create_task(adapter.async_execute_prompt("hello", config))
        thread = in_thread(lambda: contextvars.Context().run(adapter.execute_prompt, "hello", config))
        while len(adapter.calls) < 2:
            await asyncio.sleep(0.001)
        with Busy(url):
            assert (await task).content == (await asyncio.to_thread(thread.result, 10)).content == "x"
    until(lambda: budget.snapshot().spent.tokens == 14)
    at_rest(budget)


def test_a_full_disk_changes_nothing(url: str) -> None:
    """A step that could not be written changes neither file nor memory, and succeeds when there is room (STORE-10)."""
    budget = open_budget(url, total=100)
    hold = contextvars.Context().run(budget.reserve, 10)
    hold.dispatch()
    session = session_of(budget)
    (pages,) = session.connection.execute("PRAGMA page_count").fetchone()
    session.connection.execute(f"PRAGMA max_page_count = {pages}")
    labels = {"much": "x" * 20_000}
    with pytest.raises(LLMStoreError, match="full"):
        budget.reserve(20, labels=labels)
    with pytest.raises(LLMStoreError, match="full"):
        budget.child("child", 50).reserve(20, labels=labels)
    with pytest.raises(LLMStoreError, match="full"):
        budget.record(5, labels=labels)
    hold.facts = CallFacts(labels=labels)
    hold.settle(7)
    with alone(session):  # the worker is about to try again
        assert (hold.state, budget.held, budget.spent) == ("dispatched", 10, 0)
    session.connection.execute("PRAGMA max_page_count = 1000000")
    until(lambda: budget.snapshot().spent.tokens == 7)
    assert outcomes(budget) == ["settled"]
    at_rest(budget)


def test_a_threshold_whose_transaction_is_undone_is_told_when_it_is_booked(url: str) -> None:
    """The callback runs once, and not before its transaction is committed (STORE-10)."""
    budget, told = open_budget(url, total=100), []
    budget.on_threshold(0.5, lambda snapshot: told.append(snapshot.spent.tokens))
    hold = contextvars.Context().run(budget.reserve, 60)
    session = session_of(budget)
    session.connection.execute("CREATE TRIGGER late BEFORE UPDATE ON trackers BEGIN SELECT 1 FROM nowhere; END")
    hold.settle(60)
    with alone(session):  # the worker is about to try again
        assert (told, budget.spent) == ([], 0)
        session.connection.execute("DROP TRIGGER late")
    until(lambda: bool(told))
    assert (told, budget.snapshot().spent.tokens) == ([60], 60)
    at_rest(budget)


def test_a_waiter_whose_grant_could_not_be_written_is_told(url: str) -> None:
    """If the operation that admitted it fails in the end, the waiter gets the error (STORE-10)."""
    budget = open_budget(url, total=100)
    hold = contextvars.Context().run(budget.reserve, 100)
    session = session_of(budget)
    waiting = in_thread(lambda: budget.reserve(50, max_wait_seconds=60, labels={"much": "x" * 20_000}))
    waits(budget, 1)
    # There is room for the entry of the release, but not for the hold of the waiter.
    (pages,) = session.connection.execute("PRAGMA page_count").fetchone()
    session.connection.execute(f"PRAGMA max_page_count = {pages + 2}")
    hold.release()
    error = waiting.exception(20)
    assert isinstance(error, LLMStoreError)
    session.connection.execute("PRAGMA max_page_count = 1000000")
    until(lambda: budget.snapshot().held == NOTHING)
    at_rest(budget)


@pytest.mark.parametrize(
    "change", [lambda budget: budget.set_limits(total=40), lambda budget: budget.record(60)], ids=["limit", "record"]
)
def test_a_refusal_that_is_rolled_back_was_none(url: str, quiet: None, change: Callable[[BudgetTracker], Any]) -> None:
    """If the file rejects the operation that refused a waiter, the waiter waits on and is admitted (STORE-10)."""
    budget = open_budget(url, total=100)
    blocker = budget.reserve(60)
    waiting = in_thread(lambda: budget.reserve(50, max_wait_seconds=WAIT))
    waits(budget, 1)
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)) as other:
        other.execute("CREATE TRIGGER fails BEFORE UPDATE ON trackers BEGIN SELECT 1 FROM nowhere; END")
        with pytest.raises(LLMStoreError):
            change(budget)
        other.execute("DROP TRIGGER fails")
    assert not waiting.done()
    blocker.release()
    waiting.result(20).release()
    assert budget.snapshot().spent == NOTHING
    at_rest(budget)


def test_a_sum_that_no_file_takes_is_refused(url: str) -> None:
    """SQLite's integers have 64 bits; a sum that would exceed them is refused and changes nothing."""
    budget = open_budget(url)
    budget.gate.record(budget, Amount(2**62), NO_FACTS)
    with pytest.raises(LLMConfigurationError, match=r"cannot be written .*OverflowError"):
        budget.gate.record(budget, Amount(2**62), NO_FACTS)
    assert budget.snapshot().spent.tokens == 2**62
    at_rest(budget)


def test_a_power_cut_leaves_whole_books(url: str, folder: Path) -> None:
    """At any moment, the files are a consistent budget, at or above the bill of that moment (STORE-11)."""
    bills = folder / "bills"
    bills.mkdir()
    open_budget(url, total=1_000_000)
    copies = max(3, int(SECONDS))
    with crew(2, "spender", url, str(bills), 60.0) as processes:
        until(lambda: len(list(bills.iterdir())) == 2)
        for number in range(copies):
            time.sleep(0.1)
            for process in processes:
                process.send_signal(signal.SIGSTOP)
            copy = folder / f"copy {number}"
            copy.mkdir()
            for path in folder.glob("budget.db*"):
                shutil.copy(path, copy)
            shutil.copytree(bills, copy / "bills")
            for process in processes:
                process.send_signal(signal.SIGCONT)
    for number in range(copies):
        look_at_copy(folder / f"copy {number}")


def look_at_copy(copy: Path) -> None:
    budget = open_budget(f"sqlite:///{copy}/budget.db", total=1_000_000)
    session = session_of(budget)
    assert session.read_rows("PRAGMA integrity_check", ()) == [("ok",)]
    session.gate.run(lambda: session.connection.execute("UPDATE leases SET expires_at = 0"))
    session.leases._next_look = 0.0
    assert budget.snapshot().spent.tokens >= bill(copy / "bills") > 0
    at_rest(budget)


def test_every_commit_is_on_the_disk(url: str) -> None:
    """A dispatch is on the disk before its request leaves: `synchronous` is FULL, with a write-ahead log (STORE-11)."""
    connection = session_of(open_budget(url)).connection
    assert connection.execute("PRAGMA synchronous").fetchone() == (2,)
    assert connection.execute("PRAGMA fullfsync").fetchone() == (1,)
    assert connection.execute("PRAGMA checkpoint_fullfsync").fetchone() == (1,)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_file_of_a_later_version_is_left_alone(url: str) -> None:
    """The tables of a later version are neither read nor written (STORE-12)."""
    open_budget(url, total=5)
    connection = sqlite3.connect(url.removeprefix("sqlite:///"))
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(LLMStoreError, match="later version"):
        open_budget(url, name="another")


def test_a_file_of_an_earlier_version_is_brought_up_to_date(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each migration runs once, and all of them run in one transaction (STORE-12)."""
    open_budget(url, total=5).consume(3)
    add = "ALTER TABLE budgets ADD COLUMN note TEXT;\nUPDATE budgets SET note = name;"
    path = url.removeprefix("sqlite:///")
    with monkeypatch.context() as patch:
        patch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, add, "SELECT * FROM nothing;"))
        with pytest.raises(LLMStoreError, match="nothing"):
            schema.connect(path, 1.0)
    monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, add))
    for _ in range(2):
        connection = schema.connect(path, 1.0)
        assert connection.execute("SELECT note FROM budgets").fetchall() == [("budget",)]
        assert connection.execute("PRAGMA user_version").fetchone() == (len(schema.MIGRATIONS),)
        connection.close()


def test_a_folder_that_is_not_there(folder: Path) -> None:
    """The error for a missing folder says where to look."""
    with pytest.raises(LLMStoreError, match="check that the file and its folder exist and are writable"):
        open_budget(f"sqlite:///{folder}/nowhere/budget.db")

"""Children of a budget."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest

from llm_connect.budget.tracker import BudgetTracker
from llm_connect.errors import LLMConfigurationError
from llm_connect.types.amounts import NOTHING
from tests.budget.budget_helpers import at_rest, refused, run_all


def test_what_a_child_spends_and_holds_counts_above() -> None:
    """A hold counts on its tracker and on all trackers above, and so does its final amount (BUDGET-4)."""
    root = BudgetTracker(100)
    child = root.child("a", 50)
    grandchild = child.child("b", 20)
    with grandchild.reserve(20) as hold:
        assert [tracker.held for tracker in (root, child, grandchild)] == [20, 20, 20]
        assert (root.remaining(), child.remaining(), grandchild.remaining()) == (80, 30, 0)
        hold.settle(15)
    assert [tracker.spent for tracker in (root, child, grandchild)] == [15, 15, 15]
    assert grandchild.path == "budget/a/b"
    at_rest(root)


def test_the_least_on_the_path_is_what_remains() -> None:
    """A child cannot have more than the remainder of its parent (BUDGET-1)."""
    root = BudgetTracker(100)
    child = root.child("a", 1_000)
    root.consume(70)
    assert child.remaining() == 30
    error = refused(lambda: child.consume(31))
    assert (error.path, error.total, error.spent) == ("budget", 100, 70)
    assert refused(lambda: root.child("b", 5).consume(6)).path == "budget/b"


def test_ceilings_nest_to_any_depth() -> None:
    """A hundred levels down, every ceiling on the way holds (BUDGET-1)."""
    trackers = [BudgetTracker(1_000)]
    for level in range(100):
        trackers.append(trackers[-1].child(f"l{level}", 1_000 - level))
    trackers[-1].consume(901)
    refused(lambda: trackers[-1].consume(1))
    trackers[50].consume(50)
    assert (trackers[0].spent, trackers[50].spent, trackers[51].spent) == (951, 951, 901)
    at_rest(trackers[0])


def test_a_tracker_has_its_name() -> None:
    """A tracker has its name beside its path; joined children of two names are two trackers."""
    root = BudgetTracker(100, name="team")
    one, two = root.child("a", 10, join=True), root.child("b", 10, join=True)
    assert (root.name, one.name, two.name) == ("team", "a", "b")
    assert one is not two


def test_each_call_makes_a_new_ceiling() -> None:
    """Two children of the same name have separate limits."""
    root = BudgetTracker(100)
    root.child("a", 10).consume(10)
    root.child("a", 10).consume(10)
    assert root.spent == 20


def test_joined_children_are_one_ceiling() -> None:
    """With `join=True` all callers share the child of that name, even if no caller kept a reference in between
    (BUDGET-1).
    """
    root = BudgetTracker(1_000)
    root.child("a", 10, join=True).consume(8)
    gc.collect()
    refused(lambda: root.child("a", 10, join=True).consume(8))
    assert root.child("a", join=True) is root.child("a", 99, join=True)
    assert root.child("a", join=True).total == 10
    assert root.child("a") is not root.child("a", join=True)


def test_a_closed_child_is_not_joined() -> None:
    """After the joined child was closed, the next callers join a new one together."""
    root = BudgetTracker(1_000)
    first = root.child("a", 10, join=True)
    first.close()
    second = root.child("a", 10, join=True)
    assert second is not first
    assert root.child("a", join=True) is second


def test_leaving_a_joined_child_does_not_close_it() -> None:
    """Other callers use the child: it admits calls as before, and the next to join finds its spend (BUDGET-65)."""
    root = BudgetTracker(1_000)
    used_elsewhere = root.child("user-1", 100, join=True)
    for number in range(2):
        with root.child("user-1", 100, join=True) as child:
            child.consume(30)
        assert child is used_elsewhere
        assert (child.closed, child.snapshot().spent.tokens) == (False, 30 * (number + 1))
    assert refused(lambda: used_elsewhere.consume(41)).path == "budget/user-1"
    used_elsewhere.consume(40)
    with root.child("other", 10) as own:
        pass
    assert own.closed


async def test_leaving_a_joined_child_in_a_coroutine() -> None:
    """The async form of the block does not close the child either (BUDGET-65)."""
    root = BudgetTracker(1_000)
    async with root.child("user-1", 100, join=True) as child:
        child.consume(30)
    assert root.child("user-1", join=True) is child
    assert (await child.asnapshot()).spent.tokens == 30


def test_those_who_join_at_once_join_one() -> None:
    """Threads that join at the same moment get the same child (BUDGET-1)."""
    for _ in range(20):
        root = BudgetTracker(1_000)
        joined = run_all(lambda root=root: root.child("a", 10, join=True) for _ in range(8))  # type: ignore[misc]
        assert len(set(map(id, joined))) == 1


def test_a_closed_child_admits_nothing_and_books_what_is_open() -> None:
    """The open holds, records and corrections of a closed child count on it and on the trackers above (BUDGET-4)."""
    root = BudgetTracker(100)
    with root.child("a", 50) as child:
        below = child.child("b")
        hold, unknown = child.reserve(20), below.reserve(10)
    assert (child.closed, below.closed, root.closed) == (True, True, False)
    for tracker in (child, below):
        assert refused(lambda tracker=tracker: tracker.reserve(1)).reason == "closed"  # type: ignore[misc]
    unknown.dispatch()
    hold.settle(15)
    unknown.end_unsettled()
    assert unknown.entry is not None
    root.correct(unknown.entry.id, 4)
    below.record(1)
    assert [tracker.spent for tracker in (root, child, below)] == [20, 20, 5]
    assert root.snapshot().presumed == NOTHING
    at_rest(root)


async def test_siblings_run_concurrently_within_their_ceilings() -> None:
    """Siblings in one gather spend up to their own limits, and together up to the parent's (BUDGET-1, BUDGET-2)."""
    root = BudgetTracker(9_000)
    children = [root.child(name, 4_000) for name in "abc"]

    async def call(tracker: BudgetTracker) -> Any:
        with await tracker.areserve(100, max_wait_seconds=10) as hold:
            hold.dispatch()
            await asyncio.sleep(0)
            hold.settle(100)

    calls = [call(child) for _ in range(60) for child in children]
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert sum(result is None for result in results) == 90
    assert root.spent == 9_000
    assert max(child.spent for child in children) <= 4_000
    at_rest(root)


def test_a_child_needs_a_name_and_valid_limits() -> None:
    """Invalid values are refused, for a joined child as well."""
    root = BudgetTracker(100)
    root.child("a", join=True)
    for make in (lambda: root.child(""), lambda: root.child("a", 0), lambda: root.child("a", -5, join=True)):
        with pytest.raises(LLMConfigurationError):
            make()


def test_a_name_that_an_open_child_has_gets_a_number(caplog: pytest.LogCaptureFixture) -> None:
    """A new child gets a number after its name while an open child has that name; the log says so once, and closing
    frees the name. (BUDGET-69)
    """
    root = BudgetTracker(500)
    for _ in range(3):
        root.child("user-1", 100).record(80)
    kept = root.child("user-1")
    assert (kept.name, kept.path) == ("user-1#4", "budget/user-1#4")
    assert [entry.tracker for entry in root.ledger] == ["budget/user-1", "budget/user-1#2", "budget/user-1#3"]
    warnings = [record.getMessage() for record in caplog.records if "join=True" in record.getMessage()]
    assert len(warnings) == 1
    for _ in range(3):
        with root.child("step") as step, step.child("user-1") as below:
            assert (step.path, below.path) == ("budget/step", "budget/step/user-1")
    kept.close()
    assert root.child("user-1").path == "budget/user-1#4"


def test_names_of_children_that_nobody_closes_do_not_pile_up() -> None:
    """The tracker remembers only the last thousand names. (BUDGET-69)"""
    root = BudgetTracker()
    names = [root.child(f"user-{number}").name for number in range(1_001)]
    assert names == [f"user-{number}" for number in range(1_001)]
    assert root.child("user-0").name == "user-0"
    assert root.child("user-1000").name == "user-1000#2"


def test_leaving_a_block_of_a_joined_child_does_not_close_it() -> None:
    """Other callers go on, and the next to join finds the spend; `close` ends the child. (BUDGET-69)"""
    root = BudgetTracker(500)
    with root.child("user-1", 100, join=True) as first:
        first.consume(80)
        with root.child("user-1", 100, join=True) as again:
            assert again is first
        first.consume(5)
    assert not first.closed
    assert refused(lambda: root.child("user-1", 100, join=True).consume(20)).missing == 5
    assert root.child("user-1").path == "budget/user-1#2"
    first.close()
    assert root.child("user-1", 100, join=True).spent == 0


async def test_leaving_an_async_block_of_a_joined_child_does_not_close_it() -> None:
    """The async block does not close it either. (BUDGET-69)"""
    root = BudgetTracker(500)
    child = root.child("user-1", 100, join=True)
    async with child:
        (await child.areserve(10)).settle(10)
    assert (child.closed, child.spent) == (False, 10)

"""The cost of a step: it reads only the trackers of its path, however many the budget has."""

from __future__ import annotations

import contextvars
import gc
import math
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import llm_connect
from llm_connect.budget.tracker import BudgetTracker
from llm_connect.errors import LLMBudgetExceededError
from llm_connect.stores.opening import open_budget
from llm_connect.stores.sqlite.session import FileSession
from tests.budget.budget_helpers import at_rest, in_thread, until, waits
from tests.budget.stores import new_url
from tests.stores.looking import alone, end_leases, second, session_of

FEW, MANY = 5, 40
_HOME = llm_connect.__path__[0]
#: The number of times that a step is counted.
TIMES = 3


@pytest.fixture
def redis_url(folder: Path) -> str:
    """The URL of a database without budgets."""
    return new_url("redis", folder)


def family(url: str, size: int, **details: Any) -> tuple[BudgetTracker, list[BudgetTracker], list[BudgetTracker]]:
    """A budget with `size` children, and the same children in another process, which has spent on each."""
    budget = open_budget(url, name=f"of {size}", total=1_000_000)
    children = [budget.child(f"child {number}", 1_000, **details) for number in range(size)]
    for child in children:
        child.consume(1)
    other = session_of(second(budget))
    theirs = [other.tracker(child.number) for child in children]
    for child in theirs:
        child.consume(1)
    return budget, children, theirs


def call(child: BudgetTracker) -> None:
    """Do all three steps of a call, and read the figures."""
    with contextvars.Context().run(child.reserve, 10) as hold:
        hold.dispatch()
        hold.settle(5)
    child.snapshot()


def refused(child: BudgetTracker) -> None:
    """Make a call that does not fit."""
    with pytest.raises(LLMBudgetExceededError):
        child.reserve(5_000)


def closed(child: BudgetTracker) -> None:
    """Close a child."""
    child.close()


def allotted(child: BudgetTracker) -> None:
    """Open and close an allotment."""
    with child.allot("allotment", 20) as part:
        part.consume(3)


@contextmanager
def counting(budget: BudgetTracker) -> Iterator[list[int]]:
    """Count the library's function calls of this thread in the block, and the work of the store."""
    session, found, calls = session_of(budget), list[int](), 0

    def called(frame: Any, event: str, argument: Any) -> None:
        nonlocal calls
        calls += event == "call" and frame.f_code.co_filename.startswith(_HOME)

    if isinstance(session, FileSession):
        # Once a second a step also looks for ended leases.
        session.leases._next_look = math.inf
        worked = instructions(session)
    else:
        worked = commands(session)
    gc.collect()
    gc.disable()
    sys.setprofile(called)
    try:
        yield found
    finally:
        sys.setprofile(None)
        gc.enable()
    found += [calls, worked()]


def instructions(session: FileSession) -> Callable[[], int]:
    """Count the instructions that SQLite runs from now on."""
    number = 0

    def run() -> None:
        nonlocal number
        number += 1

    def stop() -> int:
        session.connection.set_progress_handler(None, 0)
        return number

    session.connection.set_progress_handler(run, 1)
    return stop


def commands(session: Any) -> Callable[[], int]:
    """Count the commands that the server executes from now on, including those of scripts."""
    with alone(session):
        session.server.call("CONFIG", "RESETSTAT")

    def stop() -> int:
        with alone(session):
            stats = session.server.call("INFO", "commandstats").decode()
        return sum(map(int, re.findall(r"calls=(\d+)", stats)))

    return stop


@pytest.mark.parametrize("details", [{}, {"period": "day"}], ids=["for good", "a day"])
@pytest.mark.parametrize("step", [call, refused, closed, allotted])
def test_a_step_costs_the_same_in_a_large_budget(url: str, step: Callable[[BudgetTracker], None], details: Any) -> None:
    """A step reads the trackers of its path, and no others that have changed meanwhile (STORE-33)."""
    costs = []
    for size in (FEW, MANY):
        budget, children, theirs = family(url, size, **details)
        found = []
        for child in children[:TIMES]:
            call(children[-1])
            for other in theirs:
                other.record(1)
            with counting(budget) as cost:
                step(child)
            found.append(cost)
        # Now and then, a step also renews a lease or looks for ended ones.
        costs.append([min(of_each) for of_each in zip(*found, strict=True)])
        at_rest(budget)
        session_of(theirs[0]).shut()
    few, many = costs
    assert [large <= 1.05 * small for large, small in zip(many, few, strict=True)] == [True, True], costs


def test_what_a_step_has_not_read_is_read_before_it_is_used(url: str) -> None:
    """A process reads the figures of a path when it uses it, however old its last copy is (STORE-33)."""
    budget, children, theirs = family(url, 3)
    theirs[2].consume(900)
    call(children[0])
    with pytest.raises(LLMBudgetExceededError) as caught:
        children[2].reserve(200)
    assert caught.value.spent == 902
    children[2].record(1)
    assert children[2].snapshot().spent.tokens == theirs[2].snapshot().spent.tokens == 903
    assert budget.snapshot().spent.tokens == 2 * 3 + 900 + 5 + 1
    at_rest(budget)
    session_of(theirs[0]).shut()


def test_a_lost_hold_of_another_path_is_ended_in_any_step(url: str) -> None:
    """A pending note about a tracker that others have changed is booked on its present figures (STORE-33)."""
    budget, children, theirs = family(url, 3)
    hold = contextvars.Context().run(children[2].reserve, 100)
    hold.dispatch()
    theirs[2].consume(50)
    del hold
    gc.collect()
    call(children[0])
    assert theirs[2].snapshot().spent.tokens == 152
    assert budget.snapshot().spent.tokens == 2 * 3 + 50 + 100 + 5
    at_rest(budget)
    session_of(theirs[0]).shut()


def test_two_changes_of_another_path_in_one_step_both_count(url: str) -> None:
    """A step does not read the trackers again that it has changed, so it writes all changes (STORE-33)."""
    budget, children, theirs = family(url, 3)
    presumed = contextvars.Context().run(children[2].reserve, 10)
    presumed.dispatch()
    presumed.presume()
    lost = contextvars.Context().run(children[2].reserve, 100)
    lost.dispatch()
    theirs[2].consume(50)
    with alone(session_of(budget)):
        del lost
        gc.collect()
        budget.correct(presumed.entry_id, 4)
    assert theirs[2].snapshot().spent.tokens == children[2].snapshot().spent.tokens == 2 + 4 + 100 + 50
    at_rest(budget)
    session_of(theirs[0]).shut()


def test_a_child_that_another_process_has_closed_is_not_joined(url: str) -> None:
    """A process that joins by the name of a child closed elsewhere gets an open one (STORE-33)."""
    budget = open_budget(url, total=100)
    shared = budget.child("shared", 50, join=True)
    shared.consume(1)
    other = session_of(second(budget))
    other.tracker(shared.number).close()
    call(budget.child("another", 50))
    assert budget.child("shared", 50, join=True) is not shared
    at_rest(budget)
    other.shut()


def test_who_waits_on_another_path_is_let_in_by_the_figures_of_now(url: str) -> None:
    """A step reads the trackers of waiting callers as well as its own (STORE-33)."""
    budget, children, theirs = family(url, 3)
    blocker = contextvars.Context().run(theirs[2].reserve, 990)
    waiting = in_thread(lambda: contextvars.Context().run(children[2].reserve, 100, max_wait_seconds=60))
    waits(children[2], 1)
    blocker.release()
    call(children[0])
    waiting.result(20).release()
    at_rest(budget)
    session_of(theirs[0]).shut()


def test_the_holds_of_a_lost_process_end_on_paths_that_nobody_else_uses(url: str) -> None:
    """The process that ends a lease first reads the trackers of its holds and allotments (STORE-4, STORE-33)."""
    budget, children, theirs = family(url, 3)
    lost = [contextvars.Context().run(child.reserve, 10) for child in theirs]
    for hold in lost:
        hold.dispatch()
    part = theirs[1].allot("allotment", 20)
    contextvars.Context().run(part.__enter__)
    children[1].snapshot()
    assert children[1].allotted == 20
    session_of(theirs[0]).worker.stop(10)
    end_leases(budget)
    call(children[0])
    until(lambda: budget.snapshot().held.tokens == 0)
    figures = [child.snapshot() for child in children]
    assert [(each.spent.tokens, each.allotted.tokens) for each in figures] == [(17, 0), (12, 0), (12, 0)]
    at_rest(budget)


def test_a_budget_of_a_version_without_a_list_of_allotments_gets_one(redis_url: str) -> None:
    """Allotments that an earlier version has opened are returned at the end of their lease (STORE-6)."""
    budget = open_budget(redis_url, total=100)
    session = session_of(budget)
    middle = budget.child("middle", 50)
    with middle.allot("allotment", 20):
        with alone(session):
            session.fetch("DEL", "allotments")
            session.fetch("HDEL", "meta", "allotments")
        other = session_of(second(budget))
        with alone(session):
            (path,) = session.fetch("HVALS", "allotments")
        lease = session.leases.own
        assert path.decode().split() == [lease.number, *(str(number) for number in _numbers(session, path))]
        other.tracker(middle.number).close()
        assert budget.snapshot().allotted.tokens == 0
    other.shut()
    at_rest(budget)


def _numbers(session: Any, path: bytes) -> list[int]:
    """The numbers from the only allotment up to the root."""
    (number, *_) = map(int, path.decode().split()[1:])
    return [above.number for above in session.tracker(number).lineage]

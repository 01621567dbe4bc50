"""Processes that lose their store keep the cap, with those that go on, and when they end or are killed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from llm_connect.stores.opening import open_budget
from tests.core.budget_helpers import PATIENCE, at_rest, until
from tests.stores.crew import LIMIT, SECONDS, bill, crew
from tests.stores.looking import gate_of
from tests.stores.losing import FOR_ALL, FOR_ONE, LEASE, Store, held_now, other_process
from tests.stores.spending import closed_with, consume_all, hold_of, spend, spend_all

pytestmark = pytest.mark.usefixtures("quiet")


@pytest.fixture(params=FOR_ONE)
def apart(request: pytest.FixtureRequest, folder: Path) -> Iterator[Store]:
    """A store that one process loses, while others go on."""
    found = FOR_ONE[request.param](folder)
    yield found
    found.stop()


@pytest.fixture(params=FOR_ALL)
def shared(request: pytest.FixtureRequest, folder: Path) -> Iterator[Store]:
    """A store that all processes lose."""
    found = FOR_ALL[request.param](folder)
    yield found
    found.stop()


@pytest.mark.parametrize("used", [100, 60, 0])
def test_the_cap_holds_over_those_that_go_on(apart: Store, used: int) -> None:
    """The lease is over in the outage, and others spend all that is left: together it is the cap (STORE-16)."""
    budget = apart.open()
    hold = hold_of(budget, 50)
    hold.dispatch()
    apart.lose(budget)
    other = other_process(apart, budget)
    if used:
        spend_all(budget, 1) if used == 100 else spend(budget, used)
    taken = consume_all(other, 1)
    assert taken == 1_000 - 100 - 50
    until(lambda: other.snapshot().presumed.tokens == 150)
    assert consume_all(other, 1) == 0
    hold.settle(30)
    apart.find(budget)
    until(lambda: other.snapshot().spent.tokens == taken + 30 + used)
    assert consume_all(other, 1) == 1_000 - taken - 30 - used - held_now(other)
    gate_of(other).shut()
    budget.close()
    at_rest(budget)


def test_a_process_that_is_killed_in_an_outage(shared: Store) -> None:
    """What it has spent is not in the books, but what it was granted for that is: they are above the bill (STORE-3)."""
    watching = open_budget(shared.url, total=1_000, lease_seconds=LEASE)
    with crew(1, "keeper", shared.url, 0.1, LEASE, 60) as (process,):
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        shared.lose(watching)
        process.stdin.write("go\n")
        process.stdin.flush()
        assert process.stdout.readline() == "spent\n"
        process.kill()
        process.wait()
    shared.give()
    until(lambda: held_now(watching) == 0)
    snapshot = watching.snapshot()
    assert (snapshot.spent.tokens, snapshot.presumed.tokens) == (100, 100)
    at_rest(watching)


def test_a_process_that_ends_in_an_outage_writes_what_it_can(store: Store) -> None:
    """It tries once more; what is open then is presumed, as at any end (STORE-16)."""
    budget = store.open()
    store.lose(budget)
    spend(budget, 10)
    hold = hold_of(budget, 20)
    hold.dispatch()
    store.give()
    gate_of(budget).shut()
    assert gate_of(budget).shadow is None
    snapshot = budget.snapshot()
    assert (snapshot.spent.tokens, snapshot.presumed.tokens) == (30, 20)
    hold.settle(15)
    assert budget.snapshot().spent.tokens == 25
    closed_with(budget, 25)


@pytest.mark.timeout(60 + 4 * SECONDS)
def test_processes_go_through_outages_and_keep_the_cap(shared: Store, tmp_path: Path) -> None:
    """Lost and found again and again, and killed in the end: the bill is at or below the books, these below the cap.

    (STORE-2, STORE-3, STORE-16)
    """
    budget = open_budget(shared.url, total=LIMIT, lease_seconds=LEASE)
    end, through = time.monotonic() + 2 * SECONDS, 0
    with crew(3, "spender", shared.url, str(tmp_path), LEASE, 0.05) as processes:
        until(lambda: len(list(tmp_path.iterdir())) == 3)
        # More is presumed than billed, and each keeps an allowance: of a budget that is used up, about 60 % is billed.
        while time.monotonic() < end or not (through or bill(tmp_path) > 0.55 * LIMIT):
            assert time.monotonic() < end + PATIENCE
            time.sleep(0.5)
            shared.lose(budget)
            before = bill(tmp_path)
            time.sleep(LEASE / 6 + 0.5)
            through += bill(tmp_path) > before
            shared.give()
        for process in processes:
            assert process.poll() is None
            process.kill()
    until(lambda: held_now(budget) == 0)
    print(f"limit {LIMIT}, books {budget.spent}, bill {bill(tmp_path)}")
    assert 0 < bill(tmp_path) <= budget.spent <= LIMIT
    at_rest(budget)

"""While the store is lost, calls go on from the slice that was granted before, and never beyond it."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from llm_connect.core.budget import BudgetTracker
from llm_connect.core.exceptions import LLMBudgetExceededError, LLMStoreError
from llm_connect.core.mock import MockLLMAdapter
from llm_connect.core.models import RunConfig
from tests.core.budget_helpers import in_thread, outcomes, until
from tests.stores.looking import gate_of
from tests.stores.losing import Store, held_now
from tests.stores.spending import closed_with, hold_of, spend, spend_all, until_refused

pytestmark = pytest.mark.usefixtures("quiet")


def test_calls_go_on_up_to_the_slice_and_never_beyond(store: Store) -> None:
    """One token less than the slice fits, one more does not; afterwards the store has it all (STORE-16)."""
    budget = store.open()
    spend(budget, 40, 30)
    store.lose(budget)
    assert spend_all(budget, 7, 6) == 16 * 6
    with pytest.raises(LLMStoreError, match=r"cannot be used.* 4 tokens of 100 tokens are left.* up to 5 tokens") as e:
        budget.reserve(5)
    assert (e.value.store, e.value.maybe_billed) == (store.url, False)
    assert spend_all(budget, 1) == 4
    assert (budget.spent, budget.held) == (30, 100)
    store.find(budget)
    assert budget.snapshot().spent.tokens == 130
    assert outcomes(budget).count("settled") == 1 + 16 + 4
    closed_with(budget, 130)


def test_an_outage_costs_its_first_call_alone_some_patience(store: Store) -> None:
    """From then on nobody waits for the store, until it is there (STORE-16)."""
    budget = store.open()
    store.lose(budget)
    spend(budget, 1)
    began = time.monotonic()
    for _ in range(50):
        spend(budget, 1)
    assert time.monotonic() - began < 0.2
    with pytest.raises(LLMStoreError, match="cannot be used"):
        budget.snapshot()
    store.find(budget)
    closed_with(budget, 51)


def test_threads_together_are_granted_exactly_the_slice(store: Store) -> None:
    """However many ask at once, those that find out that the store is lost among them (STORE-16)."""
    budget = store.open()
    store.lose(budget)
    granted: list[int] = []

    def ask() -> None:
        while True:
            try:
                granted.append(spend(budget, 3))
            except LLMStoreError:
                return

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sum(granted) == 99
    store.find(budget)
    closed_with(budget, 99)


async def test_tasks_together_are_granted_exactly_the_slice(store: Store) -> None:
    """And the event loop goes on meanwhile (STORE-16, STORE-5)."""
    budget = await asyncio.to_thread(store.open)
    store.lose(budget)
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.005)
            ticks += 1

    async def ask() -> int:
        try:
            with await budget.areserve(3) as hold:
                await hold.adispatch()
                hold.settle(3)
                await hold.abooked()
        except LLMStoreError:
            return 0
        return 3

    ticking, began = asyncio.create_task(tick()), time.monotonic()
    assert sum(await asyncio.gather(*(ask() for _ in range(60)))) == 99
    ticking.cancel()
    assert ticks + 2 > 10 * (time.monotonic() - began)
    await asyncio.to_thread(store.find, budget)
    await asyncio.to_thread(closed_with, budget, 99)


def test_the_bill_is_what_is_booked(store: Store) -> None:
    """Adapters call through an outage; what they were answered is in the books, with their names (STORE-16)."""
    budget = store.open(total=2_000)
    adapter = MockLLMAdapter("x", prompt_tokens=5, completion_tokens=4)
    config = RunConfig(budget_tracker=budget, max_tokens=10, labels={"job": "night"})
    adapter.execute_prompt("hello", config)
    store.lose(budget)
    for _ in range(5):
        adapter.execute_prompt("hello", config)
    store.find(budget)
    adapter.execute_prompt("hello", config)
    assert len(adapter.calls) == 7
    assert budget.ledger.totals("label")["job=night"].amount.tokens == 7 * 9
    assert budget.ledger.totals("model")["mock"].amount.calls == 7
    closed_with(budget, 7 * 9)


def test_who_waits_when_the_store_is_lost_gets_what_is_free_in_the_slice(store: Store) -> None:
    """And who waits for the slice goes on waiting in the store, when that is there (STORE-16)."""
    budget = store.open(total=1_000)
    store.lose(budget)
    first = hold_of(budget, 80)
    waiting = in_thread(lambda: budget.reserve(60, max_wait_seconds=20))
    never = in_thread(lambda: budget.reserve(600, max_wait_seconds=20))
    assert isinstance(never.exception(20), LLMStoreError)
    until(lambda: gate_of(budget).shadow._line.busy)
    store.find(budget)
    # Nothing in the slice has ended; it fits in the store.
    assert waiting.result(20).state == "reserved"
    waiting.result().release()
    first.release()
    closed_with(budget, 0)


def test_who_waits_in_the_store_waits_for_the_slice_from_then_on(store: Store) -> None:
    """The store's line is handed over as soon as it is lost (STORE-16)."""
    budget = store.open(total=1_000)
    full = hold_of(budget, 900)
    waiting = in_thread(lambda: budget.reserve(150, max_wait_seconds=20))
    until(lambda: budget.snapshot().waiting == 1)
    assert budget.snapshot().held.tokens == 900, "nothing is kept while somebody waits"
    store.lose(budget)
    with pytest.raises(LLMStoreError, match="0 tokens of 0 tokens"):
        budget.reserve(1)
    assert isinstance(waiting.exception(20), LLMStoreError)
    store.find(budget)
    full.release()
    closed_with(budget, 0)


def test_children_keep_their_limits_in_an_outage(store: Store) -> None:
    """A child that only this process knows goes on from where it was, one that is new begins (STORE-16)."""
    budget = store.open(total=10_000)
    known = budget.child("known", 200)
    spend(known, 50, 40)
    before = hold_of(known, 30)
    before.dispatch()
    withdrawn = hold_of(known, 60)
    store.lose(budget)
    assert not withdrawn.try_dispatch()
    before.settle(20)
    new = known.child("new", 70)
    found = spend_all_of(new, 10)
    assert found == 70
    assert spend_all_of(known, 1) == 200 - 40 - 20 - 70
    store.find(budget)
    assert (known.snapshot().spent.tokens, new.snapshot().spent.tokens) == (200, 70)
    closed_with(budget, 200)


def spend_all_of(child: BudgetTracker, bound: int) -> int:
    """Spend until the child's own limit refuses, which is not the store's fault."""
    spent, refusal = until_refused(LLMBudgetExceededError, lambda: spend(child, bound))
    assert refusal.path == child.path
    return spent


def test_a_child_that_others_know_has_a_slice_of_its_own(store: Store) -> None:
    """Others may use it meanwhile: it goes on from what was held of it, and not from what it had left (STORE-16)."""
    budget = store.open(total=10_000)
    team = budget.child("team", 500, join=True)
    spend(team, 20)
    until(lambda: held_now(team) == 50)
    assert budget.held == 1_050
    store.lose(budget)
    assert spend_all(team, 1) == 50
    assert spend_all(budget, 10) == 1_000
    store.find(budget)
    assert team.snapshot().spent.tokens == 70
    closed_with(budget, 1_070)


def test_a_closed_child_is_closed_in_an_outage(store: Store) -> None:
    """And so is one that is closed meanwhile, for those that wait on it, too (STORE-16)."""
    budget = store.open()
    closed, closing = budget.child("closed"), budget.child("closing", 90)
    spend(closed, 5)
    closed.close()
    store.lose(budget)
    hold = hold_of(closing, 80)
    hold.dispatch()
    waiting = in_thread(lambda: closing.reserve(20, max_wait_seconds=20))
    until(lambda: gate_of(budget).shadow._line.busy)
    closing.close()
    refusal = waiting.exception(20)
    assert isinstance(refusal, LLMBudgetExceededError)
    assert refusal.reason == "closed"
    for child in (closed, closing):
        with pytest.raises(LLMBudgetExceededError, match="closed"):
            child.reserve(1)
    store.find(budget)
    hold.settle(70)
    assert closing.snapshot().spent.tokens == 70
    closed_with(budget, 75)


def test_an_overrun_in_an_outage_is_booked_in_full(store: Store) -> None:
    """More than the slice has been spent then, and nothing is sent until the store is there (STORE-16)."""
    budget = store.open()
    store.lose(budget)
    assert spend(budget, 20, 120) == 120
    with pytest.raises(LLMStoreError):
        budget.reserve(1)
    store.find(budget)
    spend(budget, 5)
    closed_with(budget, 125)


def test_outages_that_follow_each_other(store: Store) -> None:
    """Each has what was kept for it, which is a whole slice again after the last one (STORE-16)."""
    budget = store.open()
    spent = 0
    for _ in range(2):
        store.lose(budget)
        spent += spend_all(budget, 9)
        store.find(budget)
        until(lambda: held_now(budget) == 100)
    assert spent == 2 * 99
    closed_with(budget, spent)

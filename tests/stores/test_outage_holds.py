"""What becomes of holds in an outage: those from before it, and those that are made while the store is lost."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from llm_connect.core.exceptions import LLMStoreError
from llm_connect.core.mock import MockLLMAdapter
from llm_connect.core.models import RunConfig
from llm_connect.core.units import NOTHING
from tests.core.budget_helpers import auntil, until
from tests.stores.looking import gate_of
from tests.stores.losing import Store
from tests.stores.spending import closed_with, hold_of, spend

pytestmark = pytest.mark.usefixtures("quiet")


def test_what_was_reserved_before_is_not_sent_in_an_outage(store: Store) -> None:
    """It may be lost: it is given back, and reserved anew, which comes from the slice (STORE-16)."""
    budget = store.open()
    hold, tried = hold_of(budget, 50), hold_of(budget, 60)
    store.lose(budget)
    assert not tried.try_dispatch()
    with pytest.raises(LLMStoreError, match="cannot be used") as caught:
        hold.dispatch()
    assert caught.value.store == store.url
    assert spend(budget, 50) == 50
    store.find(budget)
    assert not tried.try_dispatch()
    until(lambda: budget.snapshot().held.tokens <= 100)
    closed_with(budget, 50)


def test_what_was_dispatched_before_is_settled_afterwards(store: Store) -> None:
    """It is the existing path: what it came to is written when the store is there (STORE-10, STORE-16)."""
    budget = store.open()
    hold = hold_of(budget, 50)
    hold.dispatch()
    store.lose(budget)
    spend(budget, 10)
    hold.settle(44)
    store.find(budget)
    until(lambda: budget.snapshot().spent.tokens == 54)
    closed_with(budget, 54)


def test_a_hold_of_an_outage_goes_on_in_the_store(store: Store) -> None:
    """Reserved, dispatched and ended it may be at any time: while the store is lost, and afterwards (STORE-17)."""
    budget = store.open()
    store.lose(budget)
    reserved, dispatched, ended = (hold_of(budget, 10, model=f"m{n}") for n in range(3))
    dispatched.dispatch()
    ended.dispatch()
    ended.settle(9)
    assert reserved.tracker == budget
    assert (reserved.tracker.path, ended.entry.model, ended.entry.amount.tokens) == ("budget", "m2", 9)
    store.find(budget)
    assert budget.snapshot().spent.tokens == 9
    assert reserved.tracker is budget
    assert (reserved.state, dispatched.state) == ("reserved", "dispatched")
    reserved.dispatch()
    dispatched.settle(8)
    reserved.settle(7)
    assert [entry.model for entry in budget.ledger if entry.outcome == "settled"] == ["m2", "m1", "m0"]
    assert [ended.entry_id, dispatched.entry_id] == [e.id for e in budget.ledger if e.model in ("m2", "m1")]
    closed_with(budget, 24)


def test_what_was_presumed_in_an_outage_can_be_corrected(store: Store) -> None:
    """By the id that it had then, and by the one that it has in the store (STORE-17)."""
    budget = store.open()
    store.lose(budget)
    ids = []
    for _ in range(2):
        with hold_of(budget, 10) as hold:
            hold.dispatch()
        ids.append((hold.entry_id, hold))
    with pytest.raises(LLMStoreError):
        budget.correct(ids[0][0], tokens=1)
    store.find(budget)
    assert budget.snapshot().presumed.tokens == 20
    budget.correct(ids[0][0], tokens=3)
    assert ids[1][1].entry_id > 0 > ids[1][0]
    budget.correct(ids[1][1].entry_id, tokens=4)
    assert budget.snapshot().presumed == NOTHING
    closed_with(budget, 7)


async def test_a_cancelled_call_leaves_nothing_held(store: Store) -> None:
    """Cancelled while it waits, or while it runs: what was sent is presumed (STORE-16, STORE-17)."""
    budget = await asyncio.to_thread(store.open)
    store.lose(budget)
    slow = MockLLMAdapter("x", prompt_tokens=5, completion_tokens=5, delay_seconds=60)
    config = RunConfig(budget_tracker=budget, max_tokens=10)
    running = asyncio.create_task(slow.async_execute_prompt("hello", config))
    await auntil(lambda: bool(slow.calls))
    (kept,) = {each.bound.tokens for each in gate_of(budget).shadow.changes.holds if not each.ended}
    waiting = asyncio.create_task(budget.areserve(101 - kept, max_wait_seconds=60))
    await auntil(lambda: gate_of(budget).shadow._line.busy)
    for task in (waiting, running):
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert await budget.areserve(100 - kept)
    await asyncio.to_thread(store.find, budget)
    snapshot = await budget.asnapshot()
    assert snapshot.presumed.tokens == kept
    await asyncio.to_thread(closed_with, budget, kept)


class Twice(MockLLMAdapter):
    """A metered call that reaches another metered one, whose hold takes the place of its own."""

    def execute_prompt(self, prompt: Any, config: Any = None) -> Any:
        self.before()
        return super().execute_prompt(prompt, config)

    def before(self) -> None:
        """Between the two."""


def test_a_hold_that_takes_the_place_of_another_does_so_in_an_outage(store: Store) -> None:
    """Both in the slice, or the outer one in the store and the inner one in the slice, or the reverse (STORE-16)."""
    budget = store.open()
    adapter = Twice("x", prompt_tokens=5, completion_tokens=5)
    config = RunConfig(budget_tracker=budget, max_tokens=40)
    adapter.before = lambda: store.lose(budget)  # type: ignore[method-assign]
    adapter.execute_prompt("hello", config)
    adapter.before = lambda: None  # type: ignore[method-assign]
    for _ in range(3):
        adapter.execute_prompt("hello", config)
    adapter.before = lambda: store.find(budget)  # type: ignore[method-assign]
    adapter.execute_prompt("hello", config)
    assert len(adapter.calls) == 5
    until(lambda: budget.snapshot().spent.tokens == 50)
    closed_with(budget, 50)

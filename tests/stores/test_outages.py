"""What a process does that goes on while its store is lost: from what it was granted before, and never beyond it."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llm_connect.core.budget import BudgetTracker
from llm_connect.core.exceptions import LLMBudgetExceededError, LLMStoreError
from llm_connect.core.mock import MockLLMAdapter
from llm_connect.core.models import RunConfig
from llm_connect.core.units import NOTHING
from tests.core.budget_helpers import at_rest, auntil, in_thread, outcomes, until
from tests.stores.looking import gate_of
from tests.stores.losing import FOR_ALL, FOR_ONE, Store, held_now


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """An outage is logged."""
    caplog.set_level(logging.CRITICAL, "llm_connect")


@pytest.fixture(params=[*FOR_ALL, *FOR_ONE])
def store(request: pytest.FixtureRequest, folder: Path) -> Iterator[Store]:
    """A store that can be lost."""
    found = {**FOR_ALL, **FOR_ONE}[request.param](folder)
    yield found
    found.stop()


def hold_of(budget: BudgetTracker, tokens: int, **details: Any) -> Any:
    """A hold that is not the caller's own, so that others may wait for it."""
    return contextvars.Context().run(budget.reserve, tokens, **details)


def spend(budget: BudgetTracker, bound: int, used: int | None = None, **details: Any) -> int:
    with budget.reserve(bound, **details) as hold:
        hold.dispatch()
        hold.settle(bound if used is None else used)
    return bound if used is None else used


def spend_all(budget: BudgetTracker, bound: int, used: int | None = None, **details: Any) -> int:
    """Spend until the store refuses; what was spent."""
    spent = 0
    with pytest.raises(LLMStoreError):
        while True:
            spent += spend(budget, bound, used, **details)
    return spent


def closed_with(budget: BudgetTracker, spent: int) -> None:
    """The budget has spent so much, nothing is held once it is closed, and its entries add up."""
    budget.close()
    assert budget.snapshot().spent.tokens == spent
    at_rest(budget)


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
    spent = 0
    with pytest.raises(LLMBudgetExceededError) as caught:
        while True:
            spent += spend(child, bound)
    assert caught.value.path == child.path
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
    """Each has what was kept for it: nothing right after the last one, a whole slice a moment later (STORE-16)."""
    budget = store.open()
    spent = 0
    for _ in range(2):
        store.lose(budget)
        spent += spend_all(budget, 9)
        store.find(budget)
        until(lambda: held_now(budget) == 100)
    assert spent == 2 * 99
    closed_with(budget, spent)


def test_sinks_and_thresholds_hear_of_it_once(store: Store) -> None:
    """When it is written (STORE-17)."""
    entries: list[Any] = []
    told: list[int] = []
    budget = store.open(sink=entries.append)
    budget.on_threshold(0.05, lambda snapshot: told.append(snapshot.spent.tokens))
    store.lose(budget)
    began = time.time()
    spend(budget, 60, labels={"who": "me"})
    assert (entries, told) == ([], [])
    store.find(budget)
    until(lambda: bool(told))
    (entry,) = [entry for entry in entries if entry.outcome == "settled"]
    assert (entry.amount.tokens, entry.labels, told) == (60, {"who": "me"}, [60])
    assert began <= entry.reserved_at <= entry.ended_at <= time.time()
    closed_with(budget, 60)

"""What a process does that goes on while its store is lost: from what it was granted before, and never beyond it."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from llm_connect.core.budget import BudgetTracker
from llm_connect.core.exceptions import LLMBudgetExceededError, LLMStoreError
from llm_connect.core.mock import MockLLMAdapter
from llm_connect.core.models import RunConfig
from llm_connect.core.units import NOTHING
from llm_connect.stores.opening import open_budget, terms_of
from llm_connect.stores.redis.server import Doubt
from llm_connect.stores.slicing import SlicingGate
from tests.core.budget_helpers import PATIENCE, at_rest, auntil, in_thread, outcomes, refused, until
from tests.stores.crew import crew
from tests.stores.looking import gate_of
from tests.stores.losing import FOR_ALL, FOR_ONE, LEASE, Store, held_now
from tests.stores.test_processes import LIMIT, SECONDS, bill

E = TypeVar("E", bound=Exception)


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


@pytest.fixture
def lost(folder: Path) -> Iterator[Callable[[str], Store]]:
    """Makes a store that can be lost in the way that it is told."""
    made: list[Store] = []

    def make(kind: str) -> Store:
        made.append({**FOR_ALL, **FOR_ONE}[kind](folder))
        return made[-1]

    yield make
    for store in made:
        store.stop()


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
    return until_refused(LLMStoreError, lambda: spend(budget, bound, used, **details))[0]


def until_refused(kind: type[E], work: Callable[[], int]) -> tuple[int, E]:
    """The sum of what `work` comes to until it is refused, and the refusal."""
    total = 0
    while True:
        try:
            total += work()
        except kind as error:
            return total, error


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


def other_process(store: Store, budget: BudgetTracker) -> BudgetTracker:
    """The same budget as a process has it that does not lose the store, and keeps no allowance."""
    gate = terms_of(store.others, name=budget.name, prices={}).gate()
    return gate.tracker(gate.root)


def consume_all(budget: BudgetTracker, size: int) -> int:
    def consume() -> int:
        budget.consume(size)
        return size

    return until_refused(LLMBudgetExceededError, consume)[0]


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


def test_what_cannot_be_written_afterwards_is_tried_again(lost: Any) -> None:
    """The disk is full when the file is there again: calls go on from the slice until there is room (STORE-17)."""
    store = lost("busy file")
    budget = store.open()
    gate = gate_of(budget)
    store.lose(budget)
    labels = {"much": "x" * 20_000}
    spend(budget, 10, labels=labels)
    hold = hold_of(budget, 20, labels=labels)
    waiting = in_thread(lambda: budget.reserve(80, max_wait_seconds=30))
    until(lambda: gate.shadow._line.busy)
    with gate.lock.no_transaction():
        (pages,) = gate.connection.execute("PRAGMA page_count").fetchone()
        gate.connection.execute(f"PRAGMA max_page_count = {pages}")
    store.give()
    until(lambda: "full" in str(gate.outage.error))
    assert (hold.state, hold.tracker is budget) == ("reserved", False)
    hold.dispatch()
    with gate.lock.no_transaction():
        gate.connection.execute("PRAGMA max_page_count = 1000000")
    waiting.result(20).release()
    hold.settle(12)
    assert outcomes(budget).count("settled") == 2
    closed_with(budget, 22)


def test_a_step_that_has_to_be_decided_anew_writes_everything_once(lost: Any, monkeypatch: Any) -> None:
    """Another process changes what it was decided on, in that very moment (STORE-17)."""
    store = lost("stopped server")
    budget = store.open()
    other = other_process(store, budget)
    store.lose(budget)
    spend(budget, 10)
    hold = hold_of(budget, 20)
    hold.dispatch()
    adopt, done = SlicingGate._adopt, []

    def interfere(gate: SlicingGate, state: Any) -> None:
        if not done:
            done.append(other.child("new", 5, join=True))
            other.consume(3)
        adopt(gate, state)

    monkeypatch.setattr(SlicingGate, "_adopt", interfere)
    store.find(budget)
    assert done
    assert budget.snapshot().spent.tokens == 13
    hold.settle(15)
    gate_of(other).shut()
    closed_with(budget, 28)


def answer_lost(gate: Any, monkeypatch: Any, and_then: Any = lambda: None) -> None:
    """Let the next step be written, but its answer get lost."""
    send = gate.server.patiently

    def lose(command: Any) -> Any:
        monkeypatch.undo()
        send(command)
        and_then()
        raise Doubt.of(gate.terms.url, OSError("it hung up"))

    monkeypatch.setattr(gate.server, "patiently", lose)


def test_an_allowance_that_may_be_gone_is_not_used(lost: Any, monkeypatch: Any) -> None:
    """The step that gave it back was written, but the process does not know: others may have it by now (STORE-16)."""
    store = lost("cut off server")
    budget = store.open()
    other = other_process(store, budget)
    gate = gate_of(budget)

    def give_back() -> None:
        gate.allowances.give_back()
        answer_lost(gate, monkeypatch, lambda: store.lose(budget))

    with pytest.raises(LLMStoreError):
        gate.in_one_step(give_back)
    with pytest.raises(LLMStoreError, match="0 tokens of 0 tokens"):
        budget.reserve(1)
    assert consume_all(other, 100) == 1_000
    store.find(budget)
    assert budget.snapshot().spent.tokens == 1_000
    gate_of(other).shut()
    closed_with(budget, 1_000)


def test_an_allowance_that_may_have_been_taken_is_ended(lost: Any, monkeypatch: Any) -> None:
    """The step that took it was written, but the process does not know: it is not presumed for good (STORE-16)."""
    store = lost("killed server")
    budget = open_budget(store.url, total=1_000, lease_seconds=LEASE, on_store_error="slice", slice_share=0.1)
    budget.close()
    budget = open_budget(store.url, lease_seconds=LEASE, on_store_error="slice", slice_share=0.1)
    until(lambda: held_now(budget) == 100)
    gate = gate_of(budget)
    gate.in_one_step(gate.allowances.give_back)
    gate.allowances._rests_until = 0.0

    def take() -> None:
        gate.allowances.tend()
        answer_lost(gate, monkeypatch)

    with pytest.raises(LLMStoreError):
        gate.in_one_step(take)
    until(lambda: not gate.outage.lost)
    until(lambda: held_now(budget) == 100)
    assert budget.snapshot().spent.tokens == 0
    closed_with(budget, 0)


@pytest.mark.parametrize("written", [True, False])
def test_an_answer_that_gets_lost_afterwards_does_not_count_twice(lost: Any, monkeypatch: Any, written: bool) -> None:
    """The step that writes what was spent in an outage is written, or is not; nobody knows (STORE-17)."""
    store = lost("stopped server")
    budget = store.open()
    gate = gate_of(budget)
    store.lose(budget)
    spend(budget, 10)
    presumed, settled, reserved = (hold_of(budget, 20) for _ in range(3))
    presumed.dispatch()
    presumed.presume()
    provisional = presumed.entry_id
    settled.dispatch()
    waiting = in_thread(lambda: budget.reserve(60, max_wait_seconds=30))
    until(lambda: gate.shadow._line.busy)
    send, adopt = gate.server.patiently, SlicingGate._adopt

    def lose_answer(command: Any) -> Any:
        monkeypatch.undo()
        if written:
            send(command)
        raise Doubt.of(gate.terms.url, OSError("it hung up"))

    def adopt_and_lose(gate: SlicingGate, state: Any) -> None:
        adopt(gate, state)
        monkeypatch.setattr(gate.server, "patiently", lose_answer)  # type: ignore[attr-defined]

    monkeypatch.setattr(SlicingGate, "_adopt", adopt_and_lose)
    store.find(budget)
    # Nothing is spent any more of what may have been given back.
    assert isinstance(waiting.exception(20), LLMStoreError)
    assert presumed.entry_id > 0
    settled.settle(15)
    assert refused(reserved.dispatch).reason == "lease_lost"
    until(lambda: budget.snapshot().spent.tokens == 45)
    budget.correct(provisional, tokens=5)
    closed_with(budget, 30)


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


def test_a_store_that_is_lost_again_while_it_is_written_to(lost: Any, monkeypatch: Any) -> None:
    """In the midst of a step: nothing of that step is written, and all of it by the next one (STORE-17)."""
    store = lost("cut off server")
    budget = store.open()
    gate = gate_of(budget)
    store.lose(budget)
    spend(budget, 10)
    hold = hold_of(budget, 20)
    hold.dispatch()
    # Its lease is over by then, so that it is asked for what has become of it.
    until(lambda: other_process(store, budget).snapshot().presumed.tokens == 100)
    left, cut = gate.leases._left, []

    def cut_and_ask(hold: Any) -> Any:
        if not cut:
            cut.append(hold)
            store.lose(budget)
        return left(hold)

    monkeypatch.setattr(gate.leases, "_left", cut_and_ask)
    store.give()
    until(lambda: bool(cut))
    spend(budget, 5)
    hold.settle(15)
    store.find(budget)
    until(lambda: held_now(budget) == 100)
    closed_with(budget, 30)

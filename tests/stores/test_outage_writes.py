"""What was spent in an outage is written once when the store is found again, whatever happens meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llm_connect.core.exceptions import LLMStoreError
from llm_connect.stores.opening import open_budget
from llm_connect.stores.redis.server import Doubt
from llm_connect.stores.slicing import SlicingGate
from tests.core.budget_helpers import in_thread, outcomes, refused, until
from tests.stores.looking import gate_of
from tests.stores.losing import FOR_ALL, FOR_ONE, LEASE, Store, held_now, other_process
from tests.stores.spending import closed_with, consume_all, hold_of, spend

pytestmark = pytest.mark.usefixtures("quiet")


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

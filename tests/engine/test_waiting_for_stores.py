"""What a call waits for: whatever a store writes, and with a budget in memory nothing of the kind."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from llm_connect import BudgetTracker, open_budget
from llm_connect._flows import adrive, drive
from llm_connect.budget.admission.acquire import Operation
from llm_connect.engine.concurrency_limit import TakeSlot
from llm_connect.engine.exchange import Send
from llm_connect.engine.flow import Call
from tests.budget.budget_helpers import at_rest
from tests.engine.test_call_budget import GOOD, Stub, config_of

IN_MEMORY = [TakeSlot, Send]
IN_A_STORE = [TakeSlot, Operation, Operation, Send, Operation]


def noted(flow: Any, kinds: list[type[Any]]) -> Any:
    """The same flow, whose steps are noted."""
    step = next(flow)
    while True:
        kinds.append(type(step))
        try:
            step = flow.send((yield step))
        except StopIteration as stop:
            return stop.value


def sync(flow: Any) -> None:
    drive(flow)


def in_a_loop(flow: Any) -> None:
    asyncio.run(adrive(flow))


@pytest.mark.parametrize("run", [sync, in_a_loop])
def test_only_a_store_is_waited_for(run: Any, tmp_path: Path) -> None:
    """By either driver; and the entry of a call is there when it has its answer."""
    for budget, expected in ((BudgetTracker(), IN_MEMORY), (open_budget(f"sqlite:///{tmp_path}/b.db"), IN_A_STORE)):
        kinds: list[type[Any]] = []
        run(noted(Call(Stub(GOOD), "hello", config_of(budget)).run(), kinds))
        assert kinds == expected
        assert [entry.outcome for entry in budget.ledger] == ["settled"]
        at_rest(budget)
        budget.close()


def test_a_loop_is_not_blocked_by_a_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every transaction of a call in a coroutine is made by another thread. (STORE-5)"""
    budget = open_budget(f"sqlite:///{tmp_path}/b.db")
    session, threads = budget.gate.session, []  # type: ignore[attr-defined]
    begin = session.begin
    monkeypatch.setattr(session, "begin", lambda *how: (threads.append(threading.current_thread()), begin(*how)))
    in_a_loop(Call(Stub(GOOD), "hello", config_of(budget)).run())
    assert len(threads) >= 3
    assert threading.main_thread() not in threads
    monkeypatch.undo()
    at_rest(budget)
    budget.close()

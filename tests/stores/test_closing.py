"""Closing a budget frees all resources that this process used for it."""

from __future__ import annotations

import gc
import os
import threading
from contextlib import suppress

import pytest

from llm_connect.interface.config import RunConfig
from llm_connect.stores import opening, worker
from llm_connect.stores.opening import aopen_budget, open_budget
from llm_connect.testing.mock import MockLLMAdapter
from tests.budget.budget_helpers import at_rest, auntil, until
from tests.leftovers import DESCRIPTORS
from tests.stores.looking import second, session_of


def left() -> set[object]:
    """The threads of stores, and the file descriptors of this process with their targets."""
    found: set[object] = {thread for thread in threading.enumerate() if thread.name.startswith("llm-connect")}
    for name in os.listdir(DESCRIPTORS):
        with suppress(FileNotFoundError):
            found.add((name, os.readlink(DESCRIPTORS / name)))
    return found


def test_a_hundred_budgets_leave_nothing(url: str) -> None:
    """However many budgets are opened and closed, no thread, descriptor or registry entry stays behind (STORE-23)."""
    open_budget(url, name="first", total=10).close()
    gc.collect()
    before, known = left(), len(worker._sessions)
    for number in range(100):
        budget = open_budget(url, name=f"budget {number % 5}", total=1_000_000)
        budget.consume(1)
        budget.close()
        assert not {each for each in left() - before if isinstance(each, threading.Thread)}
    assert left() <= before
    del budget
    gc.collect()
    assert len(worker._sessions) <= known
    assert len(opening._open) <= known + 1


async def test_a_hundred_budgets_of_a_coroutine_leave_nothing(url: str) -> None:
    """The worker frees its resources by itself, so no event loop waits for it (STORE-23)."""
    open_budget(url, name="first", total=10).close()
    gc.collect()
    before = left()
    adapter = MockLLMAdapter("x", prompt_tokens=1, completion_tokens=1)
    for number in range(20):
        budget = await aopen_budget(url, name=f"budget {number % 5}", total=1_000_000)
        await adapter.async_execute_prompt("hello", RunConfig(budget_tracker=budget, max_tokens=5))
        budget.close()
    await auntil(lambda: left() <= before)


def test_a_call_under_way_ends_after_its_budget_was_closed(url: str) -> None:
    """Its outcome is booked; then the thread and the connection end as well (STORE-23)."""
    before = left()
    budget = open_budget(url, total=100, lease_seconds=0.6)
    hold = budget.reserve(10)
    hold.dispatch()
    budget.close()
    hold.settle(4)
    until(lambda: left() <= before)
    again = open_budget(url)
    assert again.snapshot().spent.tokens == 4
    at_rest(again)


@pytest.mark.parametrize("closes", [1, 2])
def test_a_closed_budget_can_still_be_read(url: str, closes: int) -> None:
    """Reading a closed budget connects to the store again (STORE-23)."""
    budget = open_budget(url, total=100)
    budget.consume(7)
    for _ in range(closes):
        budget.close()
    assert budget.snapshot().spent.tokens == 7
    assert [entry.amount.tokens for entry in budget.ledger] == [7]
    at_rest(budget)


def test_a_closed_budget_sees_what_others_have_written_meanwhile(url: str) -> None:
    """A budget that is used again after it was closed overwrites no hold of another process (STORE-1)."""
    budget = open_budget(url, total=100)
    other = second(budget)
    budget.close()
    with other.reserve(60) as hold:
        budget.record(1)
        assert (other.snapshot().held.tokens, other.snapshot().spent.tokens) == (60, 1)
        hold.dispatch()
        hold.settle(60)
    assert other.snapshot().spent.tokens == 61
    at_rest(other)
    session_of(other).shut()

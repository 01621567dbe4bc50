"""Leases: the end of the holds of a process that has died or was stopped for a while."""

from __future__ import annotations

import contextvars
import json
import signal
import subprocess
from typing import Any

import pytest

from llm_connect.budget.tracker import BudgetTracker
from llm_connect.errors import LLMBudgetExceededError, LLMConfigurationError
from llm_connect.stores.opening import open_budget
from llm_connect.types.amounts import NOTHING
from tests.budget.budget_helpers import at_rest, outcomes, refused, until
from tests.stores.crew import crew
from tests.stores.looking import end_leases, second, session_of, stop, stored

LEASE = 0.6


def halted(process: subprocess.Popen[str], budget: BudgetTracker) -> None:
    """Stop a process that has a hold until another process has ended its lease."""
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    assert budget.snapshot().held.tokens == 40
    stop(process, budget)
    until(lambda: budget.snapshot().held.tokens == 0)


def woken(process: subprocess.Popen[str]) -> dict[str, Any]:
    process.send_signal(signal.SIGCONT)
    out, _ = process.communicate("go on\n", timeout=100)
    found: dict[str, Any] = json.loads(out)
    return found


def test_who_was_stopped_before_dispatch_sends_nothing(url: str) -> None:
    """A process that was stopped past its lease has lost its hold to others, and cannot dispatch it (STORE-4)."""
    budget = open_budget(url, total=100, lease_seconds=LEASE)
    with crew(1, "halter", url, LEASE, False) as (process,):
        halted(process, budget)
        assert outcomes(budget) == ["released"]
        mine = budget.reserve(100)
        found = woken(process)
    assert found["reason"] == "lease_lost"
    mine.release()
    # Its settle is booked all the same.
    assert budget.snapshot().spent.tokens == 25
    at_rest(budget)


def test_who_was_stopped_after_dispatch_is_presumed_and_corrects_late(url: str) -> None:
    """A dispatched hold counts as spent when its lease ends, and a late settle corrects it (STORE-4)."""
    budget = open_budget(url, total=100, lease_seconds=LEASE)
    with crew(1, "halter", url, LEASE, True) as (process,):
        halted(process, budget)
        assert outcomes(budget) == ["presumed"]
        assert (budget.spent, budget.snapshot().presumed.tokens) == (40, 40)
        found = woken(process)
    (presumed, corrected) = budget.ledger
    assert found["entry"] == presumed.id == corrected.corrects
    assert (corrected.outcome, budget.snapshot().spent.tokens, budget.snapshot().presumed) == ("corrected", 25, NOTHING)
    at_rest(budget)


def lost(budget: BudgetTracker, *, dispatched: bool = False, tokens: int = 40) -> Any:
    """A hold whose lease another process has ended."""
    hold = contextvars.Context().run(budget.reserve, tokens)
    if dispatched:
        hold.dispatch()
    end_leases(budget)
    other = second(budget)
    other.snapshot()
    session_of(other).shut()
    return hold


@pytest.mark.parametrize("dispatched", [False, True])
@pytest.mark.parametrize("end", ["settle", "release", "presume", "end_unsettled"])
def test_a_lost_hold_ends_as_it_would_have(url: str, dispatched: bool, end: str) -> None:
    """However late a lost hold ends, its usage is booked once (STORE-4)."""
    budget = open_budget(url, total=100)
    hold = lost(budget, dispatched=dispatched)
    assert budget.snapshot().held == NOTHING
    for _ in range(2):
        hold.settle(7) if end == "settle" else getattr(hold, end)()
    expected = {"settle": 7, "release": 0}.get(end, 40 if dispatched else 0)
    if end == "presume":
        expected = 40
    assert budget.snapshot().spent.tokens == expected
    at_rest(budget)


def test_a_lost_hold_that_is_forgotten_changes_nothing(url: str) -> None:
    """A lost hold that is garbage-collected keeps its outcome."""
    budget = open_budget(url, total=100)
    hold = lost(budget, dispatched=True)
    del hold
    assert budget.snapshot().spent.tokens == 40
    at_rest(budget)


def test_after_a_lost_lease_a_process_goes_on_with_a_new_one(url: str) -> None:
    """Only its earlier holds are lost, and it can reserve again (STORE-4)."""
    budget = open_budget(url, total=100)
    hold = lost(budget)
    assert not hold.try_dispatch()
    assert refused(hold.dispatch).reason == "lease_lost"
    assert "Reserve again" in str(refused(hold.dispatch))
    with budget.reserve(100) as again:
        again.dispatch()
        again.settle(60)
    hold.release()
    assert budget.snapshot().spent.tokens == 60
    at_rest(budget)


def test_a_lost_hold_is_not_the_hold_that_has_its_number_now(url: str) -> None:
    """SQLite reuses the id of a deleted row; a late end does not touch the hold that has it now (STORE-4)."""
    budget = open_budget(url, total=100)
    hold = lost(budget, dispatched=True)
    new = contextvars.Context().run(budget.reserve, 30)
    assert new.row == hold.row  # type: ignore[attr-defined]
    hold.settle(20)
    assert (budget.snapshot().held.tokens, budget.snapshot().spent.tokens) == (30, 20)
    new.release()
    at_rest(budget)


def test_one_whose_own_lease_is_over_ends_its_holds_itself(url: str) -> None:
    """A process learns from the clock that its lease has ended, without any other process (STORE-4)."""
    budget = open_budget(url, total=100)
    hold = contextvars.Context().run(budget.reserve, 40)
    lease = session_of(budget).leases.own
    assert lease is not None
    end_leases(budget)
    lease.expires_at = 0
    with pytest.raises(LLMBudgetExceededError) as caught:
        hold.dispatch()
    assert caught.value.reason == "lease_lost"
    assert budget.snapshot().held == NOTHING
    at_rest(budget)


def test_the_allotment_of_a_lost_process_is_returned(url: str) -> None:
    """The parent gets back the limits of the allotment, less its spend (STORE-4)."""
    budget = open_budget(url, total=100)
    other = second(budget)
    share = other.allot("allotment", 60).__enter__()
    with share.reserve(10) as hold:
        hold.dispatch()
        hold.settle(10)
    assert (budget.snapshot().allotted.tokens, budget.remaining()) == (50, 40)
    end_leases(budget)
    assert (budget.snapshot().allotted, budget.remaining()) == (NOTHING, 90)
    assert refused(lambda: share.reserve(1)).reason == "closed"
    session_of(other).shut()
    at_rest(budget)


def test_an_ended_hold_of_a_store_sends_nothing(url: str) -> None:
    """`dispatch` raises after the end of a hold, as in memory."""
    budget = open_budget(url, total=100)
    hold = budget.reserve(10)
    hold.release()
    with pytest.raises(LLMConfigurationError, match="make a new reservation"):
        hold.dispatch()


def test_a_process_without_holds_keeps_no_lease(url: str) -> None:
    """A process without holds does not renew its lease (STORE-4)."""
    budget = open_budget(url, total=100, lease_seconds=0.3)
    budget.reserve(10).release()
    assert session_of(budget).leases.own is not None
    until(lambda: session_of(budget).leases.own is None)
    assert stored(budget, "leases") == 0

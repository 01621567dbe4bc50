"""Holds: each ends once, in the way that the known facts allow."""

from __future__ import annotations

import contextvars
import copy
import gc
import sys
from contextlib import suppress
from decimal import Decimal
from types import FrameType
from typing import Any

import pytest

from llm_connect.budget.accounting.prices import Price
from llm_connect.budget.tracker import BudgetTracker
from llm_connect.errors import LLMBudgetExceededError, LLMConfigurationError
from llm_connect.types.amounts import NOTHING, Amount
from llm_connect.types.usage import Usage
from tests.budget.budget_helpers import at_rest, in_thread, outcomes, refused

ENDS = {"settle": ("settled", 30), "release": ("released", 0), "presume": ("presumed", 30)}


@pytest.mark.parametrize("first", ENDS)
@pytest.mark.parametrize("second", ENDS)
def test_a_hold_ends_once(first: str, second: str) -> None:
    """Ending a hold again, in any way, changes nothing (BUDGET-3)."""
    tracker = BudgetTracker(100)
    hold = tracker.reserve(30)
    getattr(hold, first)()
    entry = hold.entry
    getattr(hold, second)()
    hold.end_unsettled()
    outcome, spent = ENDS[first]
    assert outcomes(tracker) == [outcome]
    assert (tracker.spent, hold.entry) == (spent, entry)
    at_rest(tracker)


def test_an_ended_hold_sends_nothing() -> None:
    """After the end of a hold `dispatch` raises: another request needs another hold (BUDGET-3)."""
    tracker = BudgetTracker(100)
    hold = tracker.reserve(30)
    hold.release()
    with pytest.raises(LLMConfigurationError, match=r"^This hold has ended: make a new reservation"):
        hold.dispatch()
    assert "ended" in repr(hold)
    at_rest(tracker)


def test_an_open_hold_has_no_entry() -> None:
    """The ledger entry exists once the hold has ended."""
    with BudgetTracker(100).reserve(30) as hold:
        assert (hold.entry, hold.amount) == (None, NOTHING)


def test_dispatch_twice_is_dispatch() -> None:
    """A hold may be dispatched twice for the same request."""
    with BudgetTracker(100).reserve(30) as hold:
        hold.dispatch()
        hold.dispatch()
        assert hold.state == "dispatched"


def test_leaving_the_block_releases_or_presumes() -> None:
    """Leaving the block releases a hold that was not dispatched and presumes one that was, with or without an exception
    (BUDGET-3).
    """
    tracker = BudgetTracker(1_000)
    with tracker.reserve(10):
        pass
    with tracker.reserve(20) as hold:
        hold.dispatch()
    with suppress(ValueError), tracker.reserve(30) as hold:
        hold.dispatch()
        raise ValueError
    with tracker.reserve(40) as hold:
        hold.dispatch()
        hold.settle(5)
    assert outcomes(tracker) == ["released", "presumed", "presumed", "settled"]
    assert tracker.snapshot().presumed == Amount(50, 2)
    at_rest(tracker)


def test_on_unknown_release_gives_the_guarantee_up() -> None:
    """With `on_unknown="release"` an unknown outcome costs nothing."""
    tracker = BudgetTracker(1_000, on_unknown="release")
    with tracker.reserve(20) as hold:
        hold.dispatch()
    assert outcomes(tracker) == ["released"]


@pytest.mark.parametrize("dispatched", [False, True])
def test_a_lost_hold_ends(dispatched: bool) -> None:
    """Losing the last reference has the effect of leaving the block, although the caller's context remembers its holds
    (BUDGET-3).
    """
    tracker = BudgetTracker(1_000)
    hold = tracker.reserve(20)
    if dispatched:
        hold.dispatch()
    del hold
    gc.collect()
    assert tracker.snapshot().held == NOTHING
    assert outcomes(tracker) == ["presumed" if dispatched else "released"]
    at_rest(tracker)


def test_what_is_left_to_do_can_be_done_at_once() -> None:
    """`flush` ends lost holds without another operation (BUDGET-3)."""
    tracker = BudgetTracker(1_000)
    tracker.reserve(20)
    gc.collect()
    tracker.gate.flush()
    assert (outcomes(tracker), tracker.own_accounts[0].held) == (["released"], 0)


async def test_a_coroutine_may_wait_for_the_entry_in_memory_as_well() -> None:
    """Every budget has the async methods of a hold, with the same results (BUDGET-3)."""
    tracker = BudgetTracker(100)
    with await tracker.areserve(30) as hold:
        await hold.adispatch()
        hold.settle(10)
    await hold.abooked()
    hold.booked()
    assert (outcomes(tracker), (await tracker.asnapshot()).spent.tokens) == (["settled"], 10)
    late = await tracker.areserve(30)
    tracker.record(100)
    with pytest.raises(LLMBudgetExceededError):
        await late.adispatch()
    at_rest(tracker)


def test_a_lost_hold_in_a_circle_ends() -> None:
    """A hold in a reference cycle ends when the garbage collector finds it (BUDGET-3)."""
    tracker = BudgetTracker(1_000)
    circle: list[Any] = [tracker.reserve(20)]
    circle.append(circle)
    del circle
    gc.collect()
    at_rest(tracker)


def test_a_lost_hold_ends_whatever_interrupts_its_finalizer() -> None:
    """An exception cannot keep the finalizer of a hold from running: it has no code in Python (BUDGET-3)."""

    def interrupt(frame: FrameType, event: str, argument: Any) -> None:
        if event == "call" and frame.f_code.co_name == "__del__":
            raise KeyboardInterrupt

    tracker = BudgetTracker(100)
    hold = tracker.reserve(30)
    sys.setprofile(interrupt)
    try:
        del hold
    finally:
        sys.setprofile(None)
    assert tracker.snapshot().held == NOTHING
    at_rest(tracker)


def test_a_lost_hold_that_was_waited_for_ends() -> None:
    """Nothing else keeps a hold alive that was granted after a wait (BUDGET-3)."""
    tracker = BudgetTracker(10)
    first = tracker.reserve(10)
    context = contextvars.Context()
    waiting = in_thread(lambda: context.run(tracker.reserve, 10, max_wait_seconds=20))
    while tracker.snapshot().waiting == 0:
        pass
    first.release()
    hold = waiting.result(20)
    del waiting, hold
    gc.collect()
    tracker.consume(10)
    at_rest(tracker)


def test_a_copy_of_a_hold_is_the_hold() -> None:
    """A copied hold and its original end together, once (BUDGET-3)."""
    tracker = BudgetTracker(100)
    hold = tracker.reserve(30)
    copies = [copy.copy(hold), copy.deepcopy([hold])[0]]
    hold.settle(10)
    for each in copies:
        each.settle(10)
    del copies, each
    gc.collect()
    assert (tracker.spent, tracker.held) == (10, 0)
    at_rest(tracker)


def test_settle_takes_what_is_said_and_keeps_the_rest() -> None:
    """A figure that is left out is booked as it was held."""
    tracker = BudgetTracker()
    usage = Usage(prompt_tokens=3, completion_tokens=4)
    for figures, booked in (
        ({}, Amount(30, 1, 5_000_000_000)),
        ({"tokens": 7}, Amount(7, 1, 5_000_000_000)),
        ({"usage": usage}, Amount(7, 1, 5_000_000_000)),
        ({"tokens": 9, "usage": usage, "calls": 3, "usd": "0.1"}, Amount(9, 3, 100_000_000)),
    ):
        hold = tracker.reserve(30, usd=5)
        hold.settle(**figures)  # type: ignore[arg-type]
        assert hold.entry is not None
        assert hold.entry.amount == booked
        assert hold.entry.cost == (Decimal("0.1") if "usd" in figures else None)
    at_rest(tracker)


def usage_of(**parts: Any) -> Usage:
    return Usage(**{"prompt_tokens": 3, "completion_tokens": 4, **parts})


@pytest.mark.parametrize(
    "figures",
    [
        {"tokens": -1},
        {"tokens": 1.5},
        {"calls": True},
        {"usd": -1},
        {"usd": "x"},
        {"usage": 7},
        {"usage": {"prompt_tokens": 3, "completion_tokens": 4}},
        {"usage": usage_of(prompt_tokens="3")},
        {"usage": usage_of(completion_tokens=None)},
        {"usage": usage_of(cached_tokens=-1)},
        {"tokens": 7, "usage": usage_of(reasoning_tokens=Decimal(1))},
        {"tokens": 7, "usage": usage_of(cache_write_tokens=True)},
        {"model": 5},
        {"model": b"m"},
    ],
)
def test_settle_refuses_invalid_figures(figures: dict[str, Any]) -> None:
    """An invalid argument raises LLMConfigurationError, and the hold stays open (BUDGET-73)."""
    tracker = BudgetTracker(total=100, total_usd=5)
    with tracker.reserve(30, price=Price(prompt=1, completion=2)) as hold:
        with pytest.raises(LLMConfigurationError):
            hold.settle(**figures)
        assert tracker.held == 30
        hold.dispatch()
    assert outcomes(tracker) == ["presumed"]
    at_rest(tracker)


@pytest.mark.parametrize(("source", "kept"), [("half \ud800", "half ?"), (5, "5"), (["x"], "['x']"), (Decimal(1), "1")])
def test_any_source_of_a_cost_is_kept_as_text(source: Any, kept: str) -> None:
    """A cost is booked even if the name of its source is not text (BUDGET-73)."""
    tracker = BudgetTracker(total=100)
    with tracker.reserve(30) as hold:
        hold.settle(7, usd="0.1", cost_source=source)
    (entry,) = tracker.ledger
    assert (entry.outcome, entry.amount.tokens, entry.cost_source) == ("settled", 7, kept)
    at_rest(tracker)


def test_an_overrun_is_booked_in_full_until_there_is_room() -> None:
    """An overrun is booked in full, and nothing is admitted until the limit is raised (BUDGET-10)."""
    root = BudgetTracker(1_000)
    child = root.child("child", 100)
    with child.reserve(50) as hold:
        hold.dispatch()
        hold.settle(130)
    assert (child.spent, root.spent, child.breached, root.breached) == (130, 130, True, False)
    for amount in (0, 1):
        assert refused(lambda amount=amount: child.reserve(amount)).reason == "never_fits"  # type: ignore[misc]
    root.consume(1)
    child.set_limits(total=131)
    child.consume(1)
    at_rest(root)


def test_a_correction_reopens_a_breached_budget() -> None:
    """Correcting a presumption downwards makes room again (BUDGET-10)."""
    tracker = BudgetTracker(100)
    with tracker.reserve(60) as hold:
        hold.dispatch()
    tracker.record(50)
    assert tracker.breached
    assert hold.entry is not None
    entry = tracker.correct(hold.entry.id, 10)
    assert (entry.outcome, entry.amount, entry.corrects) == ("corrected", Amount(-50), hold.entry.id)
    assert not tracker.breached
    assert tracker.snapshot().presumed == NOTHING
    tracker.consume(40)
    at_rest(tracker)


def test_a_correction_keeps_what_it_does_not_say() -> None:
    """A correction of tokens leaves the presumed calls and USD unchanged."""
    tracker = BudgetTracker(total_usd=1)
    with tracker.reserve(60, usd="0.5") as hold:
        hold.dispatch()
    assert hold.entry is not None
    tracker.correct(hold.entry.id, tokens=10)
    assert (tracker.spent, tracker.spent_calls, tracker.spent_usd) == (10, 1, Decimal("0.5"))


def test_what_is_no_open_presumption_is_corrected_once_at_most() -> None:
    """A released, recorded, unknown or already corrected entry cannot be corrected. (BUDGET-63)"""
    tracker = BudgetTracker(100)
    released, presumed = tracker.reserve(10), tracker.reserve(20)
    released.release()
    presumed.presume()
    assert released.entry is not None
    assert presumed.entry is not None
    recorded = tracker.record(10)
    corrected = tracker.correct(presumed.entry.id, 0, calls=0)
    for entry_id in (released.entry.id, presumed.entry.id, recorded.id, corrected.id, 99):
        with pytest.raises(LLMConfigurationError, match="cannot be corrected: it is neither presumed nor settled"):
            tracker.correct(entry_id, 0)
    assert tracker.spent == 10
    at_rest(tracker)


def test_what_was_settled_is_corrected_once(store: str) -> None:
    """The difference is booked on the tracker and above it, and none of it is presumed. (BUDGET-63)"""
    if store == "redis":
        # A server only knows the holds of open presumptions.
        return
    tracker = BudgetTracker(100)
    child = tracker.child("c")
    holds = [child.reserve(10), child.reserve(30)]
    for hold in holds:
        hold.settle(10)
    entry = tracker.correct(holds[0].entry_id, 25)
    assert (entry.outcome, entry.amount, entry.corrects, entry.tracker) == (
        "corrected",
        Amount(15),
        holds[0].entry_id,
        "budget/c",
    )
    assert (tracker.spent, child.spent, tracker.snapshot().presumed) == (35, 35, NOTHING)
    with pytest.raises(LLMConfigurationError, match="already corrected"):
        tracker.correct(holds[0].entry_id, 0)
    tracker.correct(holds[1].entry_id, 0)
    assert (tracker.spent, sum(entry.amount.tokens for entry in tracker.ledger)) == (25, 25)
    at_rest(tracker)


def test_a_lost_hold_is_not_counted_by_the_figures() -> None:
    """If nothing runs, nothing is held, even in the first figure that is read after a hold was lost (BUDGET-3)."""
    tracker = BudgetTracker(100)
    child = tracker.child("lost", total=50)
    for read in (lambda: tracker.held, lambda: 100 - (child.remaining() or 0) - 50, lambda: str(tracker).count("30")):
        hold = child.reserve(30)
        assert tracker.held == 30
        del hold
        gc.collect()
        assert read() == 0


def test_what_is_sent_stays_dispatched_whatever_comes() -> None:
    """Dispatching again, after an overrun of another call, neither raises nor revokes the hold (BUDGET-10)."""
    tracker = BudgetTracker(100)
    hold = tracker.reserve(30)
    hold.dispatch()
    tracker.record(200)
    hold.dispatch()
    assert (hold.state, tracker.held) == ("dispatched", 30)
    hold.settle(10)
    assert tracker.spent == 210
    at_rest(tracker)


def test_a_limit_lowered_below_what_is_spent_keeps_holds_of_before_from_being_sent() -> None:
    """While the spend exceeds a limit, nothing is sent, even with a hold that was granted earlier (BUDGET-10)."""
    tracker = BudgetTracker(100)
    tracker.consume(60)
    hold = tracker.reserve(30)
    tracker.set_limits(total=50)
    error = refused(hold.dispatch)
    assert (error.reason, error.spent, error.total) == ("never_fits", 60, 50)
    assert hold.state == "ended"
    at_rest(tracker)


@pytest.mark.parametrize(
    ("limits", "bound", "used"),
    [
        ({"total": 100}, {"tokens": 50}, {"tokens": 150}),
        ({"total_calls": 2}, {"calls": 1}, {"calls": 3}),
        ({"total_usd": 1}, {"usd": "0.5"}, {"usd": "1.5"}),
    ],
    ids=["tokens", "calls", "usd"],
)
@pytest.mark.parametrize("is_allotment", [False, True], ids=["plain", "allotment"])
def test_an_overrun_in_any_unit_keeps_holds_of_before_from_being_sent(
    limits: dict[str, Any], bound: dict[str, Any], used: dict[str, Any], is_allotment: bool
) -> None:
    """An overrun may exceed the limit; then holds that were granted in the meantime are not sent (BUDGET-10)."""
    root = BudgetTracker(**limits)
    with root.allot("c", **limits) if is_allotment else root.child("c", **limits) as tracker:
        first, second = tracker.reserve(**bound), tracker.reserve(**bound)
        first.dispatch()
        first.settle(**used)
        assert refused(second.dispatch).reason == "never_fits"
    at_rest(root)


def test_a_cost_counts_against_a_limit_that_is_set_later() -> None:
    """A cost that nothing limits delays no hold; once a limit in USD stands below it, no hold is sent. (BUDGET-1)"""
    tracker = BudgetTracker(1_000)
    costly, later, last = (tracker.reserve(10) for _ in range(3))
    costly.dispatch()
    costly.settle(5, usd=2)
    later.dispatch()
    tracker.set_limits(total_usd=1)
    with pytest.raises(LLMBudgetExceededError):
        last.dispatch()
    later.release()
    assert (tracker.held, tracker.spent, tracker.spent_usd) == (0, 5, 2)

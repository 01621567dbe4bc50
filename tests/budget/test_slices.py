"""Slices: children that set their limits aside from their parent."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from contextlib import ExitStack
from decimal import Decimal
from typing import Any

import pytest

from llm_connect.budget.admission.holds import Hold
from llm_connect.budget.tracker import BudgetTracker
from llm_connect.errors import LLMConfigurationError
from llm_connect.types.amounts import NOTHING, Amount
from tests.budget.budget_helpers import PATIENCE, at_rest, awaits, in_thread, refused, waits


def spend(tracker: BudgetTracker, tokens: int, *, bound: int | None = None) -> None:
    with tracker.reserve(bound or tokens, calls=0) as hold:
        hold.dispatch()
        hold.settle(tokens)


def alone(tracker: BudgetTracker, tokens: int) -> Hold:
    """A hold that does not count as a hold of this test's caller."""
    return contextvars.Context().run(tracker.reserve, tokens, calls=0)


def test_a_slice_is_set_aside() -> None:
    """No other call can use the budget of a slice, and the unused rest returns at its end (BUDGET-40)."""
    tracker = BudgetTracker(100)
    with tracker.child("s", 60, slice=True) as slice_:
        assert (tracker.sliced, tracker.held, tracker.remaining(), slice_.remaining()) == (60, 0, 40, 60)
        error = refused(lambda: tracker.reserve(41, max_wait_seconds=0.5))
        assert (error.reason, error.sliced, error.missing) == ("wait_expired", 60, 1)
        spend(tracker, 40)
        spend(slice_, 25)
        assert (tracker.spent, tracker.sliced, tracker.remaining(), slice_.remaining()) == (65, 35, 0, 35)
        assert "35 tokens set aside for slices" in str(tracker)
    assert (tracker.spent, tracker.sliced, tracker.remaining()) == (65, 0, 35)
    assert tracker.snapshot().sliced == NOTHING
    at_rest(tracker)


def test_what_a_slice_holds_is_no_longer_set_aside() -> None:
    """A hold inside the slice replaces a part of the amount set aside: the sum on the parent stays."""
    tracker = BudgetTracker(100)
    with tracker.child("s", 60, slice=True) as slice_:
        hold = slice_.reserve(50)
        assert (tracker.held, tracker.sliced, tracker.remaining()) == (50, 10, 40)
        hold.release()
        assert (tracker.held, tracker.sliced) == (0, 60)


def test_a_slice_that_does_not_fit_now_is_refused() -> None:
    """The error says if the slice may fit later, and entering leaves nothing behind (BUDGET-40)."""
    tracker = BudgetTracker(100)
    hold = tracker.reserve(50)
    slice_ = tracker.child("s", 60, slice=True)
    error = refused(slice_.__enter__)
    assert (error.reason, error.requested, error.missing, error.path) == ("refused", 60, 10, "budget")
    assert refused(tracker.child("t", 101, slice=True).__enter__).reason == "never_fits"
    hold.release()
    assert (tracker.sliced, slice_.closed) == (0, True)
    tracker.close()
    assert refused(tracker.child("u", 1, slice=True).__enter__).reason == "closed"


def test_a_budget_says_what_is_set_aside() -> None:
    """The text of a budget shows the share of slices between the holds and the limit."""
    tracker = BudgetTracker(100)
    with tracker.child("s", 60, slice=True):
        expected = "budget: 0 tokens spent and 0 tokens held and 60 tokens set aside for slices of 100 tokens"
        assert str(tracker) == expected


def test_a_slice_that_never_fits_says_where() -> None:
    """The error is about the limit that can never cover the slice, not about one that is full at present."""
    root = BudgetTracker(100)
    team = root.child("team", 200)
    with team.reserve(90):
        error = refused(team.child("s", 150, slice=True).__enter__)
    assert (error.reason, error.path, error.total, error.missing) == ("never_fits", "budget", 100, 50)


def test_outside_of_its_block_a_slice_is_closed() -> None:
    """A slice admits nothing before its block is entered and after it is left (BUDGET-40)."""
    tracker = BudgetTracker(100)
    slice_ = tracker.child("s", 60, slice=True)
    assert refused(lambda: slice_.reserve(1)).reason == "closed"
    with slice_:
        spend(slice_, 1)
    with slice_:
        assert refused(lambda: slice_.reserve(1)).reason == "closed"
    at_rest(tracker)


def test_holds_of_a_closed_slice_book_on_its_ancestors() -> None:
    """A call that outlives its slice is settled and corrected on the budgets above (BUDGET-40)."""
    tracker = BudgetTracker(100)
    with tracker.child("s", 60, slice=True) as slice_:
        first, second = alone(slice_, 20), alone(slice_, 20)
        first.dispatch()
        second.dispatch()
    assert (tracker.held, tracker.sliced) == (40, 0)
    first.settle(5)
    second.presume()
    assert (tracker.spent, tracker.sliced) == (25, 0)
    assert second.entry is not None
    tracker.correct(second.entry.id, 7)
    assert tracker.spent == slice_.spent == 12
    at_rest(tracker)


def test_an_overrun_in_a_slice_is_booked_in_full() -> None:
    """The excess comes from the parent, never from the share of other slices (BUDGET-10)."""
    tracker = BudgetTracker(100)
    with tracker.child("s", 30, slice=True) as slice_, tracker.child("t", 30, slice=True) as other:
        spend(slice_, 45, bound=30)
        assert (slice_.breached, tracker.breached, slice_.remaining()) == (True, False, 0)
        assert (tracker.spent, tracker.sliced, tracker.remaining()) == (45, 30, 25)
        assert refused(lambda: slice_.reserve(1)).reason == "never_fits"
        spend(other, 30)
    at_rest(tracker)


def test_a_breach_above_stops_a_slice() -> None:
    """While the spend above exceeds a limit, nothing below is admitted, not even inside a slice (BUDGET-10)."""
    tracker = BudgetTracker(100)
    with tracker.child("s", 30, slice=True) as slice_:
        tracker.record(150)
        assert refused(lambda: slice_.reserve(1)).reason == "never_fits"
        assert slice_.remaining() == 0


def test_slices_nest() -> None:
    """The budget of a slice in a slice comes from the outer one, and its rest returns there (BUDGET-40)."""
    tracker = BudgetTracker(100)
    with tracker.child("outer", 60, slice=True) as outer:
        middle = outer.child("middle", 50)
        with middle.child("inner", 40, slice=True) as inner:
            assert (tracker.sliced, outer.sliced, middle.sliced) == (60, 40, 40)
            assert (outer.remaining(), middle.remaining(), inner.remaining()) == (20, 10, 40)
            spend(inner, 30)
            assert (tracker.sliced, outer.sliced, tracker.spent) == (30, 10, 30)
            outer.close()
            assert (tracker.sliced, outer.sliced, tracker.remaining()) == (0, 0, 70)
            assert refused(lambda: inner.reserve(1)).reason == "closed"
    at_rest(tracker)


def test_a_slice_of_calls_and_usd() -> None:
    """Each unit that the slice limits is set aside; the others stay shared."""
    tracker = BudgetTracker(100, total_calls=4, total_usd=1)
    with tracker.child("s", total_calls=3, total_usd="0.6", slice=True) as slice_:
        assert tracker.snapshot().sliced == Amount(0, 3, 600_000_000)
        assert (tracker.remaining(), tracker.remaining_calls()) == (100, 1)
        assert tracker.remaining_usd() == Decimal("0.4")
        slice_.reserve(100, calls=2, usd=0).release()
    at_rest(tracker)


def test_waiters_get_what_a_slice_returns() -> None:
    """The rest of a slice goes to waiters; its spend refuses those that can no longer fit."""
    tracker = BudgetTracker(100)
    with tracker.child("s", 50, slice=True) as slice_:
        patient = in_thread(lambda: tracker.reserve(75, max_wait_seconds=PATIENCE))
        waits(tracker, 1)
        later = in_thread(lambda: tracker.reserve(70, max_wait_seconds=PATIENCE))
        waits(tracker, 2)
        slice_.consume(26)
        assert isinstance(patient.exception(PATIENCE), Exception)
    later.result(PATIENCE).release()
    at_rest(tracker)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda tracker: tracker.child("s", slice=True), "A slice needs a limit"),
        (lambda tracker: tracker.child("s", 5, slice=True, join=True), "A slice .* cannot be joined"),
        (lambda tracker: tracker.child("s", 5, slice=True).set_limits(total=6), "The limits of a slice are fixed"),
    ],
    ids=["no limit", "joined", "changed before it is entered"],
)
def test_what_a_slice_cannot_be(wrong: Callable[[BudgetTracker], Any], message: str) -> None:
    """A slice has a limit, which cannot change."""
    with pytest.raises(LLMConfigurationError, match=f"^{message}"):
        wrong(BudgetTracker(100))


def test_the_limits_of_an_open_slice_stay() -> None:
    """The limits of an open slice cannot be changed from inside; a closed slice is an ordinary child."""
    tracker = BudgetTracker(100)
    with tracker.child("s", 5, slice=True) as slice_:
        with pytest.raises(LLMConfigurationError, match="open another one"):
            slice_.set_limits(total=6)
    slice_.set_limits(total=6)
    assert (slice_.total, tracker.sliced) == (6, 0)


def test_what_lacks_only_what_slices_will_give_back_fits_later() -> None:
    """A reservation or another slice that lacks only the rest of open slices is refused for now, and fits when they
    end. (BUDGET-40)
    """
    tracker = BudgetTracker(3_560)
    with ExitStack() as stack:
        for name in "abc":
            stack.enter_context(tracker.child(name, 900, slice=True)).consume(10)
        fourth = tracker.child("d", 900, slice=True)
        assert refused(fourth.__enter__).reason == "refused"
        error = refused(lambda: tracker.reserve(3_000))
        assert (error.reason, error.missing, error.sliced) == ("refused", 2_140, 2_670)
        assert refused(lambda: tracker.reserve(3_531)).reason == "never_fits"
    with fourth:
        assert tracker.sliced == 900
    tracker.reserve(3_530).release()
    at_rest(tracker)


def test_a_call_waits_for_what_a_slice_gives_back() -> None:
    """A waiting call is admitted when the block of the slice ends. (BUDGET-2, BUDGET-40)"""
    tracker = BudgetTracker(1_000)
    with tracker.child("s", 900, slice=True):
        waiting = in_thread(lambda: tracker.reserve(500, max_wait_seconds=PATIENCE))
        waits(tracker, 1)
    waiting.result(PATIENCE).release()
    at_rest(tracker)


def test_a_slice_waits_in_line() -> None:
    """A slice waits for calls and other slices, and later calls wait behind it. (BUDGET-5, BUDGET-40)"""
    tracker = BudgetTracker(100)
    hold = alone(tracker, 50)
    slice_ = tracker.child("s", 80, slice=True, max_wait_seconds=PATIENCE)
    opening = in_thread(slice_.__enter__)
    waits(tracker, 1)
    later = in_thread(lambda: tracker.reserve(40, max_wait_seconds=PATIENCE))
    waits(tracker, 2)
    hold.release()
    assert opening.result(PATIENCE) is slice_
    assert (tracker.sliced, tracker.held) == (80, 0)
    slice_.close()
    later.result(PATIENCE).release()
    at_rest(tracker)


def test_a_slice_that_waits_in_vain_may_be_entered_again() -> None:
    """The error says that the wait is over, and the block can be entered again. (BUDGET-40)"""
    tracker = BudgetTracker(100)
    slice_ = tracker.child("s", 80, slice=True, max_wait_seconds=0.5)
    hold = alone(tracker, 50)
    assert refused(slice_.__enter__).reason == "wait_expired"
    hold.release()
    with slice_:
        slice_.consume(80)
    at_rest(tracker)


@pytest.mark.in_memory_only
def test_a_slice_that_an_overrun_overtakes_waits_again() -> None:
    """If the amount reserved for the slice no longer fits when it opens, it waits again. (BUDGET-40)"""
    tracker = BudgetTracker(100)
    first, second, third = (alone(tracker, tokens) for tokens in (20, 20, 10))
    opening = in_thread(tracker.child("s", 60, slice=True, max_wait_seconds=PATIENCE).__enter__)
    waits(tracker, 1)
    lock: Any = tracker.gate._lock  # type: ignore[attr-defined]
    # The thread has been woken, but cannot continue yet.
    lock.wait()
    first.release()
    assert tracker.held == 90
    second.settle(35)
    lock.release()
    waits(tracker, 1)
    assert (tracker.held, tracker.sliced) == (10, 0)
    third.release()
    slice_ = opening.result(PATIENCE)
    assert (tracker.spent, tracker.sliced) == (35, 60)
    slice_.close()
    at_rest(tracker)


@pytest.mark.in_memory_only
async def test_a_slice_of_a_task_that_an_overrun_overtakes_waits_again() -> None:
    """The same holds for `async with`. (BUDGET-40)"""
    tracker = BudgetTracker(100)
    first, second, third = (alone(tracker, tokens) for tokens in (20, 20, 10))
    opening = asyncio.create_task(tracker.child("s", 60, slice=True, max_wait_seconds=PATIENCE).__aenter__())
    await awaits(tracker, 1)
    first.release()
    assert tracker.held == 90
    second.settle(35)
    await awaits(tracker, 1)
    assert (tracker.held, tracker.sliced) == (10, 0)
    third.release()
    slice_ = await opening
    assert (tracker.spent, tracker.sliced) == (35, 60)
    slice_.close()
    at_rest(tracker)


async def test_a_slice_waits_in_a_task() -> None:
    """A slice waits in `async with`; `with` never waits in a running event loop, and a cancelled wait leaves
    nothing held. (BUDGET-40)
    """
    tracker = BudgetTracker(100)
    hold = await tracker.areserve(50)
    assert refused(tracker.child("s", 80, slice=True, max_wait_seconds=PATIENCE).__enter__).reason == "refused"
    given_up = asyncio.create_task(tracker.child("g", 80, slice=True, max_wait_seconds=PATIENCE).__aenter__())
    await awaits(tracker, 1)
    given_up.cancel()
    with pytest.raises(asyncio.CancelledError):
        await given_up

    async def use() -> None:
        async with tracker.child("s", 80, slice=True, max_wait_seconds=PATIENCE) as slice_:
            (await slice_.areserve(80)).settle(30)

    using = asyncio.create_task(use())
    await awaits(tracker, 1)
    hold.release()
    await using
    async with tracker.child("c", 10) as child:
        child.consume(10)
    assert (child.closed, tracker.sliced, tracker.spent) == (True, 0, 40)
    at_rest(tracker)


def test_only_a_slice_waits_when_it_is_entered() -> None:
    """Other children do not wait when they are entered, because their calls wait. (BUDGET-40)"""
    with pytest.raises(LLMConfigurationError, match="max_wait_seconds is for a slice"):
        BudgetTracker(100).child("c", 10, max_wait_seconds=1)
    with pytest.raises(LLMConfigurationError, match="max_wait_seconds"):
        BudgetTracker(100).child("c", 10, slice=True, max_wait_seconds=-1)

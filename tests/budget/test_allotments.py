"""Allotments: children that set their limits aside from their parent."""

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
from llm_connect.errors import LLMBudgetExceededError, LLMConfigurationError
from llm_connect.types.amounts import NOTHING, Amount
from tests.budget.budget_helpers import PATIENCE, at_rest, awaits, in_thread, refused, waits


def spend(tracker: BudgetTracker, tokens: int, *, bound: int | None = None) -> None:
    with tracker.reserve(bound or tokens, calls=0) as hold:
        hold.dispatch()
        hold.settle(tokens)


def alone(tracker: BudgetTracker, tokens: int) -> Hold:
    """A hold that does not count as a hold of this test's caller."""
    return contextvars.Context().run(tracker.reserve, tokens, calls=0)


def test_an_allotment_says_whether_it_is_entered() -> None:
    """Its repr names its limits and parent, because it is no tracker itself."""
    allotment = BudgetTracker(100_000, total_usd=1).allot("s", 60_000, total_usd="0.5")
    what = "<Allotment 's' of 60,000 tokens and 0.5 USD on 'budget'"
    asks = "not entered: `with` or `async with` gives its tracker>"
    assert repr(allotment) == f"{what}, {asks}"
    tracker = BudgetTracker(100)
    with (entered := tracker.allot("s", 60)):
        assert repr(entered) == "<Allotment 's' of 60 tokens on 'budget', entered>"


def test_an_allotment_is_set_aside() -> None:
    """No other call can use the budget of an allotment, and the unused rest returns at its end (BUDGET-40)."""
    tracker = BudgetTracker(100)
    with tracker.allot("s", 60) as share:
        assert (tracker.allotted, tracker.held, tracker.remaining(), share.remaining()) == (60, 0, 40, 60)
        error = refused(lambda: tracker.reserve(41, max_wait_seconds=0.5))
        assert (error.reason, error.allotted, error.missing) == ("wait_expired", 60, 1)
        spend(tracker, 40)
        spend(share, 25)
        assert (tracker.spent, tracker.allotted, tracker.remaining(), share.remaining()) == (65, 35, 0, 35)
        assert "35 tokens set aside for allotments" in str(tracker)
    assert (tracker.spent, tracker.allotted, tracker.remaining()) == (65, 0, 35)
    assert tracker.snapshot().allotted == NOTHING
    at_rest(tracker)


def test_what_an_allotment_holds_is_no_longer_set_aside() -> None:
    """A hold inside the allotment replaces a part of the amount set aside: the sum on the parent stays."""
    tracker = BudgetTracker(100)
    with tracker.allot("s", 60) as share:
        hold = share.reserve(50)
        assert (tracker.held, tracker.allotted, tracker.remaining()) == (50, 10, 40)
        hold.release()
        assert (tracker.held, tracker.allotted) == (0, 60)


def test_an_allotment_that_does_not_fit_now_is_refused() -> None:
    """The error says if the allotment may fit later, and entering leaves nothing behind (BUDGET-40)."""
    tracker = BudgetTracker(100)
    hold = tracker.reserve(50)
    error = refused(tracker.allot("s", 60).__enter__)
    assert (error.reason, error.requested, error.missing, error.path) == ("refused", 60, 10, "budget")
    assert refused(tracker.allot("t", 101).__enter__).reason == "never_fits"
    hold.release()
    assert tracker.allotted == 0
    tracker.close()
    assert refused(tracker.allot("u", 1).__enter__).reason == "closed"


def test_a_budget_says_what_is_set_aside() -> None:
    """The text of a budget shows the share of allotments between the holds and the limit."""
    tracker = BudgetTracker(100)
    with tracker.allot("s", 60):
        expected = "budget: 0 tokens spent and 0 tokens held and 60 tokens set aside for allotments of 100 tokens"
        assert str(tracker) == expected


def test_an_allotment_that_never_fits_says_where() -> None:
    """The error is about the limit that can never cover the allotment, not about one that is full at present."""
    root = BudgetTracker(100)
    team = root.child("team", 200)
    with team.reserve(90):
        error = refused(team.allot("s", 150).__enter__)
    assert (error.reason, error.path, error.total, error.missing) == ("never_fits", "budget", 100, 50)


def test_after_its_block_an_allotment_is_closed() -> None:
    """An allotment admits nothing after its block is left; entering the block again draws a new share (BUDGET-40)."""
    tracker = BudgetTracker(100)
    allotment = tracker.allot("s", 60)
    with allotment as share:
        spend(share, 1)
    assert refused(lambda: share.reserve(1)).reason == "closed"
    with allotment as again:
        spend(again, 60)
        with pytest.raises(LLMConfigurationError, match="The block of this allotment is running"), allotment:
            pass
    assert (share.spent, again.spent, tracker.spent) == (1, 60, 61)
    at_rest(tracker)


def test_allotments_of_one_name_have_paths_of_their_own(caplog: pytest.LogCaptureFixture) -> None:
    """Runs of one kind have one name; the ledger tells them apart, and no warning is logged. (BUDGET-40)"""
    tracker = BudgetTracker(100)
    with tracker.allot("run", 10) as one, tracker.allot("run", 10) as other:
        assert (one.path, other.path) == ("budget/run", "budget/run#2")
    with tracker.allot("run", 10) as third:
        assert third.path == "budget/run"
    assert caplog.records == []
    at_rest(tracker)


def test_holds_of_a_closed_allotment_book_on_its_ancestors() -> None:
    """A call that outlives its allotment is settled and corrected on the budgets above (BUDGET-40)."""
    tracker = BudgetTracker(100)
    with tracker.allot("s", 60) as share:
        first, second = alone(share, 20), alone(share, 20)
        first.dispatch()
        second.dispatch()
    assert (tracker.held, tracker.allotted) == (40, 0)
    first.settle(5)
    second.presume()
    assert (tracker.spent, tracker.allotted) == (25, 0)
    assert second.entry is not None
    tracker.correct(second.entry.id, 7)
    assert tracker.spent == share.spent == 12
    at_rest(tracker)


def test_an_overrun_in_an_allotment_is_booked_in_full() -> None:
    """The excess comes from the parent, never from the share of other allotments (BUDGET-10)."""
    tracker = BudgetTracker(100)
    with tracker.allot("s", 30) as share, tracker.allot("t", 30) as other:
        spend(share, 45, bound=30)
        assert (share.breached, tracker.breached, share.remaining()) == (True, False, 0)
        assert (tracker.spent, tracker.allotted, tracker.remaining()) == (45, 30, 25)
        assert refused(lambda: share.reserve(1)).reason == "never_fits"
        spend(other, 30)
    at_rest(tracker)


def test_a_breach_above_stops_an_allotment() -> None:
    """While the spend above exceeds a limit, nothing below is admitted, not even inside an allotment (BUDGET-10)."""
    tracker = BudgetTracker(100)
    with tracker.allot("s", 30) as share:
        tracker.record(150)
        assert refused(lambda: share.reserve(1)).reason == "never_fits"
        assert share.remaining() == 0


def test_allotments_nest() -> None:
    """The budget of an allotment in an allotment comes from the outer one, and its rest returns there (BUDGET-40)."""
    tracker = BudgetTracker(100)
    with tracker.allot("outer", 60) as outer:
        middle = outer.child("middle", 50)
        with middle.allot("inner", 40) as inner:
            assert (tracker.allotted, outer.allotted, middle.allotted) == (60, 40, 40)
            assert (outer.remaining(), middle.remaining(), inner.remaining()) == (20, 10, 40)
            spend(inner, 30)
            assert (tracker.allotted, outer.allotted, tracker.spent) == (30, 10, 30)
            outer.close()
            assert (tracker.allotted, outer.allotted, tracker.remaining()) == (0, 0, 70)
            assert refused(lambda: inner.reserve(1)).reason == "closed"
    at_rest(tracker)


def test_an_allotment_of_calls_and_usd() -> None:
    """Each unit that the allotment limits is set aside; the others stay shared."""
    tracker = BudgetTracker(100, total_calls=4, total_usd=1)
    with tracker.allot("s", total_calls=3, total_usd="0.6") as share:
        assert tracker.snapshot().allotted == Amount(0, 3, 600_000_000)
        assert (tracker.remaining(), tracker.remaining_calls()) == (100, 1)
        assert tracker.remaining_usd() == Decimal("0.4")
        share.reserve(100, calls=2, usd=0).release()
    at_rest(tracker)


def test_waiters_get_what_an_allotment_returns() -> None:
    """The rest of an allotment goes to waiters; its spend refuses those that can no longer fit."""
    tracker = BudgetTracker(100)
    with tracker.allot("s", 50) as share:
        patient = in_thread(lambda: tracker.reserve(75, max_wait_seconds=PATIENCE))
        waits(tracker, 1)
        later = in_thread(lambda: tracker.reserve(70, max_wait_seconds=PATIENCE))
        waits(tracker, 2)
        share.consume(26)
        assert isinstance(patient.exception(PATIENCE), Exception)
    later.result(PATIENCE).release()
    at_rest(tracker)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda tracker: tracker.allot("s"), "An allotment needs a limit"),
        (lambda tracker: tracker.allot("s", 0), "total must be"),
        (lambda tracker: tracker.allot("", 5), "name must"),
        (lambda tracker: tracker.allot("s", 5, max_wait_seconds=-1), "max_wait_seconds must be"),
    ],
    ids=["no limit", "nothing", "no name", "negative wait"],
)
def test_an_allotment_that_cannot_be_meant(wrong: Callable[[BudgetTracker], Any], message: str) -> None:
    """`allot` checks its arguments, before its block begins."""
    with pytest.raises(LLMConfigurationError, match=f"^{message}"):
        wrong(BudgetTracker(100))


def test_the_limits_of_an_open_allotment_stay() -> None:
    """The limits of an open allotment cannot be changed from inside; a closed allotment is an ordinary child."""
    tracker = BudgetTracker(100)
    with tracker.allot("s", 5) as share:
        with pytest.raises(LLMConfigurationError, match="The limits of an allotment are fixed"):
            share.set_limits(total=6)
    share.set_limits(total=6)
    assert (share.total, tracker.allotted) == (6, 0)


def test_what_lacks_only_what_allotments_will_give_back_fits_later() -> None:
    """A reservation or allotment that lacks only the rest of open allotments is refused for now, and fits when they
    end. (BUDGET-40)
    """
    tracker = BudgetTracker(3_560)
    with ExitStack() as stack:
        for name in "abc":
            stack.enter_context(tracker.allot(name, 900)).consume(10)
        fourth = tracker.allot("d", 900)
        assert refused(fourth.__enter__).reason == "refused"
        error = refused(lambda: tracker.reserve(3_000))
        assert (error.reason, error.missing, error.allotted) == ("refused", 2_140, 2_670)
        assert refused(lambda: tracker.reserve(3_531)).reason == "never_fits"
    with fourth:
        assert tracker.allotted == 900
    tracker.reserve(3_530).release()
    at_rest(tracker)


def test_a_call_waits_for_what_an_allotment_gives_back() -> None:
    """A waiting call is admitted when the block of the allotment ends. (BUDGET-2, BUDGET-40)"""
    tracker = BudgetTracker(1_000)
    with tracker.allot("s", 900):
        waiting = in_thread(lambda: tracker.reserve(500, max_wait_seconds=PATIENCE))
        waits(tracker, 1)
    waiting.result(PATIENCE).release()
    at_rest(tracker)


def test_an_allotment_waits_in_line() -> None:
    """An allotment waits for calls and other allotments, and later calls wait behind it. (BUDGET-5, BUDGET-40)"""
    tracker = BudgetTracker(100)
    hold = alone(tracker, 50)
    allotment = tracker.allot("s", 80, max_wait_seconds=PATIENCE)
    opening = in_thread(allotment.__enter__)
    waits(tracker, 1)
    later = in_thread(lambda: tracker.reserve(40, max_wait_seconds=PATIENCE))
    waits(tracker, 2)
    hold.release()
    assert opening.result(PATIENCE).remaining() == 80
    assert (tracker.allotted, tracker.held) == (80, 0)
    allotment.__exit__(None, None, None)
    later.result(PATIENCE).release()
    at_rest(tracker)


def test_an_allotment_that_waits_in_vain_may_be_entered_again() -> None:
    """The error says that the wait is over, and the block can be entered again. (BUDGET-40)"""
    tracker = BudgetTracker(100)
    allotment = tracker.allot("s", 80, max_wait_seconds=0.5)
    hold = alone(tracker, 50)
    assert refused(allotment.__enter__).reason == "wait_expired"
    hold.release()
    with allotment as share:
        share.consume(80)
    at_rest(tracker)


@pytest.mark.in_memory_only
def test_an_allotment_that_an_overrun_overtakes_waits_again() -> None:
    """If the amount reserved for the allotment no longer fits when it opens, it waits again. (BUDGET-40)"""
    tracker = BudgetTracker(100)
    first, second, third = (alone(tracker, tokens) for tokens in (20, 20, 10))
    opening = in_thread(tracker.allot("s", 60, max_wait_seconds=PATIENCE).__enter__)
    waits(tracker, 1)
    lock: Any = tracker.gate._lock  # type: ignore[attr-defined]
    # The thread has been woken, but cannot continue yet.
    lock.wait()
    first.release()
    assert tracker.held == 90
    second.settle(35)
    lock.release()
    waits(tracker, 1)
    assert (tracker.held, tracker.allotted) == (10, 0)
    third.release()
    share = opening.result(PATIENCE)
    assert (tracker.spent, tracker.allotted) == (35, 60)
    share.close()
    at_rest(tracker)


@pytest.mark.in_memory_only
async def test_an_allotment_of_a_task_that_an_overrun_overtakes_waits_again() -> None:
    """The same holds for `async with`. (BUDGET-40)"""
    tracker = BudgetTracker(100)
    first, second, third = (alone(tracker, tokens) for tokens in (20, 20, 10))
    opening = asyncio.create_task(tracker.allot("s", 60, max_wait_seconds=PATIENCE).__aenter__())
    await awaits(tracker, 1)
    first.release()
    assert tracker.held == 90
    second.settle(35)
    await awaits(tracker, 1)
    assert (tracker.held, tracker.allotted) == (10, 0)
    third.release()
    share = await opening
    assert (tracker.spent, tracker.allotted) == (35, 60)
    share.close()
    at_rest(tracker)


async def test_an_allotment_waits_in_a_task() -> None:
    """An allotment waits in `async with`; `with` never waits in a running event loop, and a cancelled wait leaves
    nothing held. (BUDGET-40)
    """
    tracker = BudgetTracker(100)
    hold = await tracker.areserve(50)
    assert refused(tracker.allot("s", 80, max_wait_seconds=PATIENCE).__enter__).reason == "refused"
    given_up = asyncio.create_task(tracker.allot("g", 80, max_wait_seconds=PATIENCE).__aenter__())
    await awaits(tracker, 1)
    given_up.cancel()
    with pytest.raises(asyncio.CancelledError):
        await given_up

    async def use() -> None:
        async with tracker.allot("s", 80, max_wait_seconds=PATIENCE) as share:
            (await share.areserve(80)).settle(30)

    using = asyncio.create_task(use())
    await awaits(tracker, 1)
    hold.release()
    await using
    async with tracker.child("c", 10) as child:
        child.consume(10)
    assert (child.closed, tracker.allotted, tracker.spent) == (True, 0, 40)
    at_rest(tracker)


def test_a_slice_of_old_is_an_allotment() -> None:
    """The deprecated names still work. (BUDGET-40)"""
    tracker = BudgetTracker(1_000)
    with tracker.child("old", 400, slice=True) as share:
        assert (tracker.sliced, tracker.snapshot().sliced.tokens, share.remaining()) == (400, 400, 400)
        with pytest.raises(LLMBudgetExceededError) as refused, tracker.child("more", 700, slice=True):
            pass
        assert (refused.value.reason, refused.value.sliced) == ("refused", 400)
    assert tracker.sliced == 0
    with tracker.reserve(100, model="m") as hold:
        hold.dispatch()
        hold.settle(200)
    assert set(tracker.snapshot().learned) == {(None, "m")}
    at_rest(tracker)

"""The figures of a budget, and the values that it accepts."""

from __future__ import annotations

import enum
from decimal import Decimal
from typing import Any

import pytest

from llm_connect.budget.accounting.snapshot import BudgetSnapshot
from llm_connect.budget.tracker import BudgetTracker
from llm_connect.errors import LLMConfigurationError
from llm_connect.types.amounts import NOTHING, Amount
from tests.budget.budget_helpers import PATIENCE, arefused, at_rest, in_thread, refused


def test_consume_up_to_the_cap_and_not_one_more() -> None:
    """The spend may reach the cap exactly; one token more raises and changes nothing (BUDGET-1, BUDGET-2)."""
    tracker = BudgetTracker(total=100)
    tracker.consume(80)
    before = tracker.snapshot()
    error = refused(lambda: tracker.consume(30))
    assert (error.total, error.spent, error.requested) == (100, 80, 30)
    assert (error.reason, error.unit, error.path, error.missing) == ("never_fits", "tokens", "budget", 10)
    assert (error.held, error.presumed, error.booked, error.maybe_billed) == (0, 0, NOTHING, False)
    assert tracker.snapshot() == before
    tracker.consume(20)
    assert refused(lambda: tracker.consume(1)).requested == 1
    tracker.consume(0)
    assert (tracker.spent, tracker.remaining()) == (100, 0)
    at_rest(tracker)


def test_record_books_always() -> None:
    """A record is booked even above the limit; then the budget refuses calls (BUDGET-10)."""
    tracker = BudgetTracker(10, total_usd="0.5")
    entry = tracker.record(25, calls=2, usd=Decimal("0.1"), adapter="own", model="m", labels={"a": "b"})
    assert (entry.outcome, entry.amount) == ("recorded", Amount(25, 2, 100_000_000))
    assert (entry.adapter, entry.model, entry.labels) == ("own", "m", {"a": "b"})
    assert (tracker.spent, tracker.spent_calls, tracker.spent_usd) == (25, 2, Decimal("0.1"))
    assert (tracker.breached, tracker.remaining()) == (True, 0)
    assert refused(lambda: tracker.reserve(0, usd=0)).unit == "tokens"
    at_rest(tracker)


def test_figures_of_every_unit() -> None:
    """Each unit has its limit, its spend, its holds and its remainder."""
    tracker = BudgetTracker(100, total_usd=1, total_calls=3)
    tracker.record(10, calls=1, usd="0.25")
    with tracker.reserve(20, calls=1, usd=0.5):
        assert (tracker.total, tracker.spent, tracker.held, tracker.remaining()) == (100, 10, 20, 70)
        calls = (tracker.total_calls, tracker.spent_calls, tracker.held_calls, tracker.remaining_calls())
        assert calls == (3, 1, 1, 1)
        usd = (tracker.total_usd, tracker.spent_usd, tracker.held_usd, tracker.remaining_usd())
        assert usd == (1, Decimal("0.25"), Decimal("0.5"), Decimal("0.25"))


def test_without_limits_it_only_meters() -> None:
    """An absent limit is None, and everything fits."""
    tracker = BudgetTracker()
    with tracker.reserve(10**12, calls=10**6, usd=10**6) as hold:
        hold.settle()
    limits = (tracker.total, tracker.total_usd, tracker.total_calls)
    left = (tracker.remaining(), tracker.remaining_usd(), tracker.remaining_calls())
    assert limits == left == (None, None, None)
    assert tracker.spent_usd == 10**6
    assert not tracker.breached


def test_every_unit_has_its_own_refusal() -> None:
    """The error names the unit that is short, and shows figures in the unit that users see."""
    tracker = BudgetTracker(100, total_usd=1, total_calls=1)
    error = refused(lambda: tracker.reserve(0, usd="1.5"))
    assert (error.unit, error.total, error.requested, error.missing) == ("usd", 1, Decimal("1.5"), Decimal("0.5"))
    assert "0.5 USD" in str(error)
    error = refused(lambda: tracker.reserve(0, calls=3, usd=0))
    assert (error.unit, error.requested, error.missing) == ("calls", 3, 2)
    assert "fewer calls" in str(error)
    assert "max_tokens" in str(refused(lambda: tracker.reserve(101, usd=0)))


def test_limits_can_be_changed() -> None:
    """`set_limits` changes the given limits and keeps the others; None removes a limit."""
    tracker = BudgetTracker(100, total_usd=1, total_calls=5)
    tracker.set_limits(total=50)
    assert (tracker.total, tracker.total_usd, tracker.total_calls) == (50, 1, 5)
    tracker.set_limits(total=None, total_usd="2", total_calls=None)
    assert (tracker.total, tracker.total_usd, tracker.total_calls) == (None, 2, None)
    with pytest.raises(LLMConfigurationError):
        tracker.set_limits(total=10, total_calls=-1)
    assert tracker.total is None


def test_a_lowered_limit_refuses_and_a_raised_one_reopens() -> None:
    """`breached` follows the limit (BUDGET-10)."""
    tracker = BudgetTracker(100)
    tracker.consume(60)
    tracker.set_limits(total=50)
    assert tracker.breached
    refused(lambda: tracker.reserve(0))
    tracker.set_limits(total=61)
    assert not tracker.breached
    tracker.consume(1)


def test_a_limit_that_is_just_used_up_stops_only_what_needs_more_of_it() -> None:
    """A limit that is spent to the last token is not breached: a call that needs no tokens is admitted (BUDGET-10)."""
    tracker = BudgetTracker(100)
    with tracker.reserve(10):
        tracker.record(100)
        assert not tracker.breached
        tracker.reserve(0).release()
        with tracker.allot("s", total_calls=5) as share:
            share.reserve(0).release()
        assert refused(lambda: tracker.reserve(1)).reason == "never_fits"
    at_rest(tracker)


def test_str_and_repr_are_one_line() -> None:
    """The text shows the spend and the holds beside each limit."""
    tracker = BudgetTracker(50_000, total_usd="2.5", name="team")
    tracker.record(1_200, usd="0.75")
    assert str(tracker) == "team: 1,200 tokens spent and 0 tokens held of 50,000 tokens; " + (
        "0.75 USD spent and 0 USD held of 2.5 USD"
    )
    assert repr(tracker) == f"<BudgetTracker {tracker}>"
    assert str(BudgetTracker()) == ("budget: 0 tokens spent and 0 tokens held; 0 calls spent and 0 calls held")


def test_a_snapshot_is_of_one_moment() -> None:
    """A snapshot has all figures of one moment, and is immutable."""
    tracker = BudgetTracker(100, total_calls=2)
    hold = tracker.reserve(40)
    snapshot = tracker.snapshot()
    hold.release()
    assert snapshot == BudgetSnapshot(
        path="budget",
        total=100,
        total_calls=2,
        total_usd=None,
        spent=NOTHING,
        held=Amount(40, 1),
        presumed=NOTHING,
        allotted=NOTHING,
        waiting=0,
        breached=False,
        closed=False,
    )
    with pytest.raises(AttributeError):
        snapshot.waiting = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    "values",
    [
        {"total": 0},
        {"total": -1},
        {"total": 1.5},
        {"total": True},
        {"total": "100"},
        {"total_calls": 0},
        {"total_usd": 0},
        {"total_usd": -1},
        {"total_usd": float("nan")},
        {"name": ""},
        {"name": " "},
        {"name": None},
        {"keep_entries": -1},
        {"on_unknown": "ignore"},
    ],
    ids=str,
)
def test_invalid_limits_are_refused(values: dict[str, Any]) -> None:
    """A limit below 1, a fraction of a token, or a blank name is refused at construction; the error names the
    argument.
    """
    (name,) = values
    with pytest.raises(LLMConfigurationError, match=f"^{name} must be "):
        BudgetTracker(**values)


@pytest.mark.parametrize("value", [-1, 1.5, True, None, "3"])
def test_invalid_amounts_are_refused(value: Any) -> None:
    """Anything but a whole number of at least 0 is refused by `consume`, `record`, `reserve` and `correct`."""
    tracker = BudgetTracker(100)
    for use in (tracker.consume, tracker.record, tracker.reserve):
        with pytest.raises(LLMConfigurationError, match=r"^tokens must be "):
            use(value)
    with pytest.raises(LLMConfigurationError, match=r"^calls must be "):
        tracker.reserve(1, calls=value)
    if value is not None:
        with pytest.raises(LLMConfigurationError, match=r"^tokens must be "):
            tracker.correct(1, value)
        with pytest.raises(LLMConfigurationError, match=r"^calls must be "):
            tracker.correct(1, calls=value)
        for figures in ({"tokens": value}, {"calls": value}):
            with tracker.reserve(1) as hold, pytest.raises(LLMConfigurationError, match=f"^{next(iter(figures))} must"):
                hold.settle(**figures)
    with pytest.raises(LLMConfigurationError, match=r"^max_wait_seconds must be "):
        tracker.reserve(1, max_wait_seconds=-1)
    at_rest(tracker)


@pytest.mark.parametrize("usd", [-1, "much", True, float("inf")])
def test_invalid_usd_are_refused(usd: Any) -> None:
    """Anything but a finite amount of USD is refused by `record`, `reserve`, `settle` and `correct`."""
    tracker = BudgetTracker(100)
    with tracker.reserve(1) as hold:
        for use in (tracker.record, tracker.reserve, hold.settle, lambda usd: tracker.correct(1, usd=usd)):
            with pytest.raises(LLMConfigurationError, match=r"^usd must be an amount of USD"):
                use(usd=usd)
    at_rest(tracker)


async def test_a_task_reserves_what_a_thread_reserves() -> None:
    """`areserve` has the arguments and defaults of `reserve`: no tokens, one call, no USD, no wait."""
    tracker = BudgetTracker(total_calls=2)
    arguments: dict[str, Any] = {"calls": 0, "usd": "0.5", "adapter": "a", "model": "m", "labels": {"job": "report"}}
    for hold in (tracker.reserve(5, **arguments), await tracker.areserve(5, **arguments)):
        assert hold.bound == Amount(5, 0, 500_000_000)
        hold.settle()
    for entry in tracker.ledger:
        assert (entry.adapter, entry.model, entry.labels) == ("a", "m", {"job": "report"})
    with in_thread(tracker.reserve).result(PATIENCE) as one, await tracker.areserve() as other:
        assert one.bound == other.bound == Amount(0, 1)
        assert (await arefused(tracker.areserve())).reason == refused(tracker.reserve).reason == "refused"
    at_rest(tracker)


def test_a_member_of_an_enum_of_numbers_is_an_amount() -> None:
    """A subclass of int counts as its whole number, 0 included."""

    class Size(enum.IntEnum):
        NONE = 0
        SMALL = 5

    tracker = BudgetTracker(10)
    assert tracker.reserve(Size.SMALL, calls=Size.SMALL).bound == Amount(5, 5)
    assert tracker.reserve(Size.NONE, calls=Size.NONE).bound == NOTHING
    at_rest(tracker)


def test_what_is_not_recorded_is_nothing() -> None:
    """A record books exactly the given figures: a call alone, or USD alone."""
    tracker = BudgetTracker()
    assert tracker.record(calls=1).amount == Amount(0, 1)
    assert tracker.record(usd=1).amount == Amount(0, 0, 10**9)
    assert tracker.record(1).amount == Amount(1)


@pytest.mark.parametrize("name", ["a\x1b[31m", "a\nb", "a\x9b", "\u202ea"])
@pytest.mark.parametrize("field", ["adapter", "model"])
def test_a_name_of_more_than_a_line_is_refused(field: str, name: str) -> None:
    """The adapter and model of a user's own entry must be printable lines, because reports show them; nothing is
    booked.
    """
    tracker = BudgetTracker(100)
    for call in (tracker.record, tracker.reserve):
        with pytest.raises(LLMConfigurationError, match=field):
            call(7, **{field: name})
    assert (tracker.spent, tracker.held) == (0, 0)

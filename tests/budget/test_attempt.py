"""One attempt under a budget, as a flow."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from llm_connect._flows import Flow, drive
from llm_connect.budget.admission.holds import Hold
from llm_connect.budget.tracker import BudgetTracker
from llm_connect.interface.attempt import attempt
from tests.budget.budget_helpers import at_rest, outcomes


class Returning:
    """A call that comes back from its wait for budget with this outcome; notes its steps."""

    def __init__(self, tracker: BudgetTracker, outcome: str | None) -> None:
        self.tracker = tracker
        self.outcome = outcome
        self.steps: list[str] = []

    def reserve(self) -> Flow[Hold]:
        yield from ()
        return self.tracker.reserve(10)

    def come_back(self) -> Flow[str | None]:
        yield from ()
        self.steps.append("come back")
        return self.outcome

    def exchange(self, hold: Hold) -> Generator[Any, Any, str]:
        yield from ()
        self.steps.append(hold.state)
        return "answered"

    def end(self, hold: Hold, outcome: str) -> None:
        self.steps.append(outcome)
        if outcome == "answered":
            hold.settle(4)

    def end_open(self, hold: Hold) -> None:
        hold.end_unsettled()


def test_a_call_that_has_its_slot_again_is_sent() -> None:
    """Its hold is dispatched once it may be sent, and settled by the answer. (BUDGET-3)"""
    tracker = BudgetTracker(100)
    call = Returning(tracker, None)
    assert drive(attempt(call)) == "answered"
    assert call.steps == ["come back", "dispatched", "answered"]
    assert (outcomes(tracker), tracker.spent) == (["settled"], 4)
    at_rest(tracker)


def test_a_call_that_gets_no_slot_again_is_not_sent() -> None:
    """Its outcome ends the attempt, and its hold is released, because nothing can have been billed. (BUDGET-3)"""
    tracker = BudgetTracker(100)
    call = Returning(tracker, "no slot")
    assert drive(attempt(call)) == "no slot"
    assert call.steps == ["come back", "no slot"]
    assert (outcomes(tracker), tracker.spent) == (["released"], 0)
    at_rest(tracker)

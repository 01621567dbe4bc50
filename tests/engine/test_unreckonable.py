"""An answer has come, and then something foreign fails: a price, a bound, or what reads a stream."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from llm_connect import BudgetTracker, LLMResponseError, Price, RunConfig
from llm_connect.protocols.stream_reading import Reading
from llm_connect.protocols.wire import Answer
from llm_connect.types.usage import Usage
from tests.engine.test_call_budget import Stub

USED = Usage(prompt_tokens=5, completion_tokens=1)


class BrokenPrice(Price):
    """A price of a user's own that cannot reckon."""

    def billed_as(self, service_tier: str | None) -> Price | None:
        raise ZeroDivisionError


class BrokenForMuch(Price):
    """A price of a user's own that can reckon only the calls that it knows."""

    def at_most(self, prompt_tokens: int, completion_tokens: int, calls: int) -> int:
        if prompt_tokens > 500:
            raise ZeroDivisionError
        return super().at_most(prompt_tokens, completion_tokens, calls)


class BrokenBound(Stub):
    """An adapter of a user's own that cannot bound."""

    def bound_of(self, *arguments: Any) -> Any:
        raise KeyError("size")


class BrokenReading(Reading):
    """What reads a stream, and cannot."""

    def feed(self, piece: bytes) -> list[str]:
        raise IndexError


class Unreadable(Stub):
    def reading(self) -> Reading:
        return BrokenReading()

    def open(self, *arguments: Any) -> Any:
        reply = super().open(*arguments)
        reply._pieces = [b"x", b""]
        return reply


def answer(usage: Usage | None) -> Answer:
    return Answer(content="yes", model="m", usage=usage, finish_reason="stop")


def test_a_price_that_fails_does_not_take_the_answer() -> None:
    """The call is presumed, and its cost is not known. (BUDGET-3)"""
    tracker = BudgetTracker(1_000)
    adapter = Stub(answer(USED), price=BrokenPrice(prompt=1, completion=1))
    response = adapter.execute_prompt("hello", RunConfig(budget_tracker=tracker, max_tokens=10))
    assert (response.content, response.cost) == ("yes", None)
    assert [entry.outcome for entry in tracker.ledger] == ["presumed"]
    assert tracker.held == 0


def test_a_price_that_fails_for_a_longer_call_does_not_take_the_answer() -> None:
    """What is known of its usage is more than the bound, and the bound is presumed. (BUDGET-3)"""
    tracker, adapter = BudgetTracker(1_000), Stub(price=BrokenForMuch(prompt=1, completion=1))
    adapter.says = [replace(answer(None), used_at_least=Usage(prompt_tokens=501, completion_tokens=1))]
    response = adapter.execute_prompt("hello", RunConfig(budget_tracker=tracker, max_tokens=10))
    (entry,) = tracker.ledger
    assert (response.content, entry.outcome, entry.amount) == ("yes", "presumed", entry.bound)
    assert 0 < entry.amount.tokens < 500
    assert tracker.held == 0


def test_a_bound_that_fails_does_not_take_the_answer() -> None:
    """Without a budget it only stands in for a usage that is not told: the bytes of the prompt do. (CALL-6)"""
    response = BrokenBound(answer(None)).execute_prompt("hello", RunConfig())
    assert response.usage == Usage(prompt_tokens=5, completion_tokens=3, estimated=True)


def test_what_cannot_read_a_stream_fails_as_an_unreadable_reply() -> None:
    """No foreign exception leaves a stream, and its call is presumed. (BUDGET-3)"""
    tracker = BudgetTracker(1_000)
    config = RunConfig(budget_tracker=tracker, max_tokens=10, max_retries=0)
    with pytest.raises(LLMResponseError, match="IndexError"):
        list(Unreadable(answer(USED), answer(None)).stream_prompt("hello", config))
    assert tracker.held == 0
    assert tracker.spent > 0

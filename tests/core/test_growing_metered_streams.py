"""Streams that an adapter writes itself, knowing nothing of budgets, with a hold that grows with them."""

from __future__ import annotations

from typing import Any

import pytest

from llm_connect import (
    BudgetTracker,
    FinishChunk,
    LLMBudgetExceededError,
    LLMConfigurationError,
    LLMResponse,
    MockLLMAdapter,
    RunConfig,
    TextChunk,
    Usage,
    UsageChunk,
)
from tests.core.test_written_streams import USAGE, WHOLE, Written, take_async, take_sync

HELLO = 5
both = pytest.mark.parametrize("take", [take_sync, take_async], ids=["sync", "async"])


def config_of(tracker: BudgetTracker, **fields: Any) -> RunConfig:
    return RunConfig(**{"budget_tracker": tracker, "stream_hold": "grow", "clamp_floor": 1, "max_tokens": 50, **fields})


def entries(tracker: BudgetTracker) -> list[tuple[str, int, str]]:
    return [(entry.outcome, entry.amount.tokens, entry.grade) for entry in tracker.ledger]


@both
def test_it_ends_where_nothing_more_is_free(take: Any) -> None:
    """As a stream of a provider does: closed, booked as one that is left, with the finish reason "budget".

    (STREAM-12)
    """
    tracker, adapter = BudgetTracker(HELLO + 5), Written("one", " two", WHOLE)
    stream, chunks = take(adapter, config_of(tracker))
    estimate = Usage(prompt_tokens=HELLO, completion_tokens=3, estimated=True)
    assert chunks == [TextChunk("one"), UsageChunk(estimate), FinishChunk("budget")]
    response = stream.response
    assert (stream.text, response.content, response.finish_reason, response.usage) == ("one", "one", "budget", estimate)
    assert adapter.left == ["closed"]
    assert entries(tracker) == [("presumed", HELLO + 3, "estimated")]
    assert tracker.held == 0


@both
def test_what_was_given_before_the_edge_is_the_answer(take: Any) -> None:
    """All pieces that were given on, as they were. (STREAM-12)"""
    tracker = BudgetTracker(HELLO + 6)
    stream, _ = take(Written("one", " t", "wo", WHOLE), config_of(tracker))
    assert (stream.text, stream.response.content, tracker.spent) == ("one t", "one t", HELLO + 5)


@both
def test_what_is_covered_comes_to_its_end(take: Any) -> None:
    """It settles by its response. (STREAM-12)"""
    tracker = BudgetTracker(HELLO + 7)
    stream, chunks = take(Written("one", " two", WHOLE), config_of(tracker))
    assert (stream.text, stream.response, len(chunks)) == ("one two", WHOLE, 4)
    assert entries(tracker) == [("settled", USAGE.total_tokens, "estimated")]


@both
def test_left_early_what_was_held_is_booked(take: Any) -> None:
    """Not the bound. (STREAM-13)"""
    tracker = BudgetTracker(1_000)
    take(Written("one", " two", WHOLE), config_of(tracker), 1)
    assert entries(tracker) == [("presumed", HELLO + 3, "estimated")]
    assert tracker.held == 0


@both
def test_its_adapter_gets_the_output_limit_of_its_bound(take: Any) -> None:
    """However little is held. (STREAM-13)"""

    class Noting(Written):
        def stream_prompt(self, prompt: str, config: RunConfig | None = None) -> Any:
            limits.append(config and config.max_tokens)
            return super().stream_prompt(prompt, config)

        def async_stream_prompt(self, prompt: str, config: RunConfig | None = None) -> Any:
            limits.append(config and config.max_tokens)
            return super().async_stream_prompt(prompt, config)

    limits: list[int | None] = []
    take(Noting(WHOLE), config_of(BudgetTracker(HELLO + 20), max_tokens=None))
    assert limits[0] == 2_000


@both
def test_an_adapter_without_a_stream_holds_its_bound(take: Any) -> None:
    """It gives its whole reply as one text, so there is nothing to grow with. (STREAM-13)"""
    with pytest.raises(LLMBudgetExceededError) as caught:
        take(MockLLMAdapter("four words are here"), config_of(BudgetTracker(HELLO + 20)))
    assert caught.value.requested == HELLO + 50


@both
def test_a_strict_budget_refuses_it(take: Any) -> None:
    """Before the adapter is asked. (STREAM-13, BUDGET-44)"""
    adapter = Written(WHOLE)
    with pytest.raises(LLMBudgetExceededError, match="stream_hold"):
        take(adapter, config_of(BudgetTracker(1_000, strict=True)))
    assert adapter.begun == 0


@both
def test_a_stream_over_the_adapters_own_call_holds_its_bound(take: Any) -> None:
    """The call inside takes the place of the growing hold, and settles it; its text needs no more. (STREAM-2)"""

    class Upper(MockLLMAdapter):
        def stream_prompt(self, prompt: str, config: RunConfig | None = None) -> Any:
            return super().stream_prompt(prompt.upper(), config)

        def async_stream_prompt(self, prompt: str, config: RunConfig | None = None) -> Any:
            return super().async_stream_prompt(prompt.upper(), config)

    tracker = BudgetTracker(HELLO + 50)
    stream, _ = take(Upper("x" * 500, completion_tokens=40), config_of(tracker))
    assert (len(stream.text), stream.response.finish_reason, tracker.held) == (500, "stop", 0)


def test_its_values_are_two() -> None:
    """Another one is refused, and it carries over to a sub-agent. (MODEL-6, MODEL-10)"""
    with pytest.raises(LLMConfigurationError, match="stream_hold must be one of 'bound', 'grow', not 'shrink'"):
        RunConfig(stream_hold="shrink")  # type: ignore[arg-type]
    assert RunConfig(stream_hold="grow").delegate("b").stream_hold == "grow"


def test_a_response_may_end_at_the_budget() -> None:
    """`budget` is one of the closed set. (MODEL-9)"""
    assert (
        LLMResponse(content="", model="m", usage=USAGE, finish_reason="budget").to_dict()["finish_reason"] == "budget"
    )

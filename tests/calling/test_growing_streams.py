"""Streams whose hold grows with them, through an adapter whose transport is a script, with a fault at every line."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from decimal import Decimal
from typing import Any

import pytest

from llm_connect import (
    BudgetTracker,
    FinishChunk,
    LLMBudgetExceededError,
    LLMError,
    Price,
    RunConfig,
    TextChunk,
    UsageChunk,
)
from llm_connect.calling import retry
from tests.calling.test_faults import Fault, Injector
from tests.calling.test_streaming import (
    BILL,
    DONE,
    FINISH,
    GOOD,
    MORE,
    TEXT,
    USAGE,
    Opened,
    Run,
    Scripted,
    both,
    check_after_a_fault,
    check_every_step,
    run_async,
    run_sync,
)

PROMPT_BOUND = Scripted().bound("hello", RunConfig()).prompt_tokens


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "_FIRST_PAUSE_SECONDS", 0.001)


def config_of(tracker: BudgetTracker, **fields: Any) -> RunConfig:
    growing = {"stream_hold": "grow", "clamp_floor": 1, "max_tokens": 60, "max_retries": 1}
    return RunConfig(**{"budget_tracker": tracker, **growing, **fields})


def room_for(output: int) -> BudgetTracker:
    """A budget with room for so much output."""
    return BudgetTracker(PROMPT_BOUND + output)


def entries(tracker: BudgetTracker) -> list[tuple[str, int, str]]:
    return [(entry.outcome, entry.amount.tokens, entry.grade) for entry in tracker.ledger]


@both
def test_it_ends_where_nothing_more_is_free(run: Run) -> None:
    """Before the text that is not covered, with the finish reason "budget": the reply is closed, what was held is
    booked as of a stream that is left, and the response has what came and a hint. (STREAM-12)
    """
    tracker, reply = room_for(3), Opened(200, *GOOD)
    stream, seen = run(Scripted(reply), config_of(tracker))
    assert (seen[0], seen[2]) == (TextChunk("hi"), FinishChunk("budget"))
    assert isinstance(seen[1], UsageChunk)
    response = stream.response
    assert (stream.text, response.content, response.model, response.finish_reason) == ("hi", "hi", "m-1", "budget")
    assert (response.usage.prompt_tokens, response.usage.completion_tokens) == (PROMPT_BOUND, 2)
    assert response.usage.estimated
    assert "raise its limit" in response.metadata["hint"]
    assert reply.closed == 1
    assert entries(tracker) == [("presumed", PROMPT_BOUND + 2, "estimated")]
    assert tracker.held == 0
    assert next(iter(tracker.ledger)).request_id == response.metadata["request_id"] == "r1"


@both
def test_what_is_covered_comes_to_its_end(run: Run) -> None:
    """With room enough it is a stream like others, settled by the provider's figures. (STREAM-12, STREAM-5)"""
    tracker = room_for(6)
    stream, seen = run(Scripted(Opened(200, *GOOD)), config_of(tracker))
    assert (stream.text, stream.response.finish_reason, len(seen)) == ("hi you", "stop", 4)
    assert entries(tracker) == [("settled", BILL, "estimated")]


@both
def test_the_first_text_may_be_too_much(run: Run) -> None:
    """Then the stream has no text, and does not try again. (STREAM-12)"""
    tracker, adapter = room_for(1), Scripted(Opened(200, *GOOD))
    stream, seen = run(adapter, config_of(tracker))
    assert [type(chunk) for chunk in seen] == [UsageChunk, FinishChunk]
    assert (stream.text, stream.response.finish_reason, len(adapter.opened)) == ("", "budget", 1)


@both
def test_an_answer_that_is_whole_already_is_given_on(run: Run) -> None:
    """What came together with the final figures is booked by these, and more text costs nothing more. (STREAM-12)"""
    tracker = room_for(1)
    stream, _ = run(Scripted(Opened(200, TEXT + MORE + FINISH + USAGE + DONE)), config_of(tracker))
    assert (stream.text, stream.response.finish_reason) == ("hi you", "stop")
    assert entries(tracker) == [("settled", BILL, "estimated")]


@both
def test_figures_so_far_are_a_floor_at_the_edge(run: Run) -> None:
    """What the provider has counted by then is booked where it is more than what was held. (STREAM-6, STREAM-12)"""
    early = b'data: {"choices": [], "usage": {"prompt_tokens": 3000, "completion_tokens": 2}}\n\n'
    tracker = room_for(3)
    run(Scripted(Opened(200, TEXT, early, MORE)), config_of(tracker))
    assert entries(tracker) == [("settled", 3002, "estimated")]
    assert tracker.held == 0


@both
@pytest.mark.parametrize(
    "pieces",
    [
        (b'{"choices": [{"message": {"content": "hi you"}, "finish_reason": "stop"}]}',),
        (TEXT + MORE + FINISH + DONE,),
    ],
    ids=["not streamed", "at once"],
)
def test_a_whole_answer_without_figures_is_booked_by_its_text(run: Run, pieces: tuple[bytes, ...]) -> None:
    """It comes with its end, and more than is held: what it may have used is booked, in USD too. (STREAM-12)"""
    tracker, adapter = BudgetTracker(10_000, total_usd=1), Scripted(Opened(200, *pieces))
    adapter.price = Price(prompt=1, completion=1_000)
    stream, _ = run(adapter, config_of(tracker))
    assert stream.text == "hi you"
    assert entries(tracker) == [("settled", PROMPT_BOUND + 6, "estimated")]
    assert tracker.spent_usd == Decimal(PROMPT_BOUND) / 1_000_000 + Decimal(6) / 1_000


@both
def test_hidden_output_is_booked_in_full(run: Run) -> None:
    """What the provider bills beyond the text passes the hold, and may pass the cap: it is booked, the answer is whole,
    and nothing is sent while the cap is passed. (STREAM-13)
    """
    figures = b'data: {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 5000}}\n\n'
    tracker, adapter = room_for(10), Scripted(Opened(200, TEXT, FINISH + figures, DONE), Opened(200, *GOOD))
    stream, _ = run(adapter, config_of(tracker))
    assert (stream.text, tracker.spent, tracker.held) == ("hi", 5003, 0)
    with pytest.raises(LLMBudgetExceededError):
        run(adapter, config_of(tracker))
    assert len(adapter.opened) == 1


@both
def test_each_attempt_begins_anew(run: Run) -> None:
    """A retry before the first text holds the first step again. (STREAM-2, STREAM-12)"""
    tracker = BudgetTracker(10_000)
    stream, _ = run(Scripted(Opened(429, b"{}"), Opened(200, *GOOD)), config_of(tracker))
    assert stream.text == "hi you"
    assert entries(tracker) == [("released", 0, "estimated"), ("settled", BILL, "estimated")]


@both
def test_left_early_what_was_held_is_booked(run: Run) -> None:
    """That is the input, the text that was seen, and the rest of a step; not the bound. (STREAM-13)"""
    tracker = BudgetTracker(10_000)
    run(Scripted(Opened(200, *GOOD)), config_of(tracker, clamp_floor=16), 1)
    assert entries(tracker) == [("presumed", PROMPT_BOUND + 16, "estimated")]


@both
def test_the_output_limit_is_sent_all_the_same(run: Run) -> None:
    """The caller's, else the adapter's default, however little is free: no stream uses more than its bound.

    (STREAM-13)
    """
    for asked, sent in ((60, 60), (None, 2_000)):
        limits: list[Any] = []

        class Noting(Scripted):
            def render(self, prompt: Any, config: Any, max_tokens: Any, limits: list[Any] = limits) -> Any:
                limits.append(max_tokens)
                return super().render(prompt, config, max_tokens)

        run(Noting(Opened(200, *GOOD)), config_of(room_for(6), max_tokens=asked))
        assert limits[-1] == sent


@both
def test_a_strict_budget_refuses_it(run: Run) -> None:
    """It admits only what is proven, and says what to set instead. (STREAM-13, BUDGET-44)"""
    adapter = Scripted(Opened(200, *GOOD))
    with pytest.raises(LLMBudgetExceededError, match='use stream_hold="bound"') as caught:
        run(adapter, config_of(BudgetTracker(10_000, strict=True)))
    assert (caught.value.reason, adapter.opened) == ("unproven", [])


def test_a_call_that_is_not_streamed_holds_its_bound() -> None:
    """The same config serves both. (STREAM-13)"""
    adapter = Scripted()
    with pytest.raises(LLMBudgetExceededError) as caught:
        adapter.execute_prompt("hello", config_of(room_for(20)))
    assert caught.value.requested == PROMPT_BOUND + 60


@both
def test_without_a_budget_there_is_no_edge(run: Run) -> None:
    """Nothing is held. (STREAM-12)"""
    stream, _ = run(Scripted(Opened(200, *GOOD)), RunConfig(stream_hold="grow", clamp_floor=1))
    assert stream.text == "hi you"


CASES: dict[str, tuple[Callable[[], Scripted], int]] = {
    "whole": (lambda: Scripted(Opened(200, *GOOD)), 100),
    "edge": (lambda: Scripted(Opened(200, *GOOD)), 3),
    "no text": (lambda: Scripted(Opened(200, *GOOD)), 1),
    "retried": (lambda: Scripted(Opened(429, b"{}"), Opened(200, *GOOD)), 3),
    "broken": (lambda: Scripted(Opened(200, TEXT, OSError)), 100),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("count", [1, 99])
def test_both_forms_do_the_same(case: str, count: int) -> None:
    """The same chunks, response, entries and closed replies in a thread and in a loop. (CALL-1, STREAM-12)"""
    found = []
    for run in (run_sync, run_async):
        adapter, tracker = CASES[case][0](), room_for(CASES[case][1])
        shown: Any = None
        with suppress(LLMError):
            stream, seen = run(adapter, config_of(tracker), count)
            shown = (stream.text, stream.response.usage, stream.response.finish_reason, seen)
        found.append((shown, entries(tracker), [reply.closed for reply in adapter.opened]))
        assert tracker.held == 0
    assert found[0] == found[1]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("count", [1, 99])
def test_a_fault_at_any_line_leaves_nothing_held(case: str, count: int) -> None:
    """Raised at any line, growing and ending at the edge included. (BUDGET-3, STREAM-4, STREAM-12)"""
    counter = Injector(None)
    with counter, suppress(LLMError):
        run_sync(CASES[case][0](), config_of(room_for(CASES[case][1])), count)
    assert counter.lines > 60
    for line in range(1, counter.lines + 1):
        tracker, adapter = room_for(CASES[case][1]), CASES[case][0]()
        with Injector(line), suppress(LLMError, Fault):
            run_sync(adapter, config_of(tracker), count)
        check_after_a_fault(tracker, adapter, f"at line {line}")


@both
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("after", [False, True])
def test_a_fault_at_any_step_leaves_nothing_held(run: Run, case: str, after: bool) -> None:
    """Raised by any step, before or after it is done. (BUDGET-3, STREAM-4, STREAM-12)"""
    check_every_step(run, lambda: (CASES[case][0](), config_of(room_for(CASES[case][1]))), after=after)

"""Questions to a provider beside the calls: their place, their deadline, and what they leave when they end badly."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest

from llm_connect._flows import adrive, drive
from llm_connect.budget.accounting.bounds import Bound
from llm_connect.budget.tracker import BudgetTracker
from llm_connect.engine.concurrency_limit import TakeSlot, Turn
from llm_connect.engine.deadline import Deadline, Head, awaited
from llm_connect.engine.exchange import Counting, Request, Send
from llm_connect.engine.flow import Call
from llm_connect.errors import LLMResponseError
from llm_connect.interface.config import RunConfig
from llm_connect.protocols.wire import Answer, Failure, Reply
from llm_connect.types.usage import Usage
from tests.budget.budget_helpers import at_rest, outcomes
from tests.engine.heads import note_headers
from tests.engine.test_call_budget import GOOD, THROWN, Stub, config_of, steps_to

COUNT = Request("/count", "m", {})


class Asking(Stub):
    """A stub whose provider counts: `counts` is what comes of each question, a status or an exception."""

    def __init__(self, *says: Any, counts: list[Any], **options: Any) -> None:
        self.counts = list(counts)
        self.questions = 0
        super().__init__(*says, **{"count_tokens": "provider", **options})

    def _endpoint_that_counts(self) -> Counting:
        return Counting(lambda request: COUNT, self._counted)

    def _counted(self, bound: Bound, reply: Reply, model: str) -> Bound:
        assert model == "m"
        return replace(bound, prompt_tokens=min(3, bound.prompt_tokens)) if reply.status == 200 else bound

    def send(self, request: Request, deadline: Deadline) -> Reply:
        if request is not COUNT:
            return super().send(request, deadline)
        self.questions += 1
        said = self.counts.pop(0)
        if isinstance(said, BaseException):
            raise said
        return Reply(said, {}, b"")


def to_its_end(running: Any, step: Any) -> list[type[Any]]:
    """Run a flow that waits at `step`; the kinds of its steps from there."""
    kinds = []
    with suppress(StopIteration):
        while True:
            kinds.append(type(step))
            step = running.send(step.run())
    return kinds


def both(make: Callable[[], Asking], config: Callable[[], RunConfig]) -> list[Any]:
    """What the two drivers come to."""
    sync, other = make(), make()
    told = drive(Call(sync, "hello", config()).run()), asyncio.run(adrive(Call(other, "hello", config()).run()))
    return [(response.content, response.metadata["attempts"]) for response in told] + [sync, other]


@pytest.mark.parametrize("said", [200, 500, RuntimeError("no")], ids=["good", "bad", "raises"])
def test_both_drivers_ask_alike(said: Any) -> None:
    """The same question gives the same hold in both forms, whatever comes of it. (CALL-1, BUDGET-34)"""
    trackers = [BudgetTracker(1_000), BudgetTracker(1_000)]
    configs = iter([config_of(tracker) for tracker in trackers])
    first, second, *_ = both(lambda: Asking(GOOD, counts=[said]), lambda: next(configs))
    assert first == second == ("yes", 1)
    held = [[entry.bound.tokens for entry in tracker.ledger] for tracker in trackers]
    assert held[0] == held[1]
    assert (held[0] == [63]) is (said == 200)
    for tracker in trackers:
        at_rest(tracker)


def test_a_call_without_a_budget_does_not_ask() -> None:
    """There is nothing to hold."""
    adapter = Asking(GOOD, counts=[])
    assert drive(Call(adapter, "hello", RunConfig()).run()).content == "yes"
    assert adapter.questions == 0


def test_a_tokenizer_is_not_the_provider() -> None:
    """With a function the provider is not asked, although it could be."""
    tracker, adapter = BudgetTracker(1_000), Asking(GOOD, counts=[], count_tokens=lambda _: 5)
    drive(Call(adapter, "hello", config_of(tracker)).run())
    assert adapter.questions == 0
    assert [entry.bound.tokens for entry in tracker.ledger] == [65]


def test_turned_off_during_a_call_it_counts_no_more() -> None:
    """`count_tokens` is an attribute: what was counted for a call is not used once it is None."""
    tracker, adapter = BudgetTracker(1_000), Asking(GOOD, counts=[200])
    running = Call(adapter, "hello", config_of(tracker)).run()
    step = next(running)
    while not (isinstance(step, Send) and step.request is COUNT):
        step = running.send(step.run())
    adapter.count_tokens = None
    step = running.send(step.run())
    assert isinstance(step, Send)
    assert tracker.held == adapter.bound("hello", RunConfig(max_tokens=60)).total_tokens
    running.close()


def test_the_question_is_asked_in_the_place_of_its_call() -> None:
    """It waits for no place of its own, and its time does not begin before its call has one. (BUDGET-34, CALL-36)"""
    tracker, adapter = BudgetTracker(1_000), Asking(GOOD, counts=[200], max_concurrency=1)
    place = adapter.slots.take(Turn(20))
    assert place is not None
    running = Call(adapter, "hello", config_of(tracker, timeout_seconds=2)).run()
    waiting = next(running)
    assert isinstance(waiting, TakeSlot)
    place.give_back()
    step = running.send(waiting.run())
    assert isinstance(step, Send)
    assert step.request is COUNT
    to_its_end(running, step)
    assert adapter.questions == 1
    at_rest(tracker)


@pytest.mark.parametrize("error", THROWN, ids=lambda make: type(make()).__name__)
@pytest.mark.parametrize("step", [TakeSlot, Send])
def test_an_exception_while_asking_leaves_nothing(step: type[Any], error: Callable[[], BaseException]) -> None:
    """No hold is open yet, and the place is given back. (BUDGET-3, BUDGET-32)"""
    tracker, adapter, thrown = BudgetTracker(1_000), Asking(GOOD, counts=[200], max_concurrency=1), error()
    running = Call(adapter, "hello", config_of(tracker)).run()
    steps_to(running, step)
    with pytest.raises(type(thrown)):
        running.throw(thrown)
    assert outcomes(tracker) == []
    drive(Call(adapter, "hello", config_of(tracker)).run())
    at_rest(tracker)


def test_the_question_is_not_asked_again_for_a_retry() -> None:
    """Each attempt holds by the one count. (BUDGET-32)"""
    bad = Failure(kind=LLMResponseError, message="cut", retryable=True, retry_after=0.0)
    tracker, adapter = BudgetTracker(1_000), Asking(bad, bad, GOOD, counts=[200])
    drive(Call(adapter, "hello", config_of(tracker)).run())
    assert adapter.questions == 1
    assert [entry.bound.tokens for entry in tracker.ledger] == [63, 63, 63]


def test_an_answer_without_usage_is_estimated_by_what_was_held() -> None:
    """With a budget by its bound, without one by bytes, never by asking again. (CALL-11)"""
    silent = Answer(content="yes", model="m", usage=None, finish_reason="stop")
    adapter = Asking(silent, silent, counts=[200])
    response = drive(Call(adapter, "hello", config_of(BudgetTracker(1_000))).run())
    assert response.usage == Usage(prompt_tokens=3, completion_tokens=3, estimated=True)
    response = drive(Call(adapter, "hello", RunConfig()).run())
    assert response.usage.prompt_tokens == adapter.bound("hello", RunConfig()).prompt_tokens
    assert adapter.questions == 1


def test_headers_are_noted_for_the_request_that_waits() -> None:
    """Outside of a request nothing is kept; a new one begins without. (CALL-30)"""
    import contextvars

    contextvars.Context().run(note_headers, "r0")
    first, second = Head(), Head()
    awaited.set(first)
    note_headers("r1")
    awaited.set(second)
    assert (first.request_id, second.request_id, Head().request_id) == ("r1", None, None)


def test_a_failure_keeps_the_id_that_it_has() -> None:
    """What the transport tells by itself counts before the headers. (CALL-30)"""
    known = Failure(kind=LLMResponseError, message="cut", request_id="its own")

    class Cut(Stub):
        def send(self, request: Request, deadline: Deadline) -> Reply:
            note_headers("r1")
            raise OSError

        def transport_failure(self, error: Exception) -> Failure:
            return known if self.model == "knows" else replace(known, request_id=None)

    for model, expected in (("knows", "its own"), ("m", "r1")):
        with pytest.raises(LLMResponseError) as caught:
            drive(Call(Cut(model=model), "hello", RunConfig()).run())
        assert caught.value.request_id == expected


def test_pauses_are_no_part_of_asking() -> None:
    """A count that fails is not asked again, and only a store is waited for: no time is lost. (BUDGET-34)"""
    adapter = Asking(GOOD, counts=[503])
    running = Call(adapter, "hello", config_of(BudgetTracker(1_000))).run()
    assert to_its_end(running, next(running)) == [TakeSlot, Send, Send]

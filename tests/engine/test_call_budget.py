"""Whatever ends a call at whatever step, its hold has ended by what is known."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from llm_connect._flows import adrive, drive
from llm_connect.budget.accounting.bounds import Bound
from llm_connect.budget.accounting.prices import Price
from llm_connect.budget.admission.acquire import Wait
from llm_connect.budget.tracker import BudgetTracker
from llm_connect.engine import flow as flow_module
from llm_connect.engine.concurrency_limit import TakeSlot
from llm_connect.engine.deadline import Deadline
from llm_connect.engine.exchange import Pause, Request, Send
from llm_connect.engine.flow import Call
from llm_connect.engine.provider_adapter import ProviderAdapter
from llm_connect.errors import (
    LLMBudgetExceededError,
    LLMConfigurationError,
    LLMRateLimitError,
    LLMResponseError,
    LLMTimeoutError,
)
from llm_connect.interface.config import RunConfig
from llm_connect.protocols.stream_reading import Reading
from llm_connect.protocols.wire import Answer, Failure, Reply
from llm_connect.types.amounts import NOTHING, Amount
from llm_connect.types.response import LLMResponse
from llm_connect.types.usage import Usage
from tests.budget.budget_helpers import at_rest, outcomes
from tests.engine.heads import note_headers

BAD = Failure(kind=LLMResponseError, message="cut", retryable=True, retry_after=0.0)
SLOW_DOWN = Failure(kind=LLMRateLimitError, message="slow", retryable=True, maybe_billed=False, retry_after=0.0)
GOOD = Answer(content="yes", model="m-1", usage=Usage(prompt_tokens=10, completion_tokens=5), finish_reason="stop")

BAD_WITH_USAGE = Failure(
    kind=LLMResponseError,
    message="bad",
    usage=Usage(prompt_tokens=4, completion_tokens=3),
    details={"status_code": 200},
)


class StubReply:
    """An open reply whose bytes come at once, in both forms."""

    def __init__(self, reply: Reply) -> None:
        self.status, self.headers = reply.status, reply.headers
        self._pieces = [reply.body, b""]
        self.closed = 0

    def read(self, deadline: Deadline) -> bytes:
        return self._pieces.pop(0)

    async def aread(self) -> bytes:
        return self._pieces.pop(0)

    def close(self) -> None:
        self.closed += 1

    async def aclose(self) -> None:
        self.close()

    def abandon(self) -> None:
        self.close()


class Stub(ProviderAdapter):
    """Says what it is told to say; parses what it sends."""

    provider = "stub"

    def __init__(self, *says: Any, **options: Any) -> None:
        super().__init__(**{"model": "m", "max_concurrency": 2, **options})
        self.says = list(says)
        self.limits: list[int | None] = []

    def render(self, prompt: str, config: RunConfig, max_tokens: int | None) -> Request:
        return Request("/", "m", {"prompt": prompt, "max": max_tokens})

    def limited(self, request: Request, max_tokens: int | None) -> Request:
        return Request("/", "m", {**request.body, "max": max_tokens})

    def parse(self, reply: Reply) -> Answer | Failure:
        return self._say()  # type: ignore[no-any-return]

    def send(self, request: Request, deadline: Deadline) -> Reply:
        self.limits.append(request.body["max"])
        return Reply(200, {}, b"")

    async def asend(self, request: Request, deadline: Deadline) -> Reply:
        return self.send(request, deadline)

    def streamed(self, request: Request) -> Request:
        return request

    def reading(self) -> Reading:
        return Reading()

    def open(self, request: Request, deadline: Deadline) -> StubReply:
        return StubReply(self.send(request, deadline))

    async def aopen(self, request: Request, deadline: Deadline) -> StubReply:
        return self.open(request, deadline)

    def transport_failure(self, error: Exception) -> Failure:
        return BAD

    def _say(self) -> Any:
        said = self.says.pop(0)
        if isinstance(said, BaseException):
            raise said
        return said


def config_of(tracker: BudgetTracker, **fields: Any) -> RunConfig:
    return RunConfig(**{"budget_tracker": tracker, "max_tokens": 60, "timeout_seconds": 30, **fields})


def bound_of(adapter: Stub, config: RunConfig) -> Amount:
    return adapter.bound("hello", config).amount_at(60)


def steps_to(flow: Any, kind: type[Any]) -> Any:
    """Run `flow` until it yields a step of `kind`, which is not run."""
    step = next(flow)
    while not isinstance(step, kind):
        step = flow.send(step.run())
    return step


def granted_after_a_wait(tracker: BudgetTracker, adapter: Stub) -> tuple[Any, Any]:
    """A call that has waited for budget, and the step that takes what it was granted."""
    filler = tracker.reserve(tracker.total or 0)
    running = Call(adapter, "hello", config_of(tracker)).run()
    wait = steps_to(running, Wait)
    filler.release()
    return running, running.send(wait.run())


def end_of(flow: Any, step: Any) -> Any:
    """What `flow`, which waits at `step`, comes to."""
    try:
        while True:
            step = flow.send(step.run())
    except StopIteration as stop:
        return stop.value


THROWN: list[Callable[[], BaseException]] = [
    lambda: RuntimeError("bug"),
    asyncio.CancelledError,
    KeyboardInterrupt,
    lambda: LLMConfigurationError("known"),
]
#: At which step, and what the ledger says then.
STEPS = [(TakeSlot, []), (Send, ["presumed"]), (Pause, ["presumed"])]


@pytest.mark.parametrize("error", THROWN, ids=lambda make: type(make()).__name__)
@pytest.mark.parametrize(("step", "ends"), STEPS, ids=lambda value: getattr(value, "__name__", None))
def test_an_exception_at_any_step_ends_the_hold(
    step: type[Any], ends: list[str], error: Callable[[], BaseException]
) -> None:
    """Released before dispatch, presumed after it, nothing before there is a hold (BUDGET-3, CALL-12)."""
    tracker, adapter, thrown = BudgetTracker(1_000), Stub(BAD), error()
    running = Call(adapter, "hello", config_of(tracker)).run()
    steps_to(running, step)
    with pytest.raises(type(thrown)) as caught:
        running.throw(thrown)
    assert caught.value is thrown
    assert outcomes(tracker) == ends
    at_rest(tracker)


@pytest.mark.parametrize("way", ["close", "collect"])
@pytest.mark.parametrize(("step", "ends"), STEPS, ids=lambda value: getattr(value, "__name__", None))
def test_a_call_that_is_dropped_at_any_step_ends_its_hold(step: type[Any], ends: list[str], way: str) -> None:
    """Closed or garbage collected, a flow leaves no open hold (BUDGET-3)."""
    tracker = BudgetTracker(1_000)
    running = Call(Stub(BAD), "hello", config_of(tracker)).run()
    steps_to(running, step)
    if way == "close":
        running.close()
    del running
    gc.collect()
    assert outcomes(tracker) == ends
    at_rest(tracker)


@pytest.mark.parametrize("again", [lambda: 1, lambda: 2])
def test_a_slot_is_given_back(again: Callable[[], int]) -> None:
    """After an exception during the send, the place among the concurrent requests is free."""
    adapter = Stub(GOOD, GOOD, max_concurrency=1)
    running = Call(adapter, "hello", RunConfig()).run()
    steps_to(running, Send)
    with pytest.raises(KeyboardInterrupt):
        running.throw(KeyboardInterrupt())
    for _ in range(again()):
        assert drive(Call(adapter, "hello", RunConfig(timeout_seconds=5)).run()).content == "yes"


def test_a_hold_that_was_granted_and_never_taken_ends() -> None:
    """A driver that is interrupted between the grant and the flow leaves no hold behind (BUDGET-3)."""
    tracker = BudgetTracker(1_000)
    running, step = granted_after_a_wait(tracker, Stub())
    hold = step.run()
    del hold
    running.close()
    gc.collect()
    at_rest(tracker)


@pytest.mark.parametrize("way", ["throw", "close"])
def test_a_call_that_ends_while_it_waits_for_budget_leaves_no_trace(way: str) -> None:
    """Whether nothing was granted yet, or something that it has not taken (BUDGET-6)."""
    tracker = BudgetTracker(1_000)
    with tracker.reserve(1_000):
        running = Call(Stub(), "hello", config_of(tracker)).run()
        steps_to(running, Wait)
        with suppress(KeyboardInterrupt):
            running.throw(KeyboardInterrupt()) if way == "throw" else running.close()
        assert tracker.snapshot().waiting == 0
    running, _ = granted_after_a_wait(tracker, Stub())
    with suppress(KeyboardInterrupt):
        running.throw(KeyboardInterrupt()) if way == "throw" else running.close()
    at_rest(tracker)


def test_a_good_answer_settles_by_its_usage() -> None:
    """What the reply says was used is booked, and the entry is named in the response."""
    tracker = BudgetTracker(1_000)
    response = Stub(GOOD).execute_prompt("hello", config_of(tracker))
    (entry,) = tracker.ledger
    assert (entry.outcome, entry.amount, entry.model) == ("settled", Amount(15, 1), "m-1")
    assert response.metadata["ledger_entry"] == entry.id
    at_rest(tracker)


def test_what_is_held_is_what_is_sent() -> None:
    """With no `max_tokens`, the limit in the request is the limit in the hold (BUDGET-8)."""
    tracker, adapter = BudgetTracker(700), Stub(GOOD)
    adapter.execute_prompt("hello", config_of(tracker, max_tokens=None))
    (entry,) = tracker.ledger
    prompt = adapter.bound("hello", RunConfig()).prompt_tokens
    assert adapter.limits == [entry.bound.tokens - prompt]
    assert entry.bound.tokens <= 700


@pytest.mark.parametrize(
    ("outcome", "ends"),
    [
        (Answer(content="yes", model="m", usage=None, finish_reason="stop"), "presumed"),
        (Failure(kind=LLMResponseError, message="cut"), "presumed"),
        (Failure(kind=LLMRateLimitError, message="slow", maybe_billed=False), "released"),
        (Failure(kind=LLMResponseError, message="odd", usage=Usage(prompt_tokens=1, completion_tokens=1)), "settled"),
        (ValueError("parse has a bug"), "presumed"),
    ],
)
async def test_both_drivers_end_the_hold_alike(outcome: Any, ends: str) -> None:
    """Whatever a reply says, the sync and the async driver book the same, and errors say what (BUDGET-3)."""
    for run in (drive, adrive):
        tracker = BudgetTracker(1_000)
        result: Any
        try:
            result = run(Call(Stub(outcome), "hello", config_of(tracker, max_retries=0)).run())
            result = await result if asyncio.iscoroutine(result) else result
        except Exception as error:
            result = error
        assert outcomes(tracker) == [ends]
        if isinstance(outcome, Failure):
            assert (type(result), result.attempts) == (outcome.kind, 1)
            assert result.booked == next(iter(tracker.ledger)).amount
        else:
            assert isinstance(result, LLMResponse | LLMResponseError)
        at_rest(tracker)


def test_each_attempt_has_its_own_hold() -> None:
    """A retry holds anew, and each attempt has its entry (BUDGET-3, CALL-12)."""
    tracker = BudgetTracker(1_000)
    response = Stub(SLOW_DOWN, BAD, GOOD).execute_prompt("hello", config_of(tracker))
    assert outcomes(tracker) == ["released", "presumed", "settled"]
    assert response.metadata["attempts"] == 3
    at_rest(tracker)


def test_a_retry_that_does_not_fit_raises_the_first_failure() -> None:
    """When there is no budget for another attempt, the error is why the last one failed (CALL-12)."""
    adapter = Stub(BAD, GOOD)
    one = bound_of(adapter, RunConfig(max_tokens=60))
    tracker = BudgetTracker(one.tokens + 10)
    with pytest.raises(LLMResponseError) as caught:
        adapter.execute_prompt("hello", config_of(tracker))
    error = caught.value
    assert (error.attempts, error.booked, error.maybe_billed) == (1, one, True)
    assert outcomes(tracker) == ["presumed"]
    at_rest(tracker)


def test_the_first_attempt_that_does_not_fit_is_the_budgets_error() -> None:
    """A call that was never sent raises LLMBudgetExceededError, with nothing booked."""
    tracker = BudgetTracker(10)
    with pytest.raises(LLMBudgetExceededError) as caught:
        Stub(GOOD).execute_prompt("hello", config_of(tracker))
    assert (caught.value.attempts, caught.value.booked, caught.value.provider) == (0, NOTHING, "stub")
    at_rest(tracker)


def test_errors_add_up_what_all_attempts_cost() -> None:
    """`booked` is the sum over the attempts, and `attempts` their number (CALL-13)."""
    tracker, adapter = BudgetTracker(10_000), Stub(BAD, SLOW_DOWN, BAD)
    with pytest.raises(LLMResponseError) as caught:
        adapter.execute_prompt("hello", config_of(tracker))
    one = bound_of(adapter, RunConfig(max_tokens=60))
    assert (caught.value.attempts, caught.value.booked) == (3, one.plus(one))
    assert tracker.snapshot().spent == caught.value.booked


def test_no_place_in_time_holds_nothing() -> None:
    """A call that found no place among the concurrent requests was not sent, and held nothing (BUDGET-3)."""
    tracker, adapter = BudgetTracker(1_000), Stub(GOOD, max_concurrency=1)
    running = Call(adapter, "hello", RunConfig()).run()
    steps_to(running, Send)
    with pytest.raises(LLMTimeoutError) as caught:
        adapter.execute_prompt("hello", config_of(tracker, max_queue_seconds=0.02))
    assert (caught.value.attempts, caught.value.booked) == (0, NOTHING)
    assert outcomes(tracker) == []
    running.close()


@pytest.mark.parametrize(("method", "ends"), [("render", []), ("limited", ["released"])])
def test_a_request_that_cannot_be_made_holds_nothing(
    method: str, ends: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is rendered before anything is held; if its output limit cannot be set then, it was not sent. (BUDGET-3)"""
    tracker, adapter = BudgetTracker(1_000), Stub(GOOD)

    def fail(*_: object) -> Request:
        raise LLMConfigurationError("unknown parameter")

    monkeypatch.setattr(adapter, method, fail)
    with pytest.raises(LLMConfigurationError):
        adapter.execute_prompt("hello", config_of(tracker, max_tokens=None))
    assert outcomes(tracker) == ends
    at_rest(tracker)


def test_a_subclass_may_bound_its_calls_itself() -> None:
    """The bound that a subclass computes is held, not that of the request. (BUDGET-1)"""

    class Careful(Stub):
        def bound(self, prompt: str, config: RunConfig) -> Bound:
            return Bound(prompt_tokens=700, max_tokens=60)

    tracker = BudgetTracker(1_000)
    Careful(GOOD).execute_prompt("hello", config_of(tracker))
    assert [entry.bound.tokens for entry in tracker.ledger] == [760]


def test_a_hold_that_no_longer_covers_its_call_is_reserved_anew() -> None:
    """What is learned between the hold of a call and its sending counts, in its next hold (BUDGET-41)."""
    tracker, adapter = BudgetTracker(2_000), Stub(GOOD, GOOD)
    overrun = Usage(prompt_tokens=10, completion_tokens=120)
    waiting, step = granted_after_a_wait(tracker, adapter)
    hold = step.run()
    bound = bound_of(adapter, config_of(tracker))
    filler = tracker.reserve(2_000 - 2 * bound.tokens)
    other = Stub(Answer(content="much", model="m", usage=overrun, finish_reason="stop"))
    other.execute_prompt("hello", config_of(tracker))
    step = waiting.send(hold)
    while not isinstance(step, Wait):
        step = waiting.send(step.run())
    assert adapter.limits == []
    filler.release()
    while not isinstance(step, Send):
        step = waiting.send(step.run())
    assert tracker.held == bound.tokens + 60
    assert end_of(waiting, step).metadata["attempts"] == 1
    assert outcomes(tracker) == ["released", "settled", "released", "released", "settled"]
    at_rest(tracker)


class Over(Stub):
    """A subclass that adds something and calls its base."""

    def execute_prompt(self, prompt: str, config: RunConfig | None = None) -> LLMResponse:
        return super().execute_prompt(prompt, config)

    async def async_execute_prompt(self, prompt: str, config: RunConfig | None = None) -> LLMResponse:
        return await super().async_execute_prompt(prompt, config)


def test_a_subclass_that_calls_its_base_counts_once() -> None:
    """The call path takes the place of the hold around it (BUDGET-7)."""
    adapter = Over(GOOD, GOOD)
    tracker = BudgetTracker(bound_of(adapter, RunConfig(max_tokens=60)).tokens)
    adapter.execute_prompt("hello", config_of(tracker))
    assert outcomes(tracker) == ["settled"]
    assert tracker.spent == 15
    at_rest(tracker)


async def test_a_subclass_in_a_crowd_keeps_what_it_was_granted() -> None:
    """In a full budget, too: nobody comes between the two holds of one call (BUDGET-2, BUDGET-7)."""
    adapter = Over(*[GOOD] * 30)
    tracker = BudgetTracker(bound_of(adapter, RunConfig(max_tokens=60)).tokens + 30 * 15)
    calls = (adapter.async_execute_prompt("hello", config_of(tracker, max_wait_seconds=20)) for _ in range(30))
    assert len(await asyncio.gather(*calls)) == 30
    assert outcomes(tracker) == ["settled"] * 30
    at_rest(tracker)


def test_a_subclass_whose_base_gets_no_budget_is_counted() -> None:
    """A base that is called without the budget does not end the hold that is around it (BUDGET-1, BUDGET-7)."""

    class Fresh(Stub):
        def execute_prompt(self, prompt: str, config: RunConfig | None = None) -> LLMResponse:
            return super().execute_prompt(prompt, RunConfig(max_tokens=60))

    tracker = BudgetTracker(1_000)
    Fresh(GOOD).execute_prompt("hello", config_of(tracker))
    assert tracker.spent == 15


def test_the_flow_needs_a_prompt() -> None:
    """A prompt that nobody can send is refused before anything is held."""
    tracker = BudgetTracker(1_000)
    with pytest.raises(LLMConfigurationError):
        drive(flow_module.Call(Stub(), " ", config_of(tracker)).run())
    at_rest(tracker)


def test_an_adapter_of_another_provider_has_no_list_price() -> None:
    """Without a declared price it is refused unsent; with one, what is sent is what it renders (BUDGET-12)."""
    adapter = Stub(GOOD, BAD_WITH_USAGE, model="gpt-4.1-mini")
    config = config_of(BudgetTracker(total_usd=1))
    with pytest.raises(LLMBudgetExceededError, match=r"no price of 'gpt-4\.1-mini'"):
        adapter.execute_prompt("hello", config)
    assert adapter.limits == []
    adapter.price = Price(prompt=1, completion=2)
    assert adapter.execute_prompt("hello", config).cost == Decimal("0.00002")
    with pytest.raises(LLMResponseError):
        adapter.execute_prompt("hello", config)
    assert config.budget_tracker is not None
    assert config.budget_tracker.spent_usd == Decimal("0.00003")
    at_rest(config.budget_tracker)


async def test_the_entry_of_a_cancelled_call_names_its_request() -> None:
    """A call that is cancelled while its reply comes can be looked up by the id in the reply's headers. (CALL-30)"""
    came = asyncio.Event()

    class Slow(Stub):
        async def asend(self, request: Request, deadline: Deadline) -> Reply:
            note_headers("r1")
            came.set()
            await asyncio.sleep(60)
            return self.send(request, deadline)

    tracker = BudgetTracker(1_000)
    task = asyncio.create_task(Slow(GOOD).async_execute_prompt("hello", config_of(tracker)))
    await came.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    (entry,) = tracker.ledger
    assert (entry.outcome, entry.request_id) == ("presumed", "r1")
    assert tracker.correct(entry.id, 3).request_id == "r1"
    at_rest(tracker)


def test_an_entry_names_no_key() -> None:
    """A request id that echoes the key is cleaned like any other text of a provider. (CALL-30)"""
    key = "key-0123456789abcdef"
    tracker = BudgetTracker(1_000)
    Stub(replace(GOOD, request_id=f"id-{key}"), secrets=(key,)).execute_prompt("hello", config_of(tracker))
    (entry,) = tracker.ledger
    assert entry.request_id == "id-[key]"


@pytest.mark.parametrize("price", [None, Price(prompt=1, completion=1)])
def test_a_list_of_prices_is_read_for_a_call_without_a_price(price: Price | None) -> None:
    """Under a limit in USD, and only if nobody has declared a price."""

    class Listed(Stub):
        price_list = "openai"  # type: ignore[assignment]

    adapter = Listed(price=price)
    for tracker, wanted in ((BudgetTracker(total_usd=1), price is None), (BudgetTracker(100), False)):
        config = RunConfig(budget_tracker=tracker, max_tokens=5)
        assert flow_module.Call(adapter, "hello", config)._priced_by_list() is wanted

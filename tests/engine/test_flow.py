"""The one call path, through an adapter whose transport is a script."""

from __future__ import annotations

import asyncio
import pickle
import time
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from llm_connect import (
    LLMAPIError,
    LLMConfigurationError,
    LLMConnectionError,
    LLMError,
    LLMRateLimitError,
    LLMResponse,
    LLMTimeoutError,
    OpenRouterAdapter,
    RunConfig,
)
from llm_connect.engine.concurrency_limit import Turn
from llm_connect.protocols.wire import Failure, Reply

GOOD = Reply(
    200,
    {"x-request-id": "r1"},
    b'{"model": "m-1", "choices": [{"message": {"content": "hi"}, "finish_reason": "stop"}],'
    b' "usage": {"prompt_tokens": 3, "completion_tokens": 2, "cost": 0.5}}',
)
BUSY = Reply(429, {"retry-after": "0", "x-request-id": "r0"}, b"{}")
Ask = Callable[..., LLMResponse]


class Scripted(OpenRouterAdapter):
    """Sends nothing: each attempt takes the next of `turns`, the last one again when they run out."""

    marks_sent = False

    def __init__(self, *turns: Any, **options: Any) -> None:
        super().__init__(**{"api_key": "sk-or-0123456789", "model": "m", **options})
        self.turns = list(turns)
        self.sent: list[Any] = []

    def send(self, request: Any, deadline: Any) -> Reply:
        self.sent.append(request)
        turn = self.turns.pop(0) if len(self.turns) > 1 else self.turns[0]
        if isinstance(turn, BaseException):
            raise turn
        return turn  # type: ignore[no-any-return]

    async def asend(self, request: Any, deadline: Any) -> Reply:
        await asyncio.sleep(0)
        return self.send(request, deadline)

    def transport_failure(self, error: Exception) -> Failure:
        return Failure(kind=LLMConnectionError, message=type(error).__name__, retryable=isinstance(error, OSError))


def _async(adapter: Scripted, *arguments: Any) -> LLMResponse:
    return asyncio.run(adapter.async_execute_prompt(*arguments))


@pytest.fixture(params=[Scripted.execute_prompt, _async], ids=["sync", "async"])
def ask(request: pytest.FixtureRequest) -> Ask:
    """Both forms of a call."""
    return request.param  # type: ignore[no-any-return]


def fails(ask: Ask, adapter: Scripted, config: RunConfig | None = None) -> LLMError:
    with pytest.raises(LLMError) as caught:
        ask(adapter, "a question", config)
    return caught.value


def test_an_answer_becomes_a_response(ask: Ask) -> None:
    """Content, model, usage, cost with its source, and the metadata that is always there. (CALL-6)"""
    response = ask(Scripted(GOOD), "a question")
    assert (response.content, response.model, response.finish_reason) == ("hi", "m-1", "stop")
    assert (response.usage.prompt_tokens, response.usage.completion_tokens) == (3, 2)
    assert (response.cost, response.cost_source) == (Decimal("0.5"), "provider")
    metadata = response.metadata
    assert (metadata["provider"], metadata["attempts"], metadata["request_id"]) == ("openrouter", 1, "r1")
    assert metadata["latency_seconds"] >= 0


def test_both_forms_give_the_same(ask: Ask) -> None:
    """Apart from the time it took, the async response is the sync response. (CALL-1)"""
    here, there = ask(Scripted(BUSY, GOOD), "x").to_dict(), Scripted(BUSY, GOOD).execute_prompt("x").to_dict()
    for response in (here, there):
        del response["metadata"]["latency_seconds"]
    assert here == there


@pytest.mark.parametrize(
    "turns",
    [
        (Reply(400, {}, b'{"error": {"message": "no", "code": "c"}}'),),
        (BUSY, OSError("cut"), Reply(503, {"x-request-id": "r9", "retry-after": "0"}, b"{}")),
        (Reply(200, {}, b"<html>"),),
        (RuntimeError("x"),),
    ],
    ids=["refused", "three attempts", "unreadable", "transport"],
)
def test_both_forms_give_the_same_error(turns: tuple[Any, ...]) -> None:
    """The async error has the class, the text and all attributes of the sync one, after as many attempts. (CALL-1)"""
    adapters = Scripted(*turns), Scripted(*turns)
    here, there = fails(Scripted.execute_prompt, adapters[0]), fails(_async, adapters[1])
    assert type(here) is type(there)
    assert (str(here), vars(here)) == (str(there), vars(there))
    assert len(adapters[0].sent) == len(adapters[1].sent) == here.attempts == len(turns)


def test_the_last_failure_is_the_error(ask: Ask) -> None:
    """Of different failures in a row the caller sees the one that ended the attempts. (CALL-3)"""
    adapter = Scripted(BUSY, OSError("cut"), Reply(503, {"x-request-id": "r9"}, b"{}"))
    error = fails(ask, adapter, RunConfig(max_retries=2))
    assert type(error) is LLMAPIError
    assert (error.status_code, error.request_id, error.attempts) == (503, "r9", 3)


def test_attempts_end_with_the_first_answer(ask: Ask) -> None:
    """What failed before is in the count, and the request is the same each time."""
    adapter = Scripted(BUSY, OSError("cut"), GOOD)
    assert ask(adapter, "x").metadata["attempts"] == 3
    assert adapter.sent[0].body == adapter.sent[1].body == adapter.sent[2].body


def test_attempts_end_with_max_retries(ask: Ask) -> None:
    """The last failure is the error, with all it knows. (CALL-3)"""
    adapter = Scripted(BUSY)
    error = fails(ask, adapter, RunConfig(max_retries=3))
    assert type(error) is LLMRateLimitError
    assert (error.attempts, len(adapter.sent)) == (4, 4)
    assert (error.provider, error.model, error.request_id, error.retry_after) == ("openrouter", "m", "r0", 0)


def test_what_will_not_pass_ends_the_attempts(ask: Ask) -> None:
    """A failure that cannot pass is not tried again, whoever reports it. (CALL-3)"""
    for turn, kind in ((Reply(400, {}, b""), LLMAPIError), (RuntimeError("x"), LLMConnectionError)):
        adapter = Scripted(turn)
        assert type(fails(ask, adapter)) is kind
        assert len(adapter.sent) == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3), asyncio.CancelledError()], ids=repr)
def test_what_is_no_exception_passes_untouched(error: BaseException) -> None:
    """BaseExceptions pass as they are, and the place is free again. (ADAPTER-2)"""
    adapter = Scripted(error, GOOD, max_concurrency=1)
    with pytest.raises(type(error)) as caught:
        adapter.execute_prompt("x")
    assert caught.value is error
    assert adapter.execute_prompt("x", RunConfig(timeout_seconds=5)).content == "hi"


async def test_cancellation_frees_the_place() -> None:
    """A cancelled call holds no place, and is cancelled. (CALL-8)"""
    never = asyncio.Event()

    class Slow(Scripted):
        async def asend(self, request: Any, deadline: Any) -> Reply:
            self.sent.append(request)
            await never.wait()
            raise AssertionError

    adapter = Slow(GOOD, max_concurrency=1)
    for _ in range(3):
        task = asyncio.create_task(adapter.async_execute_prompt("x"))
        adapter.sent.clear()
        while not adapter.sent:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_a_call_that_is_cancelled_in_its_pause_makes_no_further_attempt() -> None:
    """Cancelled between two attempts, a call ends there, and the next call has its place. (CALL-8)"""
    adapter = Scripted(Reply(429, {"retry-after": "60"}, b"{}"), GOOD, max_concurrency=1)
    task = asyncio.create_task(adapter.async_execute_prompt("x"))
    while not adapter.sent:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(adapter.sent) == 1
    assert (await adapter.async_execute_prompt("x", RunConfig(timeout_seconds=5))).content == "hi"


def test_a_failed_attempt_frees_the_place(ask: Ask) -> None:
    """With a single place, retries and later calls still go through."""
    adapter = Scripted(OSError("cut"), BUSY, GOOD, max_concurrency=1)
    for _ in range(3):
        assert ask(adapter, "x", RunConfig(timeout_seconds=10)).content == "hi"


def test_a_request_that_is_rendered_too_late_is_not_sent(ask: Ask) -> None:
    """A call whose deadline passes before its request is sent ends there, and has cost nothing."""

    class Slow(Scripted):
        def render(self, prompt: Any, config: RunConfig, max_tokens: int | None) -> Any:
            time.sleep(0.06)
            return super().render(prompt, config, max_tokens)

    adapter = Slow(GOOD)
    adapter.prepare()
    config = RunConfig(timeout_seconds=0.05)
    with pytest.raises(LLMTimeoutError, match="before anything was sent"):
        list(adapter.stream_prompt("a question", config))
    error = fails(ask, adapter, config)
    assert isinstance(error, LLMTimeoutError)
    assert "before anything was sent" in str(error)
    assert not error.maybe_billed
    assert not adapter.sent


def test_a_send_that_ends_after_the_deadline_is_a_timeout(ask: Ask) -> None:
    """Whatever the transport raises once the time is over, the error is a timeout. (CALL-2)"""

    class Late(Scripted):
        def send(self, request: Any, deadline: Any) -> Reply:
            self.sent.append(request)
            time.sleep(deadline.remaining() + 0.01)
            raise OSError("cut")

    adapter = Late(GOOD)
    adapter.warm_up()
    error = fails(ask, adapter, RunConfig(timeout_seconds=0.1))
    assert type(error) is LLMTimeoutError
    assert (error.attempts, len(adapter.sent)) == (1, 1)


async def test_waiting_for_a_place_ends_when_it_has_taken_too_long() -> None:
    """With every place taken a call ends in a timeout that says so, when its `max_queue_seconds` are over. (CALL-36)"""
    adapter = Scripted(GOOD, max_concurrency=1)
    release = adapter.slots.take(Turn(20))
    arelease = await adapter.slots.atake(Turn(20))
    config = RunConfig(max_queue_seconds=0.1)
    for error in (await _fails_async(adapter, config), fails(Scripted.execute_prompt, adapter, config)):
        assert type(error) is LLMTimeoutError
        assert "concurrency slot" in str(error)
    assert adapter.sent == []
    for place in (release, arelease):
        assert place is not None
        place.give_back()
    assert adapter.execute_prompt("x").content == "hi"


async def _fails_async(adapter: Scripted, config: RunConfig) -> LLMError:
    with pytest.raises(LLMError) as caught:
        await adapter.async_execute_prompt("x", config)
    return caught.value


def test_bad_input_is_refused_before_anything_is_sent(ask: Ask) -> None:
    """A prompt or parameter that cannot be meant costs no request. (ADAPTER-7)"""
    adapter = Scripted(GOOD)
    for arguments in ((" ",), (5,), ("x", RunConfig(model_params={"zzz": 1}))):
        with pytest.raises(LLMConfigurationError):
            ask(adapter, *arguments)
    assert adapter.sent == []


def test_an_answer_without_usage_is_estimated(ask: Ask) -> None:
    """Unknown usage is marked, and an answer without a header or id has no request id. (CALL-11)"""
    reply = Reply(200, {}, b'{"choices": [{"message": {"content": "hi"}}]}')
    response = ask(Scripted(reply), "x")
    assert response.usage.estimated is True
    assert "request_id" not in response.metadata
    assert response.cost is None


def test_errors_are_scrubbed_and_can_be_pickled(ask: Ask) -> None:
    """What the provider echoes of key and prompt is in no part of the error. (ERROR-5)"""
    secret = "the plans of the northern bridge, all of them"
    body = b'{"error": {"message": "sk-or-0123456789 said: the plans of the northern bridge, all of them"}}'
    with pytest.raises(LLMError) as caught:
        ask(Scripted(Reply(400, {}, body)), secret)
    for shown in (str(caught.value), repr(vars(caught.value)), pickle.dumps(caught.value).decode("latin-1")):
        assert "northern bridge" not in shown
        assert "0123456789" not in shown


def test_validating_a_config_sends_nothing() -> None:
    """`validate_config` is advice about what can be rendered. (ADAPTER-4)"""
    adapter = Scripted(GOOD)
    assert adapter.validate_config(RunConfig(max_tokens=5, model_params={"seed": 1})) is True
    assert adapter.validate_config(RunConfig(model_params={"zzz": 1})) is False
    assert adapter.sent == []


async def test_an_adapter_without_clients_can_be_closed() -> None:
    """Closing what was never used is nothing, in both forms and as a context manager."""
    adapter = Scripted(GOOD)
    adapter.close()
    await adapter.aclose()
    with adapter as same:
        assert same is adapter
    async with adapter as same:
        assert same is adapter

"""The mock and the error adapter, as users use them in their own tests."""

from __future__ import annotations

import asyncio
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import pytest

from llm_connect import (
    BudgetTracker,
    ErrorLLMAdapter,
    LLMAdapter,
    LLMConfigurationError,
    LLMRateLimitError,
    LLMResponse,
    LLMTimeoutError,
    MockLLMAdapter,
    RunConfig,
    Usage,
)

Ask = Callable[..., LLMResponse]


def _sync(adapter: LLMAdapter, *arguments: Any) -> LLMResponse:
    return adapter.execute_prompt(*arguments)


def _async(adapter: LLMAdapter, *arguments: Any) -> LLMResponse:
    return asyncio.run(adapter.async_execute_prompt(*arguments))


@pytest.fixture(params=[_sync, _async], ids=["sync", "async"])
def ask(request: pytest.FixtureRequest) -> Ask:
    """Calls the adapter in both forms."""
    return request.param  # type: ignore[no-any-return]


def test_one_text_answers_every_call(ask: Ask) -> None:
    """A single reply answers every call."""
    assert ask(MockLLMAdapter(), "2+2").content == "mock reply"
    adapter = MockLLMAdapter("four")
    assert [ask(adapter, "2+2").content for _ in range(3)] == ["four"] * 3


def test_several_texts_answer_in_turn_and_the_last_one_stays(ask: Ask) -> None:
    """Replies are used in order; the last one is repeated. (ADAPTER-9)"""
    adapter = MockLLMAdapter(text for text in ("a", "b"))
    assert [ask(adapter, "x").content for _ in range(4)] == ["a", "b", "b", "b"]


def _stream(adapter: LLMAdapter, *arguments: Any) -> LLMResponse:
    with adapter.stream_prompt(*arguments) as stream:
        assert "".join(chunk.text for chunk in stream) == stream.response.content
    return stream.response


def _astream(adapter: LLMAdapter, *arguments: Any) -> LLMResponse:
    async def take() -> LLMResponse:
        async with adapter.async_stream_prompt(*arguments) as stream:
            assert "".join([chunk.text async for chunk in stream]) == stream.response.content
        return stream.response

    return asyncio.run(take())


@pytest.fixture(params=[_sync, _async, _stream, _astream], ids=["sync", "async", "stream", "async stream"])
def ask_or_stream(request: pytest.FixtureRequest) -> Ask:
    """Calls the adapter in all four forms."""
    return request.param  # type: ignore[no-any-return]


@pytest.mark.parametrize("metered", [False, True])
def test_exceptions_are_raised_in_their_turn(ask_or_stream: Ask, metered: bool) -> None:
    """A call whose reply is an exception raises it, and the next call gets its own reply. (ADAPTER-9)"""
    error = LLMRateLimitError("slow down", status_code=429, maybe_billed=False)
    tracker = BudgetTracker(100_000) if metered else None
    config = RunConfig(budget_tracker=tracker, max_tokens=50)
    adapter = MockLLMAdapter([error, "ok", ValueError("odd")])
    with pytest.raises(LLMRateLimitError) as caught:
        ask_or_stream(adapter, "x", config)
    assert caught.value is error
    assert ask_or_stream(adapter, "x", config).content == "ok"
    for _ in range(2):
        with pytest.raises(ValueError, match="odd"):
            ask_or_stream(adapter, "x", config)
    if tracker is not None:
        assert [entry.outcome for entry in tracker.ledger][:2] == ["released", "settled"]
        assert tracker.held == 0


def test_responses_are_given_as_they_are(ask_or_stream: Ask) -> None:
    """A whole response is returned unchanged, and its usage is booked, in each form of a call. (ADAPTER-9)"""
    usage = Usage(prompt_tokens=3, completion_tokens=4)
    given = LLMResponse(content="long text", model="m-7", usage=usage, finish_reason="length", cost=Decimal("0.5"))
    tracker = BudgetTracker(100_000)
    for adapter in (MockLLMAdapter(given), MockLLMAdapter([given]), MockLLMAdapter(lambda _: given)):
        response = ask_or_stream(adapter, "x", RunConfig(budget_tracker=tracker, max_tokens=50))
        assert (response.content, response.model, response.usage) == ("long text", "m-7", usage)
        assert (response.finish_reason, response.cost) == ("length", Decimal("0.5"))
    assert tracker.spent == 21


def test_a_function_may_give_an_error_or_a_response(ask: Ask) -> None:
    """The result of a reply function is a reply like any other; its exceptions are raised."""
    replies = {"a": LLMTimeoutError("late"), "b": "text"}
    adapter = MockLLMAdapter(lambda prompt: replies[prompt])
    with pytest.raises(LLMTimeoutError, match="late"):
        ask(adapter, "a")
    assert ask(adapter, "b").content == "text"


@pytest.mark.parametrize("wrong", [[1], ["ok", None], [LLMRateLimitError], 5, [b"bytes"]])
def test_what_is_no_reply_is_refused(wrong: Any) -> None:
    """A number, a class or None is refused at construction, not returned as an answer."""
    with pytest.raises(LLMConfigurationError, match="is a text, an LLMResponse or an exception, not"):
        MockLLMAdapter(wrong)
    with pytest.raises(LLMConfigurationError, match="is a text, an LLMResponse or an exception, not"):
        MockLLMAdapter(lambda _: 5).execute_prompt("x")  # type: ignore[arg-type, return-value]


def test_a_function_answers_by_prompt(ask: Ask) -> None:
    """A reply function receives the prompt."""
    assert ask(MockLLMAdapter(str.upper), "hi").content == "HI"


def test_a_function_may_look_at_the_adapter(ask: Ask) -> None:
    """A reply function that reads `prompts` does not deadlock."""
    adapter = MockLLMAdapter(lambda _prompt: f"call {len(adapter.prompts)}")
    answers: list[str] = []
    worker = threading.Thread(target=lambda: answers.append(ask(adapter, "x").content), daemon=True)
    worker.start()
    worker.join(5)
    assert answers == ["call 1"]


def test_a_function_that_waits_does_not_hold_up_other_calls() -> None:
    """Two threads are inside the reply function at the same time."""
    both = threading.Barrier(2, timeout=60)
    adapter = MockLLMAdapter(lambda prompt: f"{prompt}{both.wait() * 0}")
    with ThreadPoolExecutor(2) as pool:
        assert [r.content for r in pool.map(adapter.execute_prompt, ["a", "b"])] == ["a0", "b0"]


def test_no_reply_at_all_is_refused() -> None:
    """An empty list of replies is refused."""
    with pytest.raises(LLMConfigurationError, match=r"^MockLLMAdapter needs at least one reply"):
        MockLLMAdapter([])


@pytest.mark.parametrize(
    "options",
    [{"prompt_tokens": -1}, {"completion_tokens": 1.5}, {"delay_seconds": -1}, {"delay_seconds": "1"}],
)
def test_invalid_options_are_refused(options: dict[str, Any]) -> None:
    """The constructor refuses invalid figures and names the option."""
    with pytest.raises(LLMConfigurationError, match=f"^{next(iter(options))} must be "):
        MockLLMAdapter(**options)


def test_a_reply_may_cost_no_tokens(ask: Ask) -> None:
    """A usage of 0 tokens is valid."""
    assert ask(MockLLMAdapter(prompt_tokens=0, completion_tokens=0), "x").usage.total_tokens == 0


def test_calls_are_remembered_with_their_config(ask: Ask) -> None:
    """The mock keeps prompt and config of each call, in order, and returns a copy of that list. (ADAPTER-9)"""
    adapter, config = MockLLMAdapter(), RunConfig(max_tokens=3)
    ask(adapter, "one", config)
    ask(adapter, "two")
    assert adapter.prompts == ["one", "two"]
    assert adapter.calls[0] == ("one", config)
    adapter.calls.clear()
    assert len(adapter.calls) == 2


def test_a_response_says_what_it_was_told_to_say(ask: Ask) -> None:
    """Usage, model and metadata come from the options; a model in the config takes precedence."""
    adapter = MockLLMAdapter(model="small", prompt_tokens=3, completion_tokens=4)
    response = ask(adapter, "x")
    assert (response.usage.prompt_tokens, response.usage.completion_tokens) == (3, 4)
    assert response.model == "small"
    assert response.metadata == {"provider": "mock", "latency_seconds": 0, "attempts": 1}
    assert ask(adapter, "x", RunConfig(model_name="big")).model == "big"


@pytest.mark.parametrize("prompt", ["", None, 3, "\ud800"])
@pytest.mark.parametrize("adapter", [MockLLMAdapter(), ErrorLLMAdapter(LLMRateLimitError("slow"))])
def test_what_no_adapter_can_send_is_refused_here_too(ask: Ask, adapter: LLMAdapter, prompt: Any) -> None:
    """The mocks refuse the prompts that real adapters refuse. (ADAPTER-7)"""
    with pytest.raises(LLMConfigurationError):
        ask(adapter, prompt)


def test_a_delay_takes_its_time(ask: Ask) -> None:
    """A call takes `delay_seconds`."""
    started = time.monotonic()
    ask(MockLLMAdapter(delay_seconds=0.05), "x")
    assert time.monotonic() - started >= 0.045


def test_a_delay_beyond_the_timeout_ends_in_a_timeout(ask: Ask) -> None:
    """`timeout_seconds` is honoured by every adapter, the mock included. (ADAPTER-6)"""
    started = time.monotonic()
    with pytest.raises(LLMTimeoutError, match=r"timeout_seconds is over") as caught:
        ask(MockLLMAdapter(model="slow", delay_seconds=30), "x", RunConfig(timeout_seconds=0.05))
    assert time.monotonic() - started < 5
    assert (caught.value.provider, caught.value.model, caught.value.attempts) == ("mock", "slow", 1)
    assert ask(MockLLMAdapter(delay_seconds=0.05), "x", RunConfig(timeout_seconds=0.05)).content


def test_many_threads_lose_no_call() -> None:
    """Eight threads make a thousand calls: each call is remembered, and each reply used once. (ADAPTER-8, ADAPTER-9)"""
    adapter = MockLLMAdapter([str(number) for number in range(1000)])
    with ThreadPoolExecutor(8) as pool:
        answers = [r.content for r in pool.map(adapter.execute_prompt, ["x"] * 1000)]
    assert sorted(answers, key=int) == [str(number) for number in range(1000)]
    assert len(adapter.calls) == 1000


async def test_a_gather_loses_no_call() -> None:
    """A gather makes a hundred calls: each is remembered, and the answers come in the order of calls. (ADAPTER-9)"""
    adapter = MockLLMAdapter([str(number) for number in range(100)])
    responses = await asyncio.gather(*(adapter.async_execute_prompt(f"q {number}") for number in range(100)))
    assert [response.content for response in responses] == [str(number) for number in range(100)]
    assert adapter.prompts == [f"q {number}" for number in range(100)]


def test_the_error_adapter_raises_what_it_was_given(ask: Ask) -> None:
    """Every call raises the given error object. (ADAPTER-10)"""
    error = LLMRateLimitError("slow down", status_code=429)
    adapter = ErrorLLMAdapter(error)
    for _ in range(2):
        with pytest.raises(LLMRateLimitError) as caught:
            ask(adapter, "x")
        assert caught.value is error


def test_the_error_adapter_does_not_pile_up_tracebacks() -> None:
    """Raising one error many times does not make its traceback grow."""
    adapter, depths = ErrorLLMAdapter(LLMRateLimitError("slow")), []
    for _ in range(5):
        try:
            adapter.execute_prompt("x")
        except LLMRateLimitError as error:
            depths.append(len(traceback.extract_tb(error.__traceback__)))
    assert len(set(depths)) == 1


def test_the_error_adapter_takes_only_errors_of_this_library() -> None:
    """Only an LLMError may leave an adapter, so ErrorLLMAdapter accepts no other. (ADAPTER-10)"""
    with pytest.raises(LLMConfigurationError, match=r"^ErrorLLMAdapter takes an LLMError"):
        ErrorLLMAdapter(ValueError("x"))  # type: ignore[arg-type]

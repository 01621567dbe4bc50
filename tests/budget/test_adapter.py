"""The adapter interface, and the parts that a subclass inherits."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from llm_connect import LLMAdapter, LLMError, LLMResponse, RunConfig, Usage


class Echo(LLMAdapter):
    """The smallest possible adapter."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def execute_prompt(self, prompt: str, config: RunConfig | None = None) -> LLMResponse:
        self.seen.append((prompt, config, threading.current_thread()))
        if prompt == "fail":
            raise LLMError("as asked")
        return LLMResponse(content=prompt, model="echo", usage=Usage(prompt_tokens=1, completion_tokens=1))


def test_one_method_makes_an_adapter() -> None:
    """A subclass that defines `execute_prompt` can be instantiated and called."""
    assert Echo().execute_prompt("hi").content == "hi"


def test_an_adapter_without_its_method_cannot_be_made() -> None:
    """A subclass must define the one abstract method."""
    with pytest.raises(TypeError):
        LLMAdapter()  # type: ignore[abstract]


async def test_the_async_form_comes_for_free_and_does_not_block_the_loop() -> None:
    """The default async form runs `execute_prompt` with the same arguments in another thread. (ADAPTER-3)"""
    adapter, config = Echo(), RunConfig(max_tokens=5)
    assert (await adapter.async_execute_prompt("hi", config)).content == "hi"
    prompt, passed, thread = adapter.seen[0]
    assert (prompt, passed) == ("hi", config)
    assert thread is not threading.current_thread()


async def test_the_async_form_passes_errors_on() -> None:
    """An LLMError of the sync form is the same LLMError in the async form. (ADAPTER-2)"""
    with pytest.raises(LLMError, match="as asked"):
        await Echo().async_execute_prompt("fail")


async def test_cancelling_the_async_form_passes_cancelled_error() -> None:
    """A cancelled caller sees CancelledError at once, not the end of the thread. (ADAPTER-2, ADAPTER-3)"""
    entered, leave = threading.Event(), threading.Event()

    class Slow(Echo):
        def execute_prompt(self, prompt: str, config: RunConfig | None = None) -> LLMResponse:
            entered.set()
            leave.wait(10)
            return super().execute_prompt(prompt, config)

    task = asyncio.create_task(Slow().async_execute_prompt("hi"))
    await asyncio.to_thread(entered.wait, 10)
    task.cancel()
    try:
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not leave.is_set()
    finally:
        leave.set()


def test_validating_is_advice_and_says_yes_by_default() -> None:
    """By default an adapter expects to honour any config. (ADAPTER-4)"""
    assert Echo().validate_config(RunConfig(model_params={"anything": 1})) is True

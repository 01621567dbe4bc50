"""Keys and prompts that a provider echoes, in every format and mode."""

from __future__ import annotations

import asyncio
import base64
import time
from typing import Any

import pytest

from llm_connect import BudgetTracker, LLMAPIError, LLMResponse, RunConfig
from llm_connect.testing import Behaviour, EmbeddedProvider
from tests.providers.conftest import KEY, Make
from tests.providers.http_helpers import each_format

pytestmark = pytest.mark.slow

MODES = ["sync", "async", "stream", "async stream"]
ENCODED_KEY = base64.b64encode(KEY.encode()).decode()


def run(mode: str, adapter: Any, prompt: str, config: RunConfig) -> LLMResponse:
    if mode == "sync":
        return adapter.execute_prompt(prompt, config)  # type: ignore[no-any-return]
    if mode == "stream":
        with adapter.stream_prompt(prompt, config) as stream:
            return _last(stream)
    return asyncio.run(_arun(mode, adapter, prompt, config))


def _last(stream: Any) -> LLMResponse:
    for _ in stream:
        pass
    return stream.response  # type: ignore[no-any-return]


async def _arun(mode: str, adapter: Any, prompt: str, config: RunConfig) -> LLMResponse:
    async with adapter:
        if mode == "async":
            return await adapter.async_execute_prompt(prompt, config)  # type: ignore[no-any-return]
        async with adapter.async_stream_prompt(prompt, config) as stream:
            async for _ in stream:
                pass
        return stream.response  # type: ignore[no-any-return]


@each_format
@pytest.mark.parametrize("mode", MODES)
def test_a_long_id_and_a_long_prompt_take_no_time(make: Make, provider: EmbeddedProvider, mode: str) -> None:
    """An id that repeats the beginning of a long prompt is cut, and what is echoed is found in no time. (ERROR-5)"""
    prompt = "ab" * 150_000
    long_id = (prompt[:19] + "!") * 400
    provider.script(Behaviour(status=400, error_message=prompt[:19] + "?", headers={"x-request-id": long_id}))
    adapter = make()
    started = time.process_time()
    with pytest.raises(LLMAPIError) as caught:
        run(mode, adapter, prompt, RunConfig(max_retries=0))
    assert time.process_time() - started < 10
    assert len(caught.value.request_id or "") <= 200
    assert "abababababab" not in f"{caught.value} {vars(caught.value)}"


@each_format
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "echo", [KEY, ENCODED_KEY, KEY[::-1], KEY.encode().hex()], ids=["plain", "base64", "back", "hex"]
)
def test_an_id_that_echoes_the_key_is_in_no_response_error_or_entry(
    make: Make, provider: EmbeddedProvider, mode: str, echo: str
) -> None:
    """What the ledger, a response and an error call the request shows no key, in any spelling. (ERROR-5)"""
    tracker = BudgetTracker(total=10_000)
    config = RunConfig(max_retries=0, max_tokens=50, budget_tracker=tracker)
    adapter = make()
    provider.script(Behaviour(headers={"x-request-id": f"req_{echo}"}), times=1)
    response = run(mode, adapter, "Hello there", config)
    provider.script(Behaviour(status=500, headers={"x-request-id": f"req_{echo}"}), times=1)
    with pytest.raises(LLMAPIError) as caught:
        run(mode, adapter, "Hello there", config)
    entries = list(tracker.ledger)
    assert len(entries) == 2
    assert all(entry.request_id for entry in entries)
    for shown in (repr(response), repr(vars(caught.value)), repr(entries)):
        assert echo[4:20] not in shown
        assert echo[-14:-2] not in shown


@each_format
@pytest.mark.parametrize("mode", MODES)
def test_a_long_prompt_that_is_echoed_is_hidden(make: Make, provider: EmbeddedProvider, mode: str) -> None:
    """However long prompt and system prompt are, what an error repeats of them is hidden, in any escape. (ERROR-5)"""
    prompt = "A first part.\n" * 20_000 + 'The "northern" bridge\tis closed on Monday.'
    system = "You are the keeper of all bridges."
    echo = r"bad input: \"The \\\"northern\\\" bridge\\tis closed on Monday\" under you are THE KEEPER of all"
    provider.script(Behaviour(status=400, error_message=echo, error_code=echo, error_type=echo))
    with pytest.raises(LLMAPIError) as caught:
        run(mode, make(), prompt, RunConfig(max_retries=0, system_prompt=system))
    shown = f"{caught.value} {vars(caught.value)}"
    assert ": bad inpu" in shown
    assert not any(word in shown for word in ("northern", "closed", "KEEPER"))

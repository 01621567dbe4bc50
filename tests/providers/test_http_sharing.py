"""One adapter over HTTP for many threads, tasks and loops, and what is left of it when it is closed."""

from __future__ import annotations

import asyncio
import gc
import threading
import warnings
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from llm_connect import LLMAdapter, RunConfig, create_adapter
from llm_connect.engine import connecting
from llm_connect.testing import Behaviour, EmbeddedProvider
from tests.providers.conftest import Ask, Make, Wiring
from tests.providers.http_helpers import PROMPT, each_transport

pytestmark = pytest.mark.slow

# Threads, tasks and loops


@each_transport
async def test_cancellation_passes_and_lets_go(make: Make, provider: EmbeddedProvider) -> None:
    """CancelledError comes through as it is, its connection is closed, and its place is free again.

    (ADAPTER-2, CALL-8)
    """
    provider.script(Behaviour(stall="before_headers"), times=1)
    async with make(max_concurrency=1) as adapter:
        task = asyncio.create_task(adapter.async_execute_prompt(PROMPT))
        await asyncio.to_thread(provider.wait_for_requests, 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await adapter.async_execute_prompt(PROMPT)).content


@each_transport
async def test_a_timeout_around_a_call_is_the_callers(make: Make, provider: EmbeddedProvider) -> None:
    """The caller's own `asyncio.timeout` gives the caller's TimeoutError, not an LLMTimeoutError."""
    provider.script(Behaviour(stall="after_headers"))
    async with make() as adapter:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await adapter.async_execute_prompt(PROMPT)


@each_transport
def test_one_adapter_in_one_loop_after_the_other(make: Make, provider: EmbeddedProvider) -> None:
    """Three `asyncio.run` on one adapter, which does not keep closed loops alive when another comes."""
    adapter, loops = make(max_concurrency=1), []

    async def call() -> str:
        loops.append(weakref.ref(asyncio.get_running_loop()))
        responses = await asyncio.gather(*(adapter.async_execute_prompt(PROMPT) for _ in range(3)))
        return responses[0].content

    for _ in range(3):
        assert asyncio.run(call())
    gc.collect()
    assert len(provider.requests) == 9
    assert [loop() for loop in loops[:2]] == [None, None]


@each_transport
def test_one_adapter_in_two_loops_at_once(make: Make, provider: EmbeddedProvider) -> None:
    """Two threads with a loop each share an adapter, and both loops are busy at the same time. (ADAPTER-8)"""
    provider.script(Behaviour(delay=0.05))
    adapter, both = make(), threading.Barrier(2, timeout=60)

    async def calls() -> int:
        both.wait()
        responses = await asyncio.gather(*(adapter.async_execute_prompt(PROMPT) for _ in range(10)))
        both.wait()
        return len(responses)

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(lambda _: asyncio.run(calls()), range(2))) == [10, 10]
    assert len(provider.requests) == 20


def test_32_threads_share_one_adapter(make: Make, provider: EmbeddedProvider) -> None:
    """A first use by 32 threads at the same moment gives 32 answers. (ADAPTER-8)"""
    adapter, start = make(), threading.Barrier(32, timeout=60)

    def call(number: int) -> str:
        start.wait()
        return adapter.execute_prompt(f"question {number}").content

    with ThreadPoolExecutor(32) as pool:
        assert all(pool.map(call, range(32)))
    assert {request.prompt for request in provider.requests} == {f"question {n}" for n in range(32)}


@each_transport
async def test_200_calls_at_once(make: Make, provider: EmbeddedProvider) -> None:
    """A gather of 200 gives 200 answers from 200 requests. (ADAPTER-8)"""
    async with make() as adapter:
        responses = await asyncio.gather(*(adapter.async_execute_prompt(f"q {n}") for n in range(200)))
    assert sum(response.usage.total_tokens for response in responses) == provider.meter.total_tokens
    assert {request.prompt for request in provider.requests} == {f"q {n}" for n in range(200)}


@each_transport
async def test_places_limit_what_is_under_way(make: Make, provider: EmbeddedProvider) -> None:
    """With three places the fourth request leaves when one of the three is answered. (CALL-7)"""
    provider.script(Behaviour(stall="before_headers"))
    async with make(max_concurrency=3) as adapter:
        config = RunConfig(timeout_seconds=20)
        tasks = [asyncio.create_task(adapter.async_execute_prompt(PROMPT, config)) for _ in range(6)]
        await asyncio.to_thread(provider.wait_for_requests, 3)
        await asyncio.sleep(0.1)
        assert len(provider.requests) == 3
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


# Closing


def test_an_adapter_can_be_closed_twice_and_used_again(make: Make, ask: Ask) -> None:
    """Closing gives back connections; it is no end. (CALL-10)"""
    adapter = make()
    adapter.close()
    assert ask(adapter, PROMPT).content
    adapter.close()
    adapter.close()
    assert ask(adapter, PROMPT).content


@each_transport
async def test_an_adapter_can_be_closed_twice_in_a_loop(make: Make) -> None:
    """The async form of closing is no end either. (CALL-10)"""
    adapter = make()
    await adapter.aclose()
    assert (await adapter.async_execute_prompt(PROMPT)).content
    await adapter.aclose()
    await adapter.aclose()
    assert (await adapter.async_execute_prompt(PROMPT)).content
    await adapter.aclose()


def test_a_context_manager_closes(make: Make) -> None:
    """`with` gives the adapter itself, and leaving it with an error passes the error."""
    with make() as adapter:
        assert adapter.execute_prompt(PROMPT).content
    with pytest.raises(KeyError), make() as adapter:
        raise KeyError


@each_transport
def test_an_adapter_that_nobody_closed_leaves_no_warning(wiring: Wiring, provider: EmbeddedProvider) -> None:
    """Garbage collection closes what was open, in threads and in loops, without a ResourceWarning. (CALL-9)"""
    with warnings.catch_warnings():
        warnings.simplefilter("error")

        def forget() -> None:
            adapter = create_adapter(wiring.name, api_key="key-1234", base_url=wiring.url(provider))
            adapter.execute_prompt(PROMPT)
            asyncio.run(call(adapter))

        async def call(adapter: LLMAdapter) -> None:
            await adapter.async_execute_prompt(PROMPT)

        async def forget_inside() -> None:
            await call(create_adapter(wiring.name, api_key="key-1234", base_url=wiring.url(provider)))
            gc.collect()
            await asyncio.sleep(0.05)

        forget()
        asyncio.run(forget_inside())
        gc.collect()
    assert len(provider.requests) == 3


def test_connections_are_reused(make: Make, provider: EmbeddedProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten calls in a row need one connection. (CALL-9)"""
    connects: list[Any] = []
    connect = connecting.connect
    monkeypatch.setattr(connecting, "connect", lambda *a, **k: connects.append(a) or connect(*a, **k))
    adapter = make()
    for _ in range(10):
        adapter.execute_prompt(PROMPT)
    assert len(connects) == 1
    assert len(provider.requests) == 10

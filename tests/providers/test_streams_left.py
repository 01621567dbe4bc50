"""What is left of a stream that was left: no socket, no reader, nothing held, and books that cover the bill."""

from __future__ import annotations

import asyncio
import gc
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from llm_connect import BudgetTracker, RunConfig
from llm_connect.testing import Behaviour, EmbeddedProvider
from tests.providers.conftest import WIRINGS, Make
from tests.transports import Transport

pytestmark = pytest.mark.slow

PROMPT = "The quick brown fox jumps over 13 lazy dogs."
#: After it the provider says nothing more, and does not close.
ENDLESS = Behaviour(stall="in_stream", pieces=2)
STREAMS = 200
THREADS = 32

each_format = pytest.mark.parametrize("wiring", WIRINGS, indirect=True)


@pytest.fixture
def provider() -> Iterator[EmbeddedProvider]:
    """A provider whose streams do not end."""
    with EmbeddedProvider() as provider:
        provider.script(ENDLESS)
        yield provider


def config_of(tracker: BudgetTracker) -> RunConfig:
    return RunConfig(budget_tracker=tracker, max_tokens=60, timeout_seconds=60)


def sockets_to(provider: EmbeddedProvider) -> list[socket.socket]:
    """The sockets of this process that are connected to the provider."""
    port = urlsplit(provider.openai_url).port
    return [it for it in gc.get_objects() if issubclass(type(it), socket.socket) and _peer(it) == port]


def _peer(one: socket.socket) -> int | None:
    try:
        return int(one.getpeername()[1])
    except (OSError, IndexError):
        return None


def wait_until_alone(provider: EmbeddedProvider) -> None:
    """Wait until the server sees no client any more; long on a busy machine, never when one stays."""
    until = time.monotonic() + 5
    while provider.connections:
        assert time.monotonic() < until, f"{provider.connections} connections are left"
        time.sleep(0.001)


def judge(provider: EmbeddedProvider, tracker: BudgetTracker) -> None:
    """At the server all were billed, no client is left, and the books cover the bill with nothing held."""
    wait_until_alone(provider)
    assert provider.meter.calls == STREAMS
    assert [entry.outcome for entry in tracker.ledger] == ["presumed"] * STREAMS
    assert tracker.spent >= provider.meter.total_tokens > 0
    assert (tracker.held, tracker.held_calls) == (0, 0)


@each_format
def test_nothing_of_a_stream_is_left_in_a_thread(make: Make, provider: EmbeddedProvider) -> None:
    """Behind its block there is no socket to the provider and no thread that could read on. (STREAM-4)"""
    adapter, tracker = make(), BudgetTracker(10_000)
    with adapter.stream_prompt(PROMPT, config_of(tracker)) as stream:
        next(stream)
        next(stream)
        assert len(sockets_to(provider)) == 1
        threads = set(threading.enumerate())
    assert sockets_to(provider) == []
    assert set(threading.enumerate()) <= threads
    assert tracker.held == 0


@each_format
async def test_nothing_of_a_stream_is_left_in_a_loop(
    make: Make, provider: EmbeddedProvider, transport: Transport
) -> None:
    """Behind its block nothing is held, and after one turn of the loop, which httpx2 leaves the closing of its
    generators to, there is no socket to the provider and no task that could read on. (STREAM-4)
    """
    tracker = BudgetTracker(10_000)
    async with make() as adapter:
        tasks = asyncio.all_tasks()
        async with adapter.async_stream_prompt(PROMPT, config_of(tracker)) as stream:
            await anext(stream)
            await anext(stream)
            assert len(sockets_to(provider)) == 1
        assert tracker.held == 0
        await asyncio.sleep(0)
        assert sockets_to(provider) == []
        assert asyncio.all_tasks() == tasks


async def test_200_streams_broken_after_the_second_chunk(
    make: Make, provider: EmbeddedProvider, transport: Transport
) -> None:
    """At once in one loop: each is closed and booked at its bound, and the cap is not passed by a token. (STREAM-6)"""
    tracker = BudgetTracker(1_000_000)
    async with make() as adapter:

        async def leave() -> str:
            async with adapter.async_stream_prompt(PROMPT, config_of(tracker)) as stream:
                await anext(stream)
                await anext(stream)
            return stream.text  # type: ignore[no-any-return]

        texts = await asyncio.gather(*(leave() for _ in range(STREAMS)))
        assert {len(text) for text in texts} == {32}
        await asyncio.to_thread(judge, provider, tracker)


def test_200_streams_of_32_threads_broken_after_the_second_chunk(make: Make, provider: EmbeddedProvider) -> None:
    """Likewise in threads. (STREAM-4, STREAM-6)"""
    adapter, tracker = make(), BudgetTracker(1_000_000)
    turns, texts = iter(range(STREAMS)), []

    def leave() -> None:
        while next(turns, None) is not None:
            with adapter.stream_prompt(PROMPT, config_of(tracker)) as stream:
                next(stream)
                next(stream)
            texts.append(stream.text)

    threads: list[Any] = [threading.Thread(target=leave) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {len(text) for text in texts} == {32}
    assert sockets_to(provider) == []
    judge(provider, tracker)

"""A fork and the process that it was made from share no connection of an adapter that both use."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import traceback
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest

from llm_connect import LLMConfigurationError, RunConfig, create_adapter
from tests.providers.conftest import Ask
from tests.providers.echo_server import EchoServer, echo_server

CONFIG = RunConfig(max_tokens=50, max_retries=0, timeout_seconds=60)
pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]


@pytest.fixture
def server() -> Iterator[EchoServer]:
    with echo_server() as running:
        yield running


def in_fork(work: Callable[[], None]) -> Callable[[], None]:
    """Runs `work` in a fork, with every warning an error; call what it returns to learn how it went."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        told = b""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                work()
                gc.collect()
        except BaseException:
            told = traceback.format_exc().encode()[-4000:]
        os.write(writing, told)
        os._exit(0)
    os.close(writing)

    def end() -> None:
        with os.fdopen(reading, "rb") as pipe:
            told = pipe.read().decode()
        os.waitpid(child, 0)
        assert told == ""

    return end


def adapter_of(name: str, server: EchoServer, **options: Any) -> Any:
    return create_adapter(name, model="m", api_key="sk-0123456789", base_url=server.url(name), **options)


def answers(ask: Ask, adapter: Any, who: str, calls: int) -> None:
    for number in range(calls):
        assert ask(adapter, f"ASK-{who}n{number}.", CONFIG).content == f"ANS-{who}n{number}."


@pytest.mark.scales
@pytest.mark.parametrize("name", ["openai", "gemini", "openrouter"])
def test_forks_and_their_parent_get_their_own_answers(name: str, ask: Ask, server: EchoServer, nightly: bool) -> None:
    """An adapter that was used before `os.fork` is used by two forks and their parent at once. (CALL-41)"""
    adapter = adapter_of(name, server)
    turns, calls = (20, 8) if nightly else (1, 4)
    for turn in range(turns):
        answers(ask, adapter, f"warm{turn}", 1)
        ends = [in_fork(lambda who=f"c{child}": answers(ask, adapter, who, calls)) for child in range(2)]  # type: ignore[misc]
        answers(ask, adapter, "parent", calls)
        for end in ends:
            end()
    adapter.close()


def _work(name: str, adapter: Any, told: Any) -> None:
    told.put([adapter.execute_prompt(f"ASK-{name}n{n}.", CONFIG).content for n in range(8)])


def test_workers_of_multiprocessing_get_their_own_answers(server: EchoServer) -> None:
    """Workers that are forked with a used adapter, as gunicorn's with preload, answer for themselves. (CALL-41)"""
    adapter, fork = adapter_of("openrouter", server), multiprocessing.get_context("fork")
    adapter.execute_prompt("ASK-warm.", CONFIG)
    told = fork.Queue()
    workers = [fork.Process(target=_work, args=(f"w{number}", adapter, told)) for number in range(3)]
    for worker in workers:
        worker.start()
    got = sorted(told.get(timeout=60) for _ in workers)
    for worker in workers:
        worker.join()
    assert got == [[f"ANS-w{worker}n{n}." for n in range(8)] for worker in range(3)]
    adapter.close()


@pytest.mark.parametrize("name", ["openai", "gemini", "openrouter"])
def test_a_fork_closes_nothing_of_its_parent(name: str, server: EchoServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Closing the adapter, or losing it, in a fork leaves the parent's connection open: it is used again. (CALL-41)"""
    # On a busy machine the fork takes longer than a client keeps an idle connection.
    monkeypatch.setitem(httpx2.Limits.__init__.__kwdefaults__, "keepalive_expiry", None)
    adapter = adapter_of(name, server)
    adapter.execute_prompt("ASK-warm.", CONFIG)

    def close() -> None:
        adapter.close()
        answers(lambda used, *a: used.execute_prompt(*a), adapter, "child", 1)
        adapter.close()

    in_fork(close)()
    assert adapter.execute_prompt("ASK-again.", CONFIG).content == "ANS-again."
    # One of the parent, one of the fork.
    assert server.connections == 2
    adapter.close()


@pytest.mark.parametrize("name", ["openai", "gemini", "openrouter"])
def test_a_stream_is_read_by_the_process_that_opened_it(name: str, server: EchoServer) -> None:
    """In a fork an open stream can neither be read nor closed; its loss there changes nothing. (CALL-41)"""
    adapter = adapter_of(name, server)
    streams = [adapter.stream_prompt("SLOW ASK-parent.", CONFIG)]
    first = next(streams[0]).text

    def use() -> None:
        with pytest.raises(LLMConfigurationError, match=r"os\.fork"):
            next(streams[0])
        streams[0].close()
        streams.clear()
        gc.collect()

    in_fork(use)()
    server.go.set()
    assert first + "".join(chunk.text for chunk in streams[0]) == "ANS-parent."
    adapter.close()


def test_an_async_stream_is_read_by_the_process_that_opened_it(transport: str, server: EchoServer) -> None:
    """The same in an event loop. (CALL-41)"""
    adapter = adapter_of("openrouter", server)

    async def read() -> str:
        streams = [adapter.async_stream_prompt("SLOW ASK-parent.", CONFIG)]
        text: str = (await anext(streams[0])).text

        def use() -> None:
            with pytest.raises(LLMConfigurationError, match=r"os\.fork"):
                asyncio.new_event_loop().run_until_complete(anext(streams[0]))
            asyncio.new_event_loop().run_until_complete(streams[0].aclose())
            streams.clear()

        in_fork(use)()
        server.go.set()
        async for chunk in streams[0]:
            text += chunk.text
        await adapter.aclose()
        return text

    assert asyncio.run(read()) == "ANS-parent."


def test_a_stream_that_was_not_begun_belongs_to_nobody_yet(server: EchoServer) -> None:
    """Nothing is open before the first chunk, so a fork may begin what its parent has made."""
    adapter = adapter_of("openrouter", server)
    stream = adapter.stream_prompt("ASK-child.", CONFIG)

    def use() -> None:
        assert "".join(chunk.text for chunk in stream) == "ANS-child."

    in_fork(use)()
    adapter.close()


def test_a_fork_finds_all_places_free(server: EchoServer) -> None:
    """A place that a thread of the parent had at the fork is not taken for good in the fork. (CALL-41)"""
    adapter = adapter_of("openrouter", server, max_concurrency=1)
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(adapter.execute_prompt, "SLOW ASK-parent.", CONFIG)
        server.wait_for(1)
        in_fork(lambda: answers(lambda used, *a: used.execute_prompt(*a), adapter, "child", 1))()
        server.go.set()
        assert slow.result().content == "ANS-parent."
    adapter.close()


@pytest.mark.parametrize("name", ["openai", "gemini", "openrouter"])
def test_a_used_client_of_the_users_own_is_refused_in_a_fork(name: str, server: EchoServer) -> None:
    """Its connections are the parent's, whose answers it would take; one that has none is used. (CALL-41)"""
    for warm in (True, False):
        with httpx2.Client() as own:
            options = {"http_client": own, "async_http_client": httpx2.AsyncClient()}
            adapter = adapter_of(name, server, **options)
            if warm:
                answers(lambda used, *a: used.execute_prompt(*a), adapter, "parent", 1)

            def use(adapter: Any = adapter, warm: bool = warm) -> None:
                if not warm:
                    answers(lambda used, *a: used.execute_prompt(*a), adapter, "child", 1)
                    return
                with pytest.raises(LLMConfigurationError, match=r"os\.fork"):
                    adapter.execute_prompt("ASK-child.", CONFIG)

            in_fork(use)()
            answers(lambda used, *a: used.execute_prompt(*a), adapter, "again", 1)

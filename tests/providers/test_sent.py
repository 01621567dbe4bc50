"""Whether a request has begun to leave is a fact: before that nothing is booked, and afterwards the bound is."""

from __future__ import annotations

import asyncio
import importlib
import importlib.abc
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from llm_connect import (
    BudgetTracker,
    ClaudeCodeAdapter,
    LLMConnectionError,
    LLMError,
    LLMTimeoutError,
    OpenAIAdapter,
    RunConfig,
    create_adapter,
)
from llm_connect.testing import Behaviour, EmbeddedProvider
from tests.dead_ends import DEAD_ENDS, dropped_packets
from tests.providers.claude_stand_in import stand_in
from tests.providers.conftest import KEY, WIRINGS, Wiring
from tests.providers.http_helpers import each_format, each_transport
from tests.transports import TRANSPORTS, choose

Call = Callable[[Any, RunConfig], None]
Start = Callable[[Any, RunConfig], Awaitable[None]]


async def acall(adapter: Any, config: RunConfig) -> None:
    async with adapter:
        await adapter.async_execute_prompt("hello", config)


async def astream(adapter: Any, config: RunConfig) -> None:
    async with adapter, adapter.async_stream_prompt("hello", config) as stream:
        async for _ in stream:
            pass


def call(adapter: Any, config: RunConfig) -> None:
    with adapter:
        adapter.execute_prompt("hello", config)


def stream(adapter: Any, config: RunConfig) -> None:
    with adapter, adapter.stream_prompt("hello", config) as chunks:
        for _ in chunks:
            pass


FORMS: dict[str, Call] = {
    "call": call,
    "stream": stream,
    "async call": lambda *of: asyncio.run(acall(*of)),
    "async stream": lambda *of: asyncio.run(astream(*of)),
}
each_form = pytest.mark.parametrize("form", FORMS)
each_async_form = pytest.mark.parametrize("start", [acall, astream], ids=["call", "stream"])
each_dead_end = pytest.mark.parametrize("dead_end", DEAD_ENDS)


def budget_of(**fields: Any) -> tuple[BudgetTracker, RunConfig]:
    tracker = BudgetTracker(total=100_000)
    return tracker, RunConfig(**{"budget_tracker": tracker, "max_tokens": 50, "max_retries": 0, **fields})


def nothing_was_sent(tracker: BudgetTracker) -> bool:
    """Neither held nor spent nor presumed."""
    released = all(entry.outcome == "released" for entry in tracker.ledger)
    return released and (tracker.held, tracker.held_calls, tracker.spent, tracker.spent_calls) == (0, 0, 0, 0)


def at(wiring: Wiring, url: str, **options: Any) -> Any:
    """An adapter that has imported all that it needs."""
    adapter: Any = create_adapter(wiring.name, model="m", api_key=KEY, base_url=url, **wiring.options, **options)
    adapter.warm_up()
    return adapter


#: Sync forms do not depend on what carries async calls.
FORMS_OVER = [(form, over) for form in FORMS for over in TRANSPORTS if "async" in form or over == TRANSPORTS[0]]


@each_dead_end
@each_format
@pytest.mark.parametrize(("form", "transport"), FORMS_OVER)
def test_a_deadline_before_the_first_byte_books_nothing(
    dead_end: str, wiring: Wiring, transport: Any, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call that could not even begin is released, and its error says that nothing may be billed. (CALL-33)"""
    choose(transport, monkeypatch)
    tracker, config = budget_of(timeout_seconds=0.2)
    with DEAD_ENDS[dead_end]() as url, pytest.raises(LLMTimeoutError, match="nothing was sent") as caught:
        FORMS[form](at(wiring, url), config)
    assert caught.value.maybe_billed is False
    assert caught.value.booked == (0, 0, 0)
    assert nothing_was_sent(tracker)


@each_dead_end
@each_format
@each_transport
@each_async_form
async def test_a_cancellation_before_the_first_byte_books_nothing(dead_end: str, wiring: Wiring, start: Start) -> None:
    """A call that is cancelled while it connects is released. (CALL-33)"""
    tracker, config = budget_of()
    with DEAD_ENDS[dead_end]() as url:
        task = asyncio.ensure_future(start(at(wiring, url), config))
        while not tracker.held:
            await asyncio.sleep(0)
        for _ in range(20):
            await asyncio.sleep(0.002)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert nothing_was_sent(tracker)


@each_format
@each_transport
@each_async_form
@pytest.mark.parametrize("kept", [False, True], ids=["a new connection", "a kept one"])
async def test_a_cancellation_after_the_first_byte_books_the_bound(
    wiring: Wiring, start: Start, provider: EmbeddedProvider, kept: bool
) -> None:
    """Once the server has the request, the provider may bill it, whoever has opened the connection. (CALL-33)"""
    tracker, config = budget_of()
    adapter = at(wiring, wiring.url(provider))
    if kept:
        await adapter.async_execute_prompt("hello")
    provider.reset()
    provider.script(Behaviour(stall="before_headers"))
    task = asyncio.ensure_future(start(adapter, config))
    while not provider.requests:
        await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [entry.outcome for entry in tracker.ledger] == ["presumed"]
    assert tracker.held == 0
    assert tracker.spent == next(iter(tracker.ledger)).bound.tokens > 0


@each_format
@each_form
def test_a_deadline_after_the_first_byte_books_the_bound(wiring: Wiring, form: str, provider: EmbeddedProvider) -> None:
    """A server that has the request, and says nothing in time, may bill it. (CALL-33)"""
    tracker, config = budget_of(timeout_seconds=1.5)
    provider.script(Behaviour(stall="before_headers"))
    with pytest.raises(LLMTimeoutError) as caught:
        FORMS[form](at(wiring, wiring.url(provider)), config)
    assert caught.value.maybe_billed is True
    assert [entry.outcome for entry in tracker.ledger] == ["presumed"]
    assert len(provider.requests) == 1


@each_form
def test_a_lost_connection_before_the_first_byte_is_tried_again(form: str) -> None:
    """A server that hangs up in the middle of TLS has no request, so each attempt is released. (CALL-33)"""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_hang_up, args=(listener,), daemon=True).start()
        tracker, config = budget_of(max_retries=1)
        with pytest.raises(LLMConnectionError) as caught:
            FORMS[form](at(WIRINGS["openrouter"], f"https://127.0.0.1:{listener.getsockname()[1]}"), config)
        assert (caught.value.attempts, caught.value.maybe_billed) == (2, False)
        assert nothing_was_sent(tracker)


def _hang_up(listener: socket.socket) -> None:
    with suppress(OSError):
        while True:
            connection, _ = listener.accept()
            connection.recv(1)
            connection.close()


# Clients of the user's own.


@contextmanager
def deaf_proxy() -> Iterator[str]:
    """A proxy that reads what it is asked, and never makes the way."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def own(client: httpx2.Client | None = None, async_client: httpx2.AsyncClient | None = None, **options: Any) -> Any:
    """An adapter with SDK clients of the user's own."""
    base: dict[str, Any] = {"api_key": KEY, "base_url": "https://provider.test/v1", **options}
    sync = client or httpx2.Client()
    asynchronous = async_client or httpx2.AsyncClient()
    return OpenAIAdapter(
        model="m",
        client=openai.OpenAI(**base, http_client=sync),
        async_client=openai.AsyncOpenAI(**base, http_client=asynchronous),
    )


@each_form
def test_asking_a_proxy_for_a_way_sends_no_request(form: str) -> None:
    """CONNECT is for the proxy: while it does not answer, the provider has nothing. (CALL-33)"""
    tracker, config = budget_of(timeout_seconds=0.3)
    with deaf_proxy() as proxy, pytest.raises(LLMTimeoutError, match="nothing was sent"):
        FORMS[form](own(httpx2.Client(proxy=proxy), httpx2.AsyncClient(proxy=proxy)), config)
    assert nothing_was_sent(tracker)


class Hidden(httpx2.BaseTransport, httpx2.AsyncBaseTransport):
    """A transport of the user's own, which shows no socket."""

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        raise httpx2.ReadError("cut")

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        raise httpx2.ReadError("cut")


@each_form
def test_a_client_that_hides_its_sockets_sends_once_it_is_handed_a_request(form: str) -> None:
    """Nobody says when its first byte leaves, so an unknown outcome is presumed. (CALL-33)"""
    tracker, config = budget_of()
    with pytest.raises(LLMConnectionError) as caught:
        FORMS[form](own(httpx2.Client(transport=Hidden()), httpx2.AsyncClient(transport=Hidden())), config)
    assert caught.value.maybe_billed is True
    assert [entry.outcome for entry in tracker.ledger] == ["presumed"]


def test_a_connection_that_was_open_before_hides_itself(provider: EmbeddedProvider) -> None:
    """A client that the user has used before may send over a connection that says nothing. (CALL-33)"""
    with httpx2.Client() as used:
        used.post(f"{provider.openai_url}/chat/completions", json={"model": "m", "messages": []}, headers=AUTH)
        tracker, config = budget_of()
        provider.reset()
        provider.script(Behaviour(cut="before_reply"))
        with pytest.raises(LLMConnectionError) as caught:
            call(own(used, base_url=provider.openai_url), config)
        assert caught.value.maybe_billed is True
        assert [entry.outcome for entry in tracker.ledger] == ["presumed"]


AUTH = {"authorization": f"Bearer {KEY}"}


# Imports.


class SlowImport(importlib.abc.MetaPathFinder):
    """Finds no module, and takes for one of them as long as it is told."""

    def __init__(self, module: str) -> None:
        self.module = module
        self.begun, self.over = threading.Event(), threading.Event()

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name == self.module:
            self.begun.set()
            assert self.over.wait(60)


@contextmanager
def slow_import(wiring: Wiring, monkeypatch: pytest.MonkeyPatch) -> Iterator[SlowImport]:
    """The module that brings the SDK of an adapter is imported anew, and that takes until `over` is set.

    In the end the import is over too: later it would put the module where the next test has removed it.
    """
    carrier = "httpx" if wiring.name == "openrouter" else wiring.name
    finder = SlowImport(f"llm_connect.providers.{carrier}_carrier")
    monkeypatch.delitem(sys.modules, finder.module, raising=False)
    monkeypatch.setattr(sys, "meta_path", [finder, *sys.meta_path])
    try:
        yield finder
    finally:
        finder.over.set()
        importlib.import_module(finder.module)


def cold(wiring: Wiring, provider: EmbeddedProvider) -> Any:
    options = {"model": "m", "api_key": KEY, "base_url": wiring.url(provider), **wiring.options}
    return create_adapter(wiring.name, **options)


@each_format
@each_form
def test_a_deadline_during_an_import_holds_nothing(
    wiring: Wiring, form: str, provider: EmbeddedProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The SDK is imported before budget is held, and the deadline does not wait for it. (CALL-34)"""
    tracker, config = budget_of(timeout_seconds=0.2)
    with slow_import(wiring, monkeypatch) as slow:
        with pytest.raises(LLMTimeoutError, match="imported") as caught:
            FORMS[form](cold(wiring, provider), config)
        assert slow.begun.wait(30)
        assert not slow.over.is_set()
    assert (caught.value.maybe_billed, caught.value.attempts) == (False, 0)
    assert list(tracker.ledger) == []
    assert len(provider.requests) == 0


@each_format
@each_async_form
async def test_an_import_blocks_no_event_loop(
    wiring: Wiring, start: Start, provider: EmbeddedProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others go on meanwhile, a cancelled call ends at once, and the next one gets its answer. (CALL-34)"""
    tracker, config = budget_of()
    adapter = cold(wiring, provider)
    with slow_import(wiring, monkeypatch) as slow:
        task = asyncio.ensure_future(adapter.async_execute_prompt("hello", config))
        while not slow.begun.is_set():
            await asyncio.sleep(0.001)
        assert list(tracker.ledger) == []
        assert tracker.held == 0
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        waiting = asyncio.ensure_future(start(adapter, config))
        await asyncio.sleep(0.01)
        assert not waiting.done()
        slow.over.set()
        await waiting
    assert [entry.outcome for entry in tracker.ledger] == ["settled"]


@pytest.mark.parametrize("name", ["gemini", "openai", "openrouter"])
def test_the_thread_of_an_event_loop_imports_nothing(name: str, provider: EmbeddedProvider) -> None:
    """Neither SDK nor HTTP library is imported by the loop's own thread, in the first call of a process. (CALL-34)"""
    program = [sys.executable, str(Path(__file__).with_name("first_call.py")), name, WIRINGS[name].url(provider)]
    ran = subprocess.run(program, capture_output=True, text=True, check=True, timeout=170)
    assert set(ran.stdout.split()) <= {"llm_connect"}
    assert ran.stderr == ""


@pytest.mark.parametrize(
    ("name", "package"), [("gemini", "google.genai"), ("openai", "openai"), ("openrouter", "httpx2")]
)
def test_the_error_of_a_slow_import_imports_nothing(name: str, package: str) -> None:
    """A search for a package blocks all others, so an error at the deadline must not need one. (CALL-34)"""
    program = [sys.executable, str(Path(__file__).with_name("slow_first_call.py")), name, package]
    ran = subprocess.run(program, capture_output=True, text=True, check=True, timeout=170)
    assert ran.stdout.split() == ["False", "False"]


@each_format
async def test_a_warm_adapter_imports_nothing_more(
    wiring: Wiring, provider: EmbeddedProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`warm_up` and `async_warm_up` send nothing, may be called again, and leave nothing to a first call. (CALL-34)"""
    for warm in (lambda one: asyncio.to_thread(one.warm_up), lambda one: one.async_warm_up()):
        async with cold(wiring, provider) as adapter:
            assert adapter.cold
            await warm(adapter)
            await warm(adapter)
            assert not adapter.cold
            with slow_import(wiring, monkeypatch) as slow:
                await adapter.async_execute_prompt("hello")
                assert not slow.begun.is_set()
    assert len(provider.requests) == 2


@each_format
def test_a_further_client_loads_no_trusted_roots(
    wiring: Wiring, provider: EmbeddedProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A warm adapter has them, so that its first call in another loop does not stop that loop. (CALL-34)"""
    loaded: list[object] = []
    load = ssl.SSLContext.load_verify_locations
    with cold(wiring, provider) as adapter:
        adapter.warm_up()
        monkeypatch.setattr(ssl.SSLContext, "load_verify_locations", lambda *a, **k: loaded.append(a) or load(*a, **k))
        adapter.execute_prompt("hello")
        asyncio.run(adapter.async_execute_prompt("hello"))
    assert len(provider.requests) == 2
    assert loaded == []


@each_form
def test_an_sdk_that_does_not_import_is_a_configuration_error(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A broken installation is told as such, before anything is held, and the next call tries again. (CALL-34)"""
    adapter = create_adapter("openai", model="m", api_key=KEY, base_url="http://127.0.0.1:9")
    monkeypatch.setitem(sys.modules, "llm_connect.providers.openai_carrier", None)
    tracker, config = budget_of()
    for _ in range(2):
        with pytest.raises(LLMError, match="could not be imported"):
            FORMS[form](adapter, config)
    assert list(tracker.ledger) == []


# The claude command.


@each_dead_end
@each_form
def test_a_claude_that_finds_no_way_books_nothing(dead_end: str, form: str, tmp_path: Any) -> None:
    """The relay has not begun to forward the request when the deadline comes. (CALL-33)"""
    tracker, config = budget_of(timeout_seconds=1.5)
    with DEAD_ENDS[dead_end]() as url, pytest.raises(LLMTimeoutError, match="nothing was sent") as caught:
        FORMS[form](ClaudeCodeAdapter(api_key=KEY, cli_path=stand_in(tmp_path, "ask()"), base_url=url), config)
    assert caught.value.maybe_billed is False
    assert nothing_was_sent(tracker)


SLOW_START = "open(here + '/started', 'w').close(); time.sleep(60); ask()"


@each_form
def test_a_claude_that_starts_slowly_books_nothing(form: str, tmp_path: Any) -> None:
    """The command runs, but has not asked for anything when the deadline comes. (CALL-33)"""
    tracker, config = budget_of(timeout_seconds=1.5)
    adapter = ClaudeCodeAdapter(api_key=KEY, cli_path=stand_in(tmp_path, SLOW_START), base_url="http://127.0.0.1:9")
    with pytest.raises(LLMTimeoutError, match="nothing was sent"):
        FORMS[form](adapter, config)
    assert nothing_was_sent(tracker)


@each_async_form
async def test_a_claude_that_is_cancelled_while_it_starts_books_nothing(start: Start, tmp_path: Any) -> None:
    """The command runs, but has not asked for anything when its call is cancelled. (CALL-33)"""
    tracker, config = budget_of()
    adapter = ClaudeCodeAdapter(api_key=KEY, cli_path=stand_in(tmp_path, SLOW_START), base_url="http://127.0.0.1:9")
    task = asyncio.ensure_future(start(adapter, config))
    while not (tmp_path / "started").exists():
        await asyncio.sleep(0.005)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert nothing_was_sent(tracker)


@each_async_form
async def test_a_claude_that_is_cancelled_after_its_request_books_the_bound(
    start: Start, tmp_path: Any, provider: EmbeddedProvider
) -> None:
    """The relay has begun to forward the request. (CALL-33)"""
    tracker, config = budget_of()
    provider.script(Behaviour(stall="before_headers"))
    script = stand_in(tmp_path, "ask()")
    adapter = ClaudeCodeAdapter(api_key=KEY, cli_path=script, base_url=provider.anthropic_url)
    task = asyncio.ensure_future(start(adapter, config))
    while not provider.requests:
        await asyncio.sleep(0.005)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [entry.outcome for entry in tracker.ledger] == ["presumed"]


@each_form
def test_a_claude_with_a_login_of_its_own_sends_once_it_is_started(form: str, tmp_path: Any) -> None:
    """Without a relay nobody says when its request leaves. (CALL-33)"""
    tracker, config = budget_of(timeout_seconds=1.5)
    adapter = ClaudeCodeAdapter(login=True, cli_path=stand_in(tmp_path, "time.sleep(60)"))
    with pytest.raises(LLMTimeoutError) as caught:
        FORMS[form](adapter, config)
    assert caught.value.maybe_billed is True
    assert [entry.outcome for entry in tracker.ledger] == ["presumed"]


async def test_calls_that_are_cancelled_before_they_are_sent_leave_the_budget_to_others(
    provider: EmbeddedProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Waves of ten calls at a cold adapter, each cancelled at half of the provider's time, under a cap for twenty.

    Waves that end during the import cost nothing, so the budget is spent on calls that the provider has. (CALL-33)
    """
    provider.script(Behaviour(delay=0.4))
    adapter = cold(WIRINGS["openai"], provider)
    bound = adapter.bound("hello", RunConfig(max_tokens=50)).total_tokens
    tracker = BudgetTracker(total=20 * bound)
    config = RunConfig(budget_tracker=tracker, max_tokens=50, max_retries=0, when_short="refuse")
    with slow_import(WIRINGS["openai"], monkeypatch) as slow:
        for wave in range(60):
            calls = [asyncio.ensure_future(adapter.async_execute_prompt("hello", config)) for _ in range(10)]
            await asyncio.sleep(0.2)
            for each in calls:
                each.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
            if wave == 2:
                assert (tracker.spent, tracker.held, len(provider.requests)) == (0, 0, 0)
                slow.over.set()
            if tracker.remaining() < bound:
                break
    await adapter.aclose()
    presumed = [entry for entry in tracker.ledger if entry.outcome == "presumed"]
    assert 10 <= len(provider.requests) <= len(presumed) <= 20
    assert tracker.held == 0
    assert provider.meter.total_tokens <= tracker.spent <= 20 * bound


def test_a_host_that_drops_packets_leaves_the_budget_to_others(provider: EmbeddedProvider) -> None:
    """An outage burns no budget: after many calls at a dead host all of it is still there. (CALL-33)"""
    tracker, config = budget_of(timeout_seconds=0.1)
    with dropped_packets() as url, at(WIRINGS["openrouter"], url) as dead:
        for _ in range(10):
            with pytest.raises(LLMTimeoutError):
                dead.execute_prompt("hello", config)
    assert tracker.remaining() == 100_000

"""Bytes that a server sends behind the end of a reply, over connections that stay open and over others."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from llm_connect import BudgetTracker, LLMResponse, RunConfig
from tests.providers import reply_bytes
from tests.providers.conftest import Make, Wiring
from tests.transports import TRANSPORTS, choose

each_format = pytest.mark.parametrize("wiring", ["gemini", "openai", "openai-responses", "openrouter"], indirect=True)
PATHS = {"openai": "/v1", "gemini": "", "openrouter": "/api/v1"}
CALLS = 3


class Server(ThreadingHTTPServer):
    """Sends a numbered reply and `behind` in one go."""

    daemon_threads = True

    def __init__(self, wire: str, behind: bytes, chunked: bool, close: bool) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.wire, self.behind, self.chunked, self.close_too = wire, behind, chunked, close
        self.answered = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def reply(self, request: str, body: bytes) -> bytes:
        self.answered += 1
        if b'"stream":true' in body.replace(b" ", b"") or "streamGenerateContent" in request:
            said = reply_bytes.begun(self.wire) + reply_bytes.ended(self.wire)
            kind = "text/event-stream"
        else:
            said, kind = reply_bytes.whole(self.wire), "application/json"
        said = said.replace(b"Hello", b"No. %d" % self.answered)
        length = "transfer-encoding: chunked" if self.chunked else f"content-length: {len(said)}"
        lines = ["HTTP/1.1 200 OK", f"content-type: {kind}", length, *["connection: close"] * self.close_too, "", ""]
        framed = b"%x\r\n%s\r\n0\r\n\r\n" % (len(said), said) if self.chunked else said
        return "\r\n".join(lines).encode() + framed


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.wfile.write(self.server.reply(self.path, body) + self.server.behind)
        self.close_connection = self.server.close_too

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextmanager
def serving(wire: str, behind: bytes, chunked: bool, close: bool) -> Iterator[Server]:
    with Server(wire, behind, chunked, close) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def answers(adapter: Any, config: RunConfig, form: str, streamed: bool) -> list[str]:
    """The answers to several calls over the connections of one client."""
    if form == "sync":
        return [_ask(adapter, config, streamed).content for _ in range(CALLS)]
    return asyncio.run(_answers(adapter, config, streamed))


def _ask(adapter: Any, config: RunConfig, streamed: bool) -> LLMResponse:
    if not streamed:
        response: LLMResponse = adapter.execute_prompt("hi", config)
        return response
    with adapter.stream_prompt("hi", config) as stream:
        list(stream)
        answer: LLMResponse = stream.response
        return answer


async def _answers(adapter: Any, config: RunConfig, streamed: bool) -> list[str]:
    async with adapter:
        return [await _aask(adapter, config, streamed) for _ in range(CALLS)]


async def _aask(adapter: Any, config: RunConfig, streamed: bool) -> str:
    if not streamed:
        return str((await adapter.async_execute_prompt("hi", config)).content)
    async with adapter.async_stream_prompt("hi", config) as stream:
        [_ async for _ in stream]
        return str(stream.response.content)


@pytest.fixture(params=["sync", *TRANSPORTS])
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param != "sync":
        choose(request.param, monkeypatch)
    return str(request.param)


def check(make: Make, form: str, wiring: Wiring, *, close: bool, chunked: bool, streamed: bool) -> None:
    """Each call gets its own reply, whatever is behind the one before."""
    foreign = reply_bytes.reply(200, reply_bytes.whole(wiring.wire_format)).replace(b"connection: close\r\n", b"")
    for behind in (b"\r\n", b"x", foreign, b"0\r\n\r\n" + foreign):
        with serving(wiring.wire_format, behind, chunked, close) as server:
            adapter, tracker = make(base_url=server.url + PATHS[wiring.name]), BudgetTracker(100_000)
            config = RunConfig(max_tokens=50, timeout_seconds=60, max_retries=0, budget_tracker=tracker)
            found = answers(adapter, config, form, streamed)
            adapter.close()
        wanted = [reply_bytes.TEXT.replace("Hello", f"No. {number}") for number in range(1, CALLS + 1)]
        assert found == wanted, behind
        assert (tracker.spent, tracker.held) == (17 * CALLS, 0), behind


@pytest.mark.parametrize("wiring", ["openrouter"], indirect=True)
def test_no_call_gets_bytes_from_behind_another_reply(make: Make, form: str, wiring: Wiring) -> None:
    """A line end, a word or another reply behind a reply is no part of the next one. (PROVIDER-49)"""
    check(make, form, wiring, close=False, chunked=False, streamed=False)


@pytest.mark.slow
@each_format
@pytest.mark.parametrize("close", [True, False])
@pytest.mark.parametrize("chunked", [True, False])
@pytest.mark.parametrize("streamed", [True, False])
def test_a_reply_ends_where_it_says(
    make: Make, form: str, wiring: Wiring, close: bool, chunked: bool, streamed: bool
) -> None:
    """So it is in each format, with a length or in chunks, whether its connection stays open or not. (PROVIDER-49)"""
    check(make, form, wiring, close=close, chunked=chunked, streamed=streamed)

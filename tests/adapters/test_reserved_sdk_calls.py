"""The hold around a call of somebody else's SDK, by the exceptions that the SDK raises, over loopback."""

from __future__ import annotations

import asyncio
import http.server
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from llm_connect import BudgetTracker, LLMConfigurationError, LLMConnectionError

openai = pytest.importorskip("openai")
aiohttp = pytest.importorskip("aiohttp")
httpx2 = pytest.importorskip("httpx2")
genai = pytest.importorskip("google.genai")
requests = pytest.importorskip("requests")

BODY = b'{"error": {"message": "no", "code": 400, "status": "INVALID_ARGUMENT"}}'


@pytest.fixture
def status() -> Iterator[Callable[[int], str]]:
    """Addresses of servers that reply with one status, whatever they are asked."""
    servers: list[http.server.ThreadingHTTPServer] = []

    def serve(code: int) -> str:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                self.send_response(code)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(BODY)))
                self.end_headers()
                self.wfile.write(BODY)

            def log_message(self, *_: Any) -> None:
                pass

        servers.append(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def nobody() -> Iterator[str]:
    """An address where nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


def by_openai(url: str, retries: int = 0) -> None:
    with openai.OpenAI(api_key="x", base_url=url, max_retries=retries) as client:
        client.chat.completions.create(model="m", messages=[])


def by_async_openai(url: str) -> None:
    async def ask() -> None:
        async with openai.AsyncOpenAI(api_key="x", base_url=url, max_retries=0) as client:
            await client.responses.create(model="m", input="x")

    asyncio.run(ask())


def by_gemini(url: str) -> None:
    with genai.Client(api_key="x", http_options={"base_url": url}) as client:
        client.models.generate_content(model="m", contents="x")


def by_httpx(url: str) -> None:
    httpx2.post(url, json={}).raise_for_status()


def by_aiohttp(url: str) -> None:
    async def ask() -> None:
        async with aiohttp.ClientSession(raise_for_status=True) as session:
            await session.post(url, json={})

    asyncio.run(ask())


def by_requests(url: str) -> None:
    requests.post(url, json={}, timeout=10).raise_for_status()


CALLS = [by_openai, by_async_openai, by_gemini, by_httpx, by_aiohttp, by_requests]


def outcome(call: Callable[[], object], calls: int = 1) -> str:
    tracker = BudgetTracker(1_000)
    with pytest.raises(Exception), tracker.reserve(100, calls=calls) as hold:  # noqa: B017, PT012
        hold.dispatch()
        call()
    (entry,) = tracker.ledger
    assert (tracker.held, tracker.spent) == (0, 0 if entry.outcome == "released" else 100)
    return entry.outcome


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(("code", "ended"), [(400, "released"), (429, "released"), (500, "presumed")])
def test_a_refusal_of_the_provider_is_not_billed(status: Any, call: Any, code: int, ended: str) -> None:
    """A reply of 4xx releases the hold around the call, any other failure is presumed. (BUDGET-61)"""
    url = status(code)
    assert outcome(lambda: call(url)) == ended


@pytest.mark.parametrize("call", [by_openai, by_async_openai, by_gemini, by_httpx, by_aiohttp])
def test_a_request_that_found_no_connection_is_not_billed(nobody: str, call: Any) -> None:
    """Nothing was sent. (BUDGET-61)"""
    assert outcome(lambda: call(nobody)) == "released"


def test_what_an_sdk_tried_more_than_once_is_presumed(status: Any, nobody: str) -> None:
    """The last error says nothing of the tries before it. (BUDGET-61)"""
    assert outcome(lambda: by_openai(status(429), retries=1)) == "presumed"
    assert outcome(lambda: by_openai(nobody, retries=1)) == "presumed"


def test_a_hold_of_several_requests_is_presumed(status: Any) -> None:
    """One of them was refused, the others may be billed. (BUDGET-61)"""
    url = status(400)
    assert outcome(lambda: by_openai(url), calls=2) == "presumed"


def raising(error: BaseException) -> Callable[[], None]:
    def call() -> None:
        raise error

    return call


def test_errors_that_prove_nothing_are_presumed() -> None:
    """And those of this library say themselves whether they may be billed. (BUDGET-61)"""
    assert outcome(raising(ValueError("x"))) == "presumed"
    assert outcome(raising(ConnectionResetError())) == "presumed"
    assert outcome(raising(ConnectionRefusedError())) == "released"
    assert outcome(raising(LLMConnectionError("x"))) == "presumed"
    assert outcome(raising(LLMConfigurationError("x"))) == "released"

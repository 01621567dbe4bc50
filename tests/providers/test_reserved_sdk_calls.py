"""The hold around a call of somebody else's SDK, by the exceptions that the SDK raises, over loopback."""

from __future__ import annotations

import asyncio
import http.server
import socket
import threading
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from llm_connect import BudgetTracker, LLMError, LLMStoreError, OpenAIAdapter, RunConfig

openai = pytest.importorskip("openai")
aiohttp = pytest.importorskip("aiohttp")
httpx2 = pytest.importorskip("httpx2")
genai = pytest.importorskip("google.genai")
requests = pytest.importorskip("requests")

#: Google's SDK makes a class of aiohttp's.
pytestmark = pytest.mark.filterwarnings("ignore:Inheritance class:DeprecationWarning")
BODY = b'{"error": {"message": "no", "code": 400, "status": "INVALID_ARGUMENT"}}'


@pytest.fixture
def status() -> Iterator[Callable[..., str]]:
    """Addresses of servers that reply with these statuses, one after the other, and with the last for good.

    In the place of a status, 0 breaks the connection once the request has arrived.
    """
    servers: list[http.server.ThreadingHTTPServer] = []

    def serve(*codes: int) -> str:
        left = list(codes)

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"] or 0))
                code = left.pop(0) if left[1:] else left[0]
                if not code:
                    return
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


def by_gemini(url: str, **options: Any) -> None:
    with genai.Client(api_key="x", http_options={"base_url": url, **options}) as client:
        client.models.generate_content(model="m", contents="x")


def by_async_gemini(url: str) -> None:
    async def ask() -> None:
        async with genai.Client(api_key="x", http_options={"base_url": url}).aio as client:
            await client.models.generate_content(model="m", contents="x")

    asyncio.run(ask())


def by_httpx(url: str) -> None:
    httpx2.post(url, json={}).raise_for_status()


def by_aiohttp(url: str) -> None:
    async def ask() -> None:
        async with aiohttp.ClientSession(raise_for_status=True) as session:
            await session.post(url, json={})

    asyncio.run(ask())


def by_requests(url: str) -> None:
    requests.post(url, json={}, timeout=10).raise_for_status()


def by_urllib(url: str) -> None:
    urllib.request.urlopen(url, b"{}", timeout=10)


def by_socket(url: str) -> None:
    socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), 10).close()
    raise ConnectionResetError


def by_adapter(url: str) -> None:
    with OpenAIAdapter(model="m", api_key="sk-x", base_url=url) as adapter:
        adapter.execute_prompt("Hello", RunConfig(max_retries=0))


#: What providers' SDKs raise, and what anything else in the same block may raise.
SDKS = [by_openai, by_async_openai, by_gemini, by_async_gemini]
OTHERS = [by_httpx, by_aiohttp, by_requests, by_urllib, by_socket, by_adapter]


def outcome(call: Callable[[], object], calls: int = 1, *, dispatched: bool = True) -> str:
    """How a hold ends whose block `call` leaves by an exception."""
    tracker = BudgetTracker(1_000)
    with pytest.raises(Exception), tracker.reserve(100, calls=calls) as hold:  # noqa: B017, PT012
        if dispatched:
            hold.dispatch()
        call()
    (entry,) = tracker.ledger
    assert (tracker.held, tracker.spent) == (0, 0 if entry.outcome == "released" else 100)
    return entry.outcome


@pytest.mark.parametrize("call", SDKS)
@pytest.mark.parametrize(("code", "ended"), [(400, "released"), (429, "released"), (500, "presumed")])
def test_a_refusal_of_the_provider_is_not_billed(status: Any, call: Any, code: int, ended: str) -> None:
    """A reply of 4xx releases the hold around the call, any other failure is presumed. (BUDGET-61)"""
    url = status(code)
    assert outcome(lambda: call(url)) == ended


@pytest.mark.parametrize("call", [by_openai, by_async_openai, by_gemini])
def test_a_request_that_found_no_connection_is_not_billed(nobody: str, call: Any) -> None:
    """Nothing was sent. (BUDGET-61)"""
    assert outcome(lambda: call(nobody)) == "released"


def test_what_an_sdk_tried_more_than_once_is_presumed(
    status: Any, nobody: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last error says nothing of the tries before it. (BUDGET-61)"""
    assert outcome(lambda: by_openai(status(429), retries=1)) == "presumed"
    assert outcome(lambda: by_openai(nobody, retries=1)) == "presumed"
    retrying = {"attempts": 2, "initial_delay": 0.01, "max_delay": 0.01}
    assert outcome(lambda: by_gemini(status(503, 400), retry_options=retrying)) == "presumed"
    assert outcome(lambda: by_gemini(status(400), retry_options=retrying)) == "released"
    # Google's SDK tries once more where the connection broke, after a pause.
    monkeypatch.setattr("random.randint", lambda *_: -1)
    assert outcome(lambda: by_async_gemini(status(0, 400))) == "presumed"


def test_a_failure_of_an_earlier_call_is_not_one_of_this(status: Any) -> None:
    """A fallback in the handler of another call's error is a call of its own. (BUDGET-61)"""
    url = status(400)
    try:
        by_gemini(status(0))
    except Exception:
        assert outcome(lambda: by_gemini(url)) == "released"


def test_a_hold_of_several_requests_is_presumed(status: Any) -> None:
    """One of them was refused, the others may be billed. (BUDGET-61)"""
    url = status(400)
    assert outcome(lambda: by_openai(url), calls=2) == "presumed"


@pytest.mark.parametrize("call", OTHERS)
def test_what_fails_beside_the_call_proves_nothing(status: Any, nobody: str, call: Any) -> None:
    """The provider may have answered before: a 404 or a refused connection of anything else is presumed. (BUDGET-61)"""
    url = status(404)
    assert outcome(lambda: call(url)) == "presumed"
    assert outcome(lambda: call(nobody)) == "presumed"


def test_an_error_of_this_library_proves_nothing() -> None:
    """It is of another budget, of a wrong argument or of an adapter's call: what was sent stays booked. (BUDGET-61)"""

    def by_settle() -> None:
        with sent.reserve(1) as hold:
            hold.dispatch()
            hold.settle(-1)

    def by_store() -> None:
        raise LLMStoreError("x")

    sent = BudgetTracker(1)
    others = [lambda: BudgetTracker(1).reserve(2), lambda: BudgetTracker(0), by_settle, by_store]
    assert [outcome(call) for call in others] == ["presumed"] * 4
    assert sent.spent == 1


def test_the_cap_holds_while_answers_cannot_be_saved(nobody: str) -> None:
    """No more calls are sent than the cap allows, however often what comes after the answer fails. (BUDGET-61)"""
    tracker, sent = BudgetTracker(1_000), 0
    for _ in range(30):
        try:
            with tracker.reserve(100) as hold:
                hold.dispatch()
                sent += 1
                by_httpx(nobody)
        except LLMError:
            break
        except httpx2.ConnectError:
            pass
    assert (sent, tracker.spent) == (10, 1_000)


@pytest.mark.parametrize("call", [*SDKS[:3], *OTHERS])
def test_before_dispatch_every_exception_releases(nobody: str, call: Any) -> None:
    """Nothing was sent, whatever has failed. (BUDGET-61)"""
    assert outcome(lambda: call(nobody), dispatched=False) == "released"

"""httpx2 clients with a total deadline."""

from __future__ import annotations

import gzip
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpcore2
import httpx2
import pytest

from llm_connect import LLMConfigurationError, LLMConnectionError
from llm_connect.engine import http, sockets
from llm_connect.engine.deadline import Deadline
from llm_connect.engine.provider_adapter import reply_of
from llm_connect.testing import Behaviour, EmbeddedProvider
from tests.engine.heads import obeying


@pytest.fixture
def provider() -> Iterator[EmbeddedProvider]:
    """A running provider."""
    with EmbeddedProvider() as running:
        yield running


BODY = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
AUTH = {"authorization": "Bearer key"}


def post(client: httpx2.Client, provider: EmbeddedProvider) -> httpx2.Response:
    return client.post(f"{provider.openai_url}/chat/completions", json=BODY, headers=AUTH)


@pytest.mark.parametrize(
    ("error", "unsent", "retryable"),
    [
        (httpx2.ConnectError("x"), True, True),
        (httpx2.ConnectTimeout("x"), True, True),
        (httpx2.PoolTimeout("x"), True, True),
        (httpx2.ReadTimeout("x"), False, True),
        (httpx2.WriteError("x"), False, True),
        (httpx2.ReadError("x"), False, True),
        (httpx2.RemoteProtocolError("x"), False, True),
        (httpx2.DecodingError("x"), False, False),
        (RuntimeError("secret"), False, False),
    ],
)
def test_what_an_exception_means(error: Exception, unsent: bool, retryable: bool) -> None:
    """Only a connection that was never made is known to have sent nothing; foreign text is not shown. (WIRE-11)"""
    failed = http.failure_of(error)
    assert failed.kind is LLMConnectionError
    assert (failed.maybe_billed, failed.retryable) == (not unsent, retryable)
    assert type(error).__name__ in failed.message
    assert "secret" not in failed.message


@pytest.mark.parametrize("error", [httpx2.UnsupportedProtocol("x"), httpx2.InvalidURL("x")])
def test_an_address_that_is_none_is_a_configuration_error(error: Exception) -> None:
    """What can never be sent is not tried again, and nothing was billed."""
    failed = http.failure_of(error)
    assert failed.kind is LLMConfigurationError
    assert (failed.retryable, failed.maybe_billed) == (False, False)
    assert "base_url" in failed.message


def test_an_error_of_our_own_stays_what_it_is() -> None:
    """An LLMError of a carrier keeps its class and text."""
    failed = http.failure_of(LLMConfigurationError("pass it"))
    assert (failed.kind, failed.message, failed.maybe_billed) == (LLMConfigurationError, "pass it", False)


def test_a_reply_is_taken_whole() -> None:
    """Status, headers by lower-case name, and the decoded body."""
    packed = gzip.compress(b"hello")
    response = httpx2.Response(429, headers={"Retry-After": "3", "content-encoding": "gzip"}, content=packed)
    reply = reply_of(response)
    assert (reply.status, reply.headers["retry-after"], reply.body) == (429, "3", b"hello")


@pytest.mark.parametrize(
    "behaviour",
    [
        Behaviour(drip=0.03),
        Behaviour(drip=0.03, drip_headers=True),
        Behaviour(stall="before_headers"),
        Behaviour(stall="after_headers"),
    ],
    ids=["drip", "drip headers", "stall before", "stall after"],
)
def test_every_socket_operation_ends_by_the_deadline(provider: EmbeddedProvider, behaviour: Behaviour) -> None:
    """However the reply comes, reading is over at the deadline, in the clients' own timeout error. (CALL-2)"""
    provider.script(behaviour)
    with http.sync_client(5) as client, obeying(Deadline.after(0.5)):
        started = time.monotonic()
        with pytest.raises(httpx2.ReadTimeout):
            post(client, provider)
        assert 0.45 <= time.monotonic() - started <= 0.5 * 1.1 + 4


def test_a_passed_deadline_does_not_begin(provider: EmbeddedProvider) -> None:
    """After the deadline not even a connection is made."""
    with http.sync_client(5) as client, obeying(Deadline.after(-1)):
        with pytest.raises(httpx2.ConnectTimeout):
            post(client, provider)
    assert provider.requests == []


def test_without_a_deadline_the_clients_timeouts_hold(provider: EmbeddedProvider) -> None:
    """A deadline is a matter of the call; afterwards the client is as it was."""
    provider.script(Behaviour(delay=0.3))
    with http.sync_client(5) as client:
        with obeying(Deadline.after(0.05)), pytest.raises(httpx2.ReadTimeout):
            post(client, provider)
        assert post(client, provider).status_code == 200
        client.timeout = httpx2.Timeout(0.05)
        with pytest.raises(httpx2.ReadTimeout):
            post(client, provider)
        with obeying(Deadline.after(20)), pytest.raises(httpx2.ReadTimeout):
            post(client, provider)


def test_obeying_twice_is_obeying_once(provider: EmbeddedProvider) -> None:
    """A client that many adapters share does not get slower with each."""
    with httpx2.Client(trust_env=False) as client:
        for _ in range(2000):
            sockets.watch(client)
        assert post(client, provider).status_code == 200


@contextmanager
def deaf_server() -> Iterator[str]:
    """A server that accepts and never reads."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        accepted: list[socket.socket] = []
        thread = threading.Thread(target=lambda: accepted.append(listener.accept()[0]))
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        thread.join(5)
        for connection in accepted:
            connection.close()


def test_writing_ends_by_the_deadline() -> None:
    """A server that does not read the prompt cannot hold the call. (CALL-2)"""
    with deaf_server() as url, http.sync_client(5) as client, obeying(Deadline.after(0.5)):
        started = time.monotonic()
        with pytest.raises(httpx2.TimeoutException):
            client.post(url, content=b"x" * 50_000_000)
        assert time.monotonic() - started <= 0.5 * 1.1 + 4


def test_tls_obeys_the_deadline() -> None:
    """A server that never shakes hands cannot hold the call."""
    with deaf_server() as url, http.sync_client(5) as client, obeying(Deadline.after(0.5)):
        started = time.monotonic()
        with pytest.raises(httpx2.ConnectTimeout):
            client.get(url.replace("http", "https"))
        assert time.monotonic() - started <= 0.5 * 1.1 + 4


class Stream(httpcore2.NetworkStream):
    """A connection that lives in memory."""

    def start_tls(self, *_: object, **__: object) -> httpcore2.NetworkStream:
        return self

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self.timeout = timeout

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"

    def close(self) -> None:
        pass

    def get_extra_info(self, info: str) -> None:
        return None


class Backend(httpcore2.NetworkBackend):
    """A network that fails once and is asked to sleep before the next try."""

    def __init__(self) -> None:
        self.connects = 0
        self.stream = Stream()

    def connect_tcp(self, *_: object, **__: object) -> httpcore2.NetworkStream:
        self.connects += 1
        if self.connects == 1:
            raise httpcore2.ConnectError("once")
        return self.stream


def test_a_transport_of_the_users_own_keeps_its_ways() -> None:
    """TLS and the transport's own connection retries work through the deadline."""
    transport, backend = httpx2.HTTPTransport(retries=1), Backend()
    transport._pool._network_backend = backend
    with httpx2.Client(transport=transport) as client:
        sockets.watch(client)
        with obeying(Deadline.after(20)):
            assert client.get("https://example.invalid/").status_code == 200
    assert backend.connects == 2
    assert backend.stream.timeout is not None
    assert backend.stream.timeout <= 20


def test_a_transport_without_sockets_is_left_alone() -> None:
    """A mock transport has no connections that could obey."""
    transport = httpx2.MockTransport(lambda _: httpx2.Response(204))
    with httpx2.Client(transport=transport) as client:
        sockets.watch(client)
        assert client.get("http://example.invalid/").status_code == 204


async def test_an_async_client_follows_no_redirect(provider: EmbeddedProvider) -> None:
    """Neither form of client follows redirects or the environment's proxies."""
    provider.script(Behaviour(redirect=f"{provider.openai_url}/chat/completions"), times=1)
    async with http.async_client(5, headers=AUTH) as client:
        response = await client.post(f"{provider.openai_url}/chat/completions", json=BODY)
    assert response.status_code == 307

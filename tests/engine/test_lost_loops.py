"""A client whose event loop is gone: its connections end, although nothing can be awaited any more."""

from __future__ import annotations

import asyncio
import gc
import socket
import ssl
import sys
import threading
import warnings
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import httpx2
import pytest
import sniffio

from llm_connect.engine import http
from llm_connect.engine.deadline import Deadline
from llm_connect.engine.http_options import HttpOptions
from llm_connect.engine.http_stream import AsyncHttpStream, HttpStream
from tests.providers.raw_server import TLS, good
from tests.transports import TRANSPORTS, Transport, choose

BEGUN = b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n123"


class Server:
    """Answers the first request of each connection with `reply`, and then waits for the end of the connection."""

    def __init__(self, listener: socket.socket, reply: bytes, is_secured: bool) -> None:
        self._listener, self._reply, self._is_secured = listener, reply, is_secured
        self.url = f"http{'s' * is_secured}://localhost:{listener.getsockname()[1]}/"
        self.asked, self.ended = threading.Semaphore(0), threading.Semaphore(0)

    def serve(self) -> None:
        """Take connections until the listener is shut down."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(TLS / "certificate.pem", TLS / "key.pem")
        with suppress(OSError):
            while True:
                connection: socket.socket = self._listener.accept()[0]
                connection.settimeout(30)
                if self._is_secured:
                    connection = context.wrap_socket(connection, server_side=True)
                threading.Thread(target=self._answer, args=(connection,)).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection:
            request = b""
            while not request.endswith(b"\r\n\r\n"):
                request += connection.recv(65536)
            connection.sendall(self._reply)
            self.asked.release()
            with suppress(ConnectionError):
                assert connection.recv(1) == b""
            self.ended.release()


@contextmanager
def running(reply: bytes, *, is_secured: bool = False) -> Iterator[Server]:
    """A server in a thread."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = Server(listener, reply, is_secured)
        thread = threading.Thread(target=server.serve)
        thread.start()
        try:
            yield server
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Transport:
    """What carries async calls."""
    choose(request.param, monkeypatch)
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def said() -> Iterator[list[str]]:
    """The warnings of the test: what is not closed by hand is told as garbage."""
    gc.collect()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        texts: list[str] = []
        yield texts
        gc.collect()
    assert [str(each.message) for each in caught] == texts


def client() -> httpx2.AsyncClient:
    return http.async_client(5, HttpOptions(verify=TLS / "certificate.pem"))


def lost_under(work: Coroutine[Any, Any, Any], begun: threading.Semaphore) -> None:
    """Close a loop under a task of `work`, as soon as `begun` is there, and end it as garbage ends."""
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda *_: None)
    task = loop.create_task(work)
    assert loop.run_until_complete(asyncio.to_thread(begun.acquire, timeout=30))
    # What has come by now is read.
    loop.run_until_complete(asyncio.sleep(0.05))
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()
    assert not task.done()
    # A pool of httpx2 asks then which loop runs.
    with suppress(sniffio.AsyncLibraryNotFoundError):
        work.close()


@pytest.mark.usefixtures("transport", "said")
@pytest.mark.parametrize("is_secured", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("is_closed", [False, True], ids=["resting", "closed"])
def test_an_idle_connection_ends_without_its_loop(is_secured: bool, is_closed: bool) -> None:
    """Abandoning a client ends the connection that it has kept, in a loop that is closed or rests. (CALL-9)"""
    with running(good(b"{}"), is_secured=is_secured) as server:
        loop, used = asyncio.new_event_loop(), client()
        assert loop.run_until_complete(used.get(server.url)).status_code == 200
        if is_closed:
            loop.close()
        http.abandon(used)
        http.abandon(used)
        if not is_closed:
            loop.run_until_complete(asyncio.sleep(0))
            loop.close()
        assert server.ended.acquire(timeout=30)


@pytest.mark.usefixtures("said")
@pytest.mark.parametrize("reply", [b"", BEGUN], ids=["no reply", "half a reply"])
@pytest.mark.parametrize("is_secured", [False, True], ids=["plain", "tls"])
def test_a_request_under_way_ends_with_its_loop(reply: bytes, is_secured: bool, transport: Transport) -> None:
    """The connection of a request ends when its task goes with a closed loop, before its head or after. (CALL-9)"""
    with running(reply, is_secured=is_secured) as server:
        used = client()
        lost_under(used.get(server.url), server.asked)
        if transport == "httpx2" and (not reply or sys.version_info >= (3, 13)):
            # The pool ends it with the client.
            http.abandon(used)
        assert server.ended.acquire(timeout=30)
        http.abandon(used)


@pytest.mark.usefixtures("transport", "said")
@pytest.mark.parametrize("reply", [good(b"{}"), BEGUN], ids=["whole", "half"])
def test_a_stream_is_abandoned_without_its_loop(reply: bytes) -> None:
    """The connection of a stream that was read, to its end or not, ends without its loop. (STREAM-4)"""
    with running(reply) as server:
        loop, used = asyncio.new_event_loop(), client()

        async def begun() -> AsyncHttpStream:
            stream = AsyncHttpStream(await used.send(used.build_request("GET", server.url), stream=True))
            assert await stream.aread()
            return stream

        stream = loop.run_until_complete(begun())
        loop.close()
        stream.abandon()
        http.abandon(used)
        assert server.ended.acquire(timeout=30)


def test_a_client_of_the_users_own_is_not_abandoned() -> None:
    """The connections of a client that the user lent are not ours to close. (PROVIDER-40)"""
    with running(good(b"{}")) as server:
        loop, own = asyncio.new_event_loop(), httpx2.AsyncClient(trust_env=False)
        used = http.async_client(5, HttpOptions(async_http_client=own))
        assert loop.run_until_complete(used.get(server.url)).status_code == 200
        http.abandon(used)
        loop.run_until_complete(used.aclose())
        assert not server.ended.acquire(blocking=False)
        assert not own.is_closed
        loop.run_until_complete(own.aclose())
        loop.close()
        assert server.ended.acquire(timeout=30)


class Endless(httpx2.AsyncBaseTransport):
    """A transport of a user's own, whose body never ends."""

    def __init__(self) -> None:
        self.asked = threading.Semaphore(0)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, content=self._parts())

    async def _parts(self) -> AsyncIterator[bytes]:
        self.asked.release()
        yield b"1"
        await asyncio.Event().wait()


def test_a_call_by_the_users_own_transport_goes_with_its_loop() -> None:
    """What we do not know how to close without its loop is left to the user, and no foreign error comes out."""
    own = Endless()
    used = http.async_client(5, HttpOptions(async_http_client=httpx2.AsyncClient(transport=own)))
    lost_under(used.get("http://host/"), own.asked)


def test_a_stream_of_a_thread_that_is_lost_ends_its_connection() -> None:
    """The flow of a lost stream is no longer driven, and abandons its reply: that closes the connection. (STREAM-4)"""
    with running(BEGUN) as server, http.sync_client(5) as used:
        stream = HttpStream(used.send(used.build_request("GET", server.url), stream=True))
        assert stream.read(Deadline.after(30)) == b"123"
        stream.abandon()
        assert server.ended.acquire(timeout=30)


def test_a_connection_is_closed_after_its_loop() -> None:
    """As where a client is closed that outlives its loop: its socket is closed, and the loop is not asked."""
    from llm_connect.engine.aiohttp_transport import _Connection

    loop = asyncio.new_event_loop()
    with socket.create_server(("127.0.0.1", 0)) as server:
        opening = loop.create_connection(lambda: _Connection(loop), *server.getsockname())
        _, connection = loop.run_until_complete(opening)
        loop.close()
        connection.close()
        accepted, _ = server.accept()
        with accepted:
            accepted.settimeout(30)
            assert accepted.recv(1) == b""

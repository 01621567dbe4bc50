"""aiohttp underneath an async client of httpx2: what the client sends arrives as it is, and so does what comes back."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest

from llm_connect.engine import http
from llm_connect.engine.aiohttp_transport import AiohttpTransport
from llm_connect.engine.deadline import Head, awaited
from llm_connect.engine.framing import BadFraming
from llm_connect.engine.provider_adapter import reply_of
from llm_connect.testing import Behaviour, EmbeddedProvider
from tests.transports import TRANSPORTS, Transport, choose

BODY = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
AUTH = {"authorization": "Bearer key"}
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n"


@pytest.fixture
def provider() -> Iterator[EmbeddedProvider]:
    """A running provider."""
    with EmbeddedProvider() as running:
        yield running


@asynccontextmanager
async def server(*replies: bytes, closing: bool = False) -> AsyncIterator[tuple[str, list[bytes]]]:
    """A server that gives these replies in turn, and what it received."""
    received: list[bytes] = []
    left = list(replies)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while left:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0] or 0)
                received.append(head + await reader.readexactly(length))
                writer.write(left.pop(0))
                await writer.drain()
                if closing:
                    break
        writer.close()

    running = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with running:
        yield f"http://127.0.0.1:{running.sockets[0].getsockname()[1]}", received


@pytest.mark.parametrize(("transport", "used"), [("aiohttp", True), ("httpx2", False)])
async def test_aiohttp_is_used_where_it_is_installed(
    transport: Transport, used: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without it the clients are httpx2's own, and nothing else changes. (CALL-14)"""
    choose(transport, monkeypatch)
    async with http.async_client(5) as client:
        assert isinstance(client._transport, AiohttpTransport) is used


async def test_a_request_arrives_as_the_client_made_it() -> None:
    """Address, headers and body are httpx2's, and no header is added by aiohttp."""
    async with server(OK + b"\r\n{}") as (url, received), http.async_client(5, headers=AUTH) as client:
        request = client.build_request("POST", f"{url}/v1/a%20b/m:x?q=%2F", json=BODY)
        await client.send(request)
    lines = received[0].partition(b"\r\n\r\n")[0].split(b"\r\n")
    assert lines[0] == b"POST /v1/a%20b/m:x?q=%2F HTTP/1.1"
    assert {tuple(line.split(b": ", 1)) for line in lines[1:]} == set(request.headers.raw)
    assert received[0].endswith(request.content)


@pytest.mark.parametrize("size", [0, 1, 1 << 16, (1 << 16) + 1, 3_000_000])
async def test_a_body_of_any_size_arrives_whole(size: int) -> None:
    """A large body is sent in parts, with its length, and without the warning that aiohttp has for it."""
    content = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    async with server(OK + b"\r\n{}") as (url, received), http.async_client(5) as client:
        await client.post(url, content=content)
    head, _, body = received[0].partition(b"\r\n\r\n")
    assert body == content
    assert b"transfer-encoding" not in head.lower()


async def test_a_packed_reply_is_unpacked_once() -> None:
    """httpx2 unpacks by the header, so aiohttp must not."""
    packed = gzip.compress(b"hello")
    head = f"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: {len(packed)}\r\n\r\n"
    async with server(head.encode() + packed) as (url, _), http.async_client(5) as client:
        response = await client.post(url)
    assert reply_of(response).body == b"hello"


async def test_a_reply_in_parts_is_one_body() -> None:
    """A chunked reply is put together, and headers that come twice are both there."""
    reply = b"HTTP/1.1 200 OK\r\nx-a: 1\r\nx-a: 2\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    async with server(reply) as (url, _), http.async_client(5) as client:
        response = await client.post(url)
    assert response.content == b"abcde"
    assert response.headers.get_list("x-a") == ["1", "2"]


async def test_cookies_are_httpx2s_own_matter() -> None:
    """aiohttp keeps no cookie that would be sent along later."""
    replies = OK + b"set-cookie: a=b\r\n\r\n{}", OK + b"\r\n{}"
    async with server(*replies) as (url, received):
        transport = http.async_client(5)._transport
        for _ in range(2):
            request = httpx2.Request("POST", url)
            await (await transport.handle_async_request(request)).aread()
        await transport.aclose()
    assert b"cookie" not in received[1].lower()


async def test_nothing_is_repeated_on_a_connection_that_was_kept() -> None:
    """A kept connection that breaks is an error: the request may have been billed."""
    async with server(OK + b"\r\n{}", b"") as (url, received), http.async_client(5) as client:
        await client.post(url, json=BODY)
        with pytest.raises(httpx2.RemoteProtocolError):
            await client.post(url, json=BODY)
    assert len(received) == 2


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (b"", httpx2.RemoteProtocolError),
        (b"what is this\r\n\r\n", BadFraming),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{}", httpx2.RemoteProtocolError),
        (b"HTTP/1.1 200 OK\r\nx: " + b"y" * 200_000 + b"\r\n\r\n", BadFraming),
        (b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 2\r\n\r\n{}", httpx2.DecodingError),
    ],
    ids=["nothing", "no HTTP", "cut", "a long header", "not packed"],
)
async def test_what_is_no_reply_is_an_error_of_httpx2(reply: bytes, kind: type[Exception]) -> None:
    """The request was sent, so it may have been billed; no foreign exception comes out, and none as cause. (WIRE-11)"""
    async with server(reply, closing=True) as (url, received), http.async_client(5) as client:
        with pytest.raises(kind) as caught:
            await client.post(url, json=BODY)
    assert http.failure_of(caught.value).maybe_billed
    assert len(received) == 1


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_reset_connection_is_an_error_of_httpx2(transport: Transport, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reset after the request was read may have been billed. (WIRE-11)"""
    choose(transport, monkeypatch)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        async with http.async_client(5) as client:
            task = asyncio.create_task(client.post(url, json=BODY))
            connection, _ = await asyncio.to_thread(listener.accept)
            await asyncio.to_thread(connection.recv, 65536)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
            connection.close()
            with pytest.raises(httpx2.ReadError) as caught:
                await task
    assert http.failure_of(caught.value).maybe_billed


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("http://127.0.0.1:1/", httpx2.ConnectError),
        ("http://nobody.invalid/", httpx2.ConnectError),
        ("ftp://127.0.0.1/", httpx2.UnsupportedProtocol),
        ("/relative", httpx2.UnsupportedProtocol),
    ],
)
@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_what_was_never_connected_was_not_billed(
    url: str, kind: type[Exception], transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no connection was made, nothing was sent. (WIRE-11)"""
    choose(transport, monkeypatch)
    async with http.async_client(5) as client:
        with pytest.raises(kind) as caught:
            await client.post(url, json=BODY)
    assert not http.failure_of(caught.value).maybe_billed


async def test_a_server_that_speaks_no_tls_was_not_billed() -> None:
    """A handshake that fails sent nothing of the request. (WIRE-11)"""
    received: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.append(await reader.read(65536))
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    running = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with running, http.async_client(5, headers=AUTH) as client:
        with pytest.raises(httpx2.ConnectError):
            await client.post(f"https://127.0.0.1:{running.sockets[0].getsockname()[1]}", json=BODY)
    assert len(received) == 1
    assert b"Bearer" not in received[0]


async def test_connections_are_reused_and_limited(provider: EmbeddedProvider) -> None:
    """Calls in a row need one connection, and no more are open at once than the limit says. (CALL-9)"""
    opened: list[Any] = []
    loop = asyncio.get_running_loop()
    create = loop.sock_connect

    async def counting(*arguments: Any) -> None:
        opened.append(arguments)
        await create(*arguments)

    loop.sock_connect = counting  # type: ignore[method-assign]
    url = f"{provider.openai_url}/chat/completions"
    async with http.async_client(3, headers=AUTH) as client:
        for _ in range(5):
            await client.post(url, json=BODY)
        assert len(opened) == 1
        await asyncio.gather(*(client.post(url, json=BODY) for _ in range(20)))
    assert len(opened) <= 3
    assert len(provider.requests) == 25


@pytest.mark.parametrize("behaviour", [Behaviour(stall="before_headers"), Behaviour(stall="after_headers")])
async def test_a_cancelled_call_lets_go_of_its_connection(provider: EmbeddedProvider, behaviour: Behaviour) -> None:
    """Half a reply on a kept connection would be the next call's: with one connection the next one gets its own."""
    provider.script(behaviour, times=1)
    url = f"{provider.openai_url}/chat/completions"
    async with http.async_client(1, headers=AUTH) as client:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await client.post(url, json=BODY)
        async with asyncio.timeout(20):
            assert (await client.post(url, json=BODY)).status_code == 200


async def test_a_response_that_is_not_read_lets_go_of_its_connection(provider: EmbeddedProvider) -> None:
    """A client that closes a response early does not keep the only place."""
    url = f"{provider.openai_url}/chat/completions"
    async with http.async_client(1, headers=AUTH) as client:
        async with client.stream("POST", url, json=BODY) as response:
            assert response.status_code == 200
        async with asyncio.timeout(20):
            assert (await client.post(url, json=BODY)).status_code == 200


async def test_headers_are_noted_before_the_body(provider: EmbeddedProvider) -> None:
    """The head of a reply is known when its headers have come, although its body never does. (CALL-30)"""
    provider.script(Behaviour(stall="after_headers"))
    head = Head()
    awaited.set(head)
    async with http.async_client(1, headers=AUTH) as client:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await client.post(f"{provider.openai_url}/chat/completions", json=BODY)
    assert head.request_id


async def test_closing_twice_or_unused_is_closing_once() -> None:
    """A client that sent nothing has nothing to close."""
    client = http.async_client(1)
    await client.aclose()
    await client._transport.aclose()

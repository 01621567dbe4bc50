"""The loopback server as HTTP, and that it leaves nothing behind."""

from __future__ import annotations

import asyncio
import gc
import json
import socket
import time
from typing import Any

import pytest

from llm_connect.testing import Behaviour, EmbeddedProvider
from llm_connect.testing.embedded_provider._http_messages import RequestParser
from tests.leftovers import DESCRIPTORS, nothing_left

BODY = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hello"}]}).encode()
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nAuthorization: Bearer k\r\n"
LENGTH = b"Content-Length: %d\r\n" % len(BODY)
CLOSE = b"Connection: close\r\n"


def chunked(body: bytes, size: int) -> bytes:
    parts = [body[position : position + size] for position in range(0, len(body), size)]
    return b"".join(b"%X;x=y\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\nTrailer: t\r\n\r\n"


def test_keep_alive_serves_many_requests_on_one_connection(wire: Any) -> None:
    """Requests sent all at once are answered in their order."""
    request = HEAD + LENGTH + b"\r\n" + BODY
    raw = wire.exchange(request * 49 + HEAD + CLOSE + LENGTH + b"\r\n" + BODY)
    assert raw.count(b"HTTP/1.1 200 OK") == 50
    assert wire.provider.meter.calls == 50


def test_pipelined_requests_wait_for_a_delayed_one(wire: Any) -> None:
    """Replies never overtake each other."""
    wire.provider.script(Behaviour(delay=0.1, status=429), times=1)
    raw = wire.exchange(HEAD + LENGTH + b"\r\n" + BODY + HEAD + CLOSE + LENGTH + b"\r\n" + BODY)
    assert raw.index(b"HTTP/1.1 429") < raw.index(b"HTTP/1.1 200")


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_chunked_bodies_are_understood(size: int, wire: Any) -> None:
    """Chunks of any size, extensions and trailers included, twice on one connection."""
    first = HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(BODY, size)
    last = HEAD + CLOSE + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(BODY, size)
    assert wire.exchange(first + last).count(b"HTTP/1.1 200 OK") == 2


def test_the_parser_is_indifferent_to_how_bytes_are_split() -> None:
    """Two requests with an empty line before each, in pieces of every size, are the same two requests."""
    raw = 2 * (b"\r\n" + HEAD + LENGTH + b"\r\n" + BODY + HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
    raw = raw.replace(b"chunked\r\n\r\n", b"chunked\r\n\r\n" + chunked(BODY, 9))
    for size in range(1, len(raw)):
        parser, bodies = RequestParser(), []
        for position in range(0, len(raw), size):
            parser.feed(raw[position : position + size])
            while (request := parser.next_request()) is not None:
                bodies.append(request.body)
        assert bodies == [BODY] * 4


@pytest.mark.parametrize("framing", [LENGTH, b"Transfer-Encoding: chunked\r\n"])
def test_requests_may_arrive_byte_by_byte(framing: bytes, wire: Any) -> None:
    """How the bytes are split never matters."""
    body = BODY if framing is LENGTH else chunked(BODY, 20)
    connection = wire.connect()
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for byte in b"\r\n" + HEAD + framing + b"\r\n" + body:
        connection.sendall(bytes([byte]))
    assert connection.recv(65536).startswith(b"HTTP/1.1 200 OK")


def test_expect_continue_is_answered_before_the_body(wire: Any) -> None:
    """A client that asks first is told to go on."""
    connection = wire.connect()
    connection.sendall(HEAD + LENGTH + b"Expect: 100-continue\r\n\r\n")
    assert connection.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
    connection.sendall(BODY)
    assert connection.recv(65536).startswith(b"HTTP/1.1 200 OK")


def test_head_of_the_root_has_no_body(wire: Any) -> None:
    """As older claude commands ask before they begin."""
    raw = wire.exchange(b"HEAD / HTTP/1.1\r\n" + CLOSE + b"\r\n")
    assert raw.startswith(b"HTTP/1.1 200 OK")
    assert raw.endswith(b"\r\n\r\n")


def test_http_1_0_closes_after_the_reply(wire: Any) -> None:
    """Without keep-alive the end of the connection is the end of the reply."""
    raw = wire.exchange(HEAD.replace(b"1.1", b"1.0") + LENGTH + b"\r\n" + BODY)
    assert raw.startswith(b"HTTP/1.1 200 OK")
    assert b"connection: close" in raw


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET / SPDY/3\r\n\r\n", 400),
        (HEAD + b"no colon\r\n\r\n", 400),
        (HEAD + b"Content-Length: -1\r\n\r\n", 400),
        (HEAD + b"Content-Length: 99999999999\r\n\r\n", 413),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n", 400),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\nabcd", 400),
        (b"x" * 70_000, 431),
    ],
)
def test_broken_http_is_refused_and_closed(raw: bytes, status: int, wire: Any) -> None:
    """What cannot be read is answered once, and the connection ends."""
    assert wire.exchange(raw).startswith(b"HTTP/1.1 %d " % status)


def test_a_body_of_ten_megabytes_is_read_and_billed(wire: Any) -> None:
    """Large prompts arrive whole."""
    prompt = "a" * 10_000_000
    assert wire.post("openai_chat", wire.body("openai_chat", prompt))[0] == 200
    assert wire.provider.meter.prompt_tokens == 2_352_942


def test_a_client_that_leaves_early_is_billed_all_the_same(wire: Any) -> None:
    """Billing is on arrival of the whole request; half a request is none. (TESTKIT-3)"""
    wire.provider.script(Behaviour(delay=5))
    whole, half = wire.connect(), wire.connect()
    whole.sendall(HEAD + LENGTH + b"\r\n" + BODY)
    half.sendall(HEAD + LENGTH + b"\r\n" + BODY[:-1])
    wire.provider.wait_for_requests(1)
    whole.close()
    half.close()
    assert wire.provider.meter.calls == 1


async def _open_many(port: int, count: int) -> list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    return await asyncio.gather(*(asyncio.open_connection("127.0.0.1", port) for _ in range(count)))


def test_two_thousand_connections_are_served_at_the_same_time(provider: EmbeddedProvider) -> None:
    """All of them are open and waiting before the first is answered."""
    provider.script(Behaviour(delay=0.5))

    async def crowd() -> int:
        streams = await _open_many(int(provider.url.rsplit(":", 1)[1]), 2000)
        for _, writer in streams:
            writer.write(HEAD + CLOSE + LENGTH + b"\r\n" + BODY)
        replies = await asyncio.gather(*(reader.read() for reader, _ in streams))
        for _, writer in streams:
            writer.close()
        await asyncio.gather(*(writer.wait_closed() for _, writer in streams))
        return sum(reply.startswith(b"HTTP/1.1 200") for reply in replies)

    assert asyncio.run(crowd()) == provider.meter.calls == 2000


@pytest.mark.skipif(not DESCRIPTORS.is_dir(), reason="needs /proc to see open sockets")
def test_close_leaves_no_thread_and_no_socket() -> None:
    """Also with replies under way: stalled, dripping, delayed, and half a request. (TESTKIT-6)"""
    with nothing_left():
        with EmbeddedProvider() as provider:
            for behaviour in (Behaviour(stall="after_headers"), Behaviour(drip=1), Behaviour(delay=60)):
                provider.script(behaviour, times=1)
            port = int(provider.url.rsplit(":", 1)[1])
            clients = [socket.create_connection(("127.0.0.1", port), timeout=60) for _ in range(5)]
            for client in clients[:3]:
                client.sendall(HEAD + LENGTH + b"\r\n" + BODY)
            clients[3].sendall(HEAD)
            provider.wait_for_requests(3)
        for client in clients:
            client.close()


def test_close_while_clients_connect_leaves_no_transport() -> None:
    """Connections that are being accepted at that moment are closed, too."""
    for _ in range(20):
        with EmbeddedProvider() as provider:
            port = int(provider.url.rsplit(":", 1)[1])
            clients = [socket.create_connection(("127.0.0.1", port), timeout=60) for _ in range(20)]
        for client in clients:
            client.close()
    gc.collect()


def test_close_is_quick_and_may_be_repeated(provider: EmbeddedProvider) -> None:
    """A second close does nothing; meter and requests can still be read."""
    started = time.monotonic()
    provider.close()
    provider.close()
    assert time.monotonic() - started < 5
    assert provider.meter.calls == 0
    assert provider.requests == []
    with pytest.raises(RuntimeError, match="started before"):
        provider.start()


def test_url_of_a_provider_that_was_not_started_is_an_error() -> None:
    """The error says how to start it."""
    provider = EmbeddedProvider()
    with pytest.raises(RuntimeError, match="with EmbeddedProvider"):
        _ = provider.openai_url
    provider.close()


def test_wrong_reply_length_is_refused() -> None:
    """A reply has at least one token."""
    with pytest.raises(ValueError, match="at least 1"):
        EmbeddedProvider(reply_tokens=0)


def test_it_listens_on_loopback_only(provider: EmbeddedProvider) -> None:
    """Under another address of this machine nobody answers. (TESTKIT-7)"""
    host, _, port = provider.url.removeprefix("http://").partition(":")
    assert host == "127.0.0.1"
    with pytest.raises(ConnectionError):
        socket.create_connection(("127.0.0.2", int(port)), timeout=60).close()


def test_nothing_is_printed(wire: Any, capfd: pytest.CaptureFixture[str], caplog: Any) -> None:
    """Neither good nor broken clients leave a trace on the terminal or in a log. (TESTKIT-7)"""
    wire.post("openai_chat")
    wire.exchange(b"nonsense\r\n\r\n")
    wire.provider.script(Behaviour(cut=5))
    wire.post("openai_chat")
    wire.provider.close()
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []

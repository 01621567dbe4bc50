"""Names and addresses: found and tried within one limit, by threads that nobody has to wait for."""

from __future__ import annotations

import asyncio
import errno
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import httpcore2
import pytest

from llm_connect.engine import aiohttp_transport, connecting, http, names, sockets, threads
from llm_connect.engine.deadline import Deadline
from llm_connect.engine.names import Lookups, alook_up, look_up
from tests.dead_ends import dropped_packets, hanging_lookups, silent_tls
from tests.engine.heads import obeying


def address_of(url: str) -> Any:
    host, _, port = url.removeprefix("http://").partition(":")
    return (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (host, int(port)))


@contextmanager
def listening(host: str = "127.0.0.1") -> Iterator[str]:
    with socket.create_server((host, 0)) as server:
        yield "http://{}:{}".format(*server.getsockname())


def closed() -> str:
    with listening() as url:
        return url


# Several addresses.


def test_addresses_share_one_limit() -> None:
    """Three that drop packets take no longer than one. (CALL-35, CALL-2)"""
    with ExitStack() as ends:
        dead = [address_of(ends.enter_context(dropped_packets(f"127.0.0.{number}"))) for number in (2, 3, 4)]
        started = time.monotonic()
        with pytest.raises(TimeoutError):
            connecting.connect(dead, 1.0)
        assert 1.0 <= time.monotonic() - started < 2.8


@pytest.mark.parametrize("seconds", [None, 20])
def test_an_address_that_drops_packets_does_not_keep_the_next_one_waiting(seconds: float | None) -> None:
    """The next address is tried beside it after a quarter of a second. (CALL-35)"""
    with dropped_packets() as dead, listening() as live:
        connection = connecting.connect([address_of(dead), address_of(live)], seconds, ("127.0.0.1", 0))
        with connection:
            assert connection.getpeername()[1] == int(live.rpartition(":")[2])


def test_an_address_that_refuses_is_followed_by_the_next_one_at_once() -> None:
    """A refusal is no reason to wait. (CALL-35)"""
    with listening() as live, connecting.connect([address_of(closed()), address_of(live)], 20) as connection:
        assert connection.getpeername()[1] == int(live.rpartition(":")[2])


@pytest.mark.parametrize(
    ("addresses", "code"),
    [
        ([], errno.EADDRNOTAVAIL),
        ([address_of(closed())], errno.ECONNREFUSED),
        ([(socket.AF_INET, socket.SOCK_STREAM, 9999, "", ("127.0.0.1", 9))], None),
        ([(socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1%none", 9, 0, 0))], None),
    ],
)
def test_the_last_error_is_told(addresses: list[Any], code: int | None) -> None:
    """When no address takes a connection, the error is that of the last one. (CALL-35)"""
    with pytest.raises(OSError) as caught:
        connecting.connect(addresses, 20)
    assert code in (None, caught.value.errno)


def test_an_interrupted_attempt_leaves_no_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is no error of the network passes, and the socket is closed: a warning would fail this test."""

    class Interrupted(socket.socket):
        def connect_ex(self, address: Any) -> int:
            raise KeyboardInterrupt

    monkeypatch.setattr(socket, "socket", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        connecting.connect([address_of("http://127.0.0.1:9")], 20)


async def test_a_coroutine_takes_the_first_that_answers() -> None:
    """As a thread does; when none answers, it raises what the last one raised. (CALL-35)"""

    async def never() -> str:
        await asyncio.get_running_loop().create_future()
        raise AssertionError

    async def fails() -> str:
        raise OSError("no")

    async def answers() -> str:
        return "here"

    assert await connecting.connect_any([never, fails, answers]) == "here"
    assert await connecting.connect_any([answers]) == "here"
    with pytest.raises(OSError, match="no"):
        await connecting.connect_any([fails, fails])


# Names.


def test_a_lookup_that_hangs_ends_with_its_caller() -> None:
    """The thread is left behind, and the caller gets its timeout. (CALL-35)"""
    with hanging_lookups():
        for _ in range(3):
            with pytest.raises(TimeoutError):
                look_up("hangs.test", 80, 0.02)
        assert sum(thread.name == "llm-connect-lookup" for thread in threading.enumerate()) == 1


def test_a_lookup_that_hangs_keeps_no_event_loop_from_its_end() -> None:
    """`asyncio.run` returns although the name is still being looked up. (CALL-35)"""

    async def main() -> None:
        async with asyncio.timeout(0.02):
            await alook_up("hangs-in-a-loop.test", 80)

    with hanging_lookups():
        with pytest.raises(TimeoutError):
            asyncio.run(main())
        assert any(thread.name == "llm-connect-lookup" for thread in threading.enumerate())
    # The answer comes when that loop is closed, and nobody minds.


def test_lookups_are_bounded_in_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """While all of them hang a further one is refused with the reason; when they end, it is looked up. (CALL-35)"""
    lookups = Lookups(most=2)
    with hanging_lookups():
        hanging = [lookups.ask(f"hangs{number}.test", 80) for number in range(2)]
        waiting = lookups.ask("localhost", 80)
        assert lookups.ask("localhost", 80) is waiting
        monkeypatch.setattr(names, "_HANGS_AFTER_SECONDS", -1.0)
        with pytest.raises(OSError, match="2 name lookups hang already"):
            lookups.ask("127.0.0.1.test", 80)
        assert not waiting.done()
    assert waiting.result(20)[0][4][1] == 80
    for each in hanging:
        with pytest.raises(socket.gaierror):
            each.result(20)


def test_a_lookup_that_hangs_is_not_joined_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """After some seconds the same name is looked up by another thread, which may find it. (CALL-35)"""
    lookups = Lookups(most=2)
    with hanging_lookups():
        first = lookups.ask("hangs.test", 80)
        assert lookups.ask("hangs.test", 80) is first
        monkeypatch.setattr(names, "_HANGS_AFTER_SECONDS", -1.0)
        second = lookups.ask("hangs.test", 80)
        assert second is not first
    for each in (first, second):
        with pytest.raises(socket.gaierror):
            each.result(20)


@pytest.mark.parametrize(("host", "family"), [("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)])
async def test_a_number_is_not_looked_up(host: str, family: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """An address needs no resolver, and no thread. (CALL-35)"""
    monkeypatch.setattr(names, "_of_this_process", None)
    assert look_up(host, 80, 0)[0][0] == (await alook_up(host, 80))[0][0] == family


@pytest.mark.parametrize("host", ["a" * 70 + ".test", "\ud800.test"])
def test_a_name_that_is_none_is_an_error_like_any_other(host: str) -> None:
    """What cannot be a name is not found. (CALL-35)"""
    with pytest.raises(OSError):
        look_up(host, 80, 20)


def test_a_fork_has_lookups_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """No thread of its parent would ever answer it. (CALL-35)"""
    ours = names._of_this_process()
    assert names._of_this_process() is ours
    monkeypatch.setattr("llm_connect._forks.generation", 99)
    assert names._of_this_process() is not ours


# Clients.


@pytest.mark.parametrize(
    ("end", "error"),
    [
        (hanging_lookups, httpcore2.ConnectTimeout),
        (dropped_packets, httpcore2.ConnectTimeout),
        (silent_tls, httpcore2.ConnectTimeout),
    ],
)
def test_a_backend_keeps_the_deadline(end: Any, error: type[Exception]) -> None:
    """Each step on the way to a connection ends by the deadline of the call. (CALL-2)"""
    with end() as url, http.sync_client(1) as client:
        started = time.monotonic()
        with obeying(Deadline.after(0.2)), pytest.raises(Exception) as caught:
            client.post(url)
        assert type(caught.value).__name__ == error.__name__
        assert 0.2 <= time.monotonic() - started < 3


class Named(httpcore2.NetworkBackend):
    """A backend of the user's own, which knows its hosts by itself."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def connect_tcp(self, host: str, *arguments: Any, **options: Any) -> Any:
        self.asked.append(host)
        return httpcore2.MockStream([b"HTTP/1.1 204 No Content\r\n\r\n"])

    connect_unix_socket = connect_tcp


class AsyncNamed(httpcore2.AsyncNetworkBackend):
    def __init__(self) -> None:
        self.asked: list[Any] = []

    async def connect_tcp(self, host: str, *arguments: Any, **options: Any) -> Any:
        self.asked.append(host)
        return httpcore2.AsyncMockStream([b"HTTP/1.1 204 No Content\r\n\r\n"])

    connect_unix_socket = connect_tcp

    async def sleep(self, seconds: float) -> None:
        self.asked.append(seconds)


def test_a_backend_of_the_users_own_finds_its_hosts_itself() -> None:
    """Only httpx2's own way to a host is replaced. (PROVIDER-7)"""
    inner = Named()
    backend = sockets._Backend(inner)
    for stream in (backend.connect_tcp("known-to-it", 80), backend.connect_unix_socket("/its/path")):
        stream.write(b"x")
        stream.close()
    assert inner.asked == ["known-to-it", "/its/path"]


async def test_an_async_backend_of_the_users_own_does_too() -> None:
    """As in a thread. (PROVIDER-7)"""
    inner = AsyncNamed()
    backend = sockets._AsyncBackend(inner)
    for stream in (await backend.connect_tcp("known-to-it", 80), await backend.connect_unix_socket("/its/path")):
        await stream.write(b"x")
        await stream.aclose()
    await backend.sleep(0)
    assert inner.asked == ["known-to-it", "/its/path", 0]


def test_a_socket_that_takes_an_option_not_is_closed() -> None:
    """An option that the system does not know is a failed connection; a socket left open would fail this test."""
    backend = sockets._Backend(httpcore2.SyncBackend())
    with listening() as url, pytest.raises(httpcore2.ConnectError):
        backend.connect_tcp("127.0.0.1", int(url.rpartition(":")[2]), socket_options=[(socket.SOL_SOCKET, 9999, 1)])


def test_the_zone_of_an_address_is_kept() -> None:
    """An address of the local link means nothing without its interface. (CALL-35)"""
    found = aiohttp_transport._resolved("h", (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("fe80::1", 80, 0, 3)))
    assert (found["host"], found["port"]) == ("fe80::1%3", 80)


async def test_work_that_has_ended_is_known_at_once() -> None:
    """Nobody waits for what is there, and an error is raised where it is asked for. (CALL-34)"""
    done = threads.in_thread(lambda: 5)
    assert done.result(20) == await threads.known(done) == 5
    failed = threads.in_thread(lambda: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        await threads.known(failed)


def test_a_fork_waits_for_an_import_in_another_thread() -> None:
    """What an import has locked would stay locked in the fork; its own thread does not wait for itself. (CALL-34)"""
    begun, over = threading.Event(), threading.Event()

    def work() -> None:
        threads._before_fork()
        begun.set()
        over.wait(20)

    once = threads.Once()
    first = once.begin(work)
    assert once.begin(work) is first
    assert begun.wait(20)
    forking = threads.in_thread(threads._before_fork)
    assert not forking.done()
    over.set()
    forking.result(20)
    first.result(20)
    assert once.begin(lambda: None) is not first

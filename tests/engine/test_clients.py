"""Clients live as long as their adapter, and no longer than their loop."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from llm_connect.engine.clients import Clients


class Owner:
    """Stands for an adapter."""


class Client:
    """Remembers in which loop and how often it was closed."""

    def __init__(self) -> None:
        self.closed_in: list[Any] = []


class Shop:
    """Makes clients and keeps them."""

    hidden = ahidden = False

    def __init__(self) -> None:
        self.owner: Owner | None = Owner()
        self.made: list[Client] = []
        carrier: Any = self
        self.clients = Clients(self.owner, carrier)

    def client(self) -> Client:
        """The client of threads, which is given back at once."""
        with self.clients.lease() as client:
            return client

    async def client_of_loop(self) -> Client:
        """The client of the running loop, which is given back at once."""
        with await self.clients.lease_in_loop() as client:
            return client

    def make(self) -> Client:
        time.sleep(0.005)
        self.made.append(Client())
        return self.made[-1]

    amake = make

    @staticmethod
    def close(client: Client) -> None:
        client.closed_in.append("thread")

    @staticmethod
    async def aclose(client: Client) -> None:
        client.closed_in.append(asyncio.get_running_loop())

    @staticmethod
    def abandon(client: Client) -> None:
        client.closed_in.append("abandoned")


def test_threads_share_one_client_from_their_first_use_on() -> None:
    """Sixteen threads that come first at the same moment get the same client. (CALL-9)"""
    shop, start = Shop(), threading.Barrier(16, timeout=60)

    def get(_: int) -> Client:
        start.wait()
        return shop.client()

    with ThreadPoolExecutor(16) as pool:
        assert len({id(client) for client in pool.map(get, range(16))}) == 1 == len(shop.made)


def test_closing_closes_once_and_the_next_use_makes_a_new_one() -> None:
    """A closed client is not handed out again, and not closed again. (CALL-10)"""
    shop = Shop()
    first = shop.client()
    shop.clients.close()
    shop.clients.close()
    assert first.closed_in == ["thread"]
    assert shop.client() is not first


def test_a_forgotten_owner_closes_its_client() -> None:
    """Garbage collection of the adapter is as good as closing it. (CALL-9)"""
    shop = Shop()
    client = shop.client()
    shop.owner = None
    gc.collect()
    assert client.closed_in == ["thread"]


def test_closing_while_threads_come_and_go_is_safe() -> None:
    """A thread that asks for the client while another closes it gets one, and no IndexError."""
    shop, stop = Shop(), threading.Event()

    def close() -> None:
        while not stop.is_set():
            shop.clients.close()

    closer = threading.Thread(target=close)
    closer.start()
    try:
        assert all(isinstance(shop.client(), Client) for _ in range(100))
    finally:
        stop.set()
        closer.join()


async def test_tasks_of_a_loop_share_one_client() -> None:
    """Twenty tasks that come first at the same moment get the same client, and it is not the threads'. (CALL-9)"""
    shop = Shop()
    clients = await asyncio.gather(*(shop.client_of_loop() for _ in range(20)))
    assert len({id(client) for client in clients}) == 1
    assert shop.client() is not clients[0]
    await shop.clients.aclose()
    assert clients[0].closed_in == [asyncio.get_running_loop()]


def test_each_loop_closes_its_own_client_at_its_end() -> None:
    """`asyncio.run` leaves no client open, and the next loop gets a new one. (CALL-9)"""
    shop, loops = Shop(), []

    async def use() -> Client:
        loops.append(asyncio.get_running_loop())
        return await shop.client_of_loop()

    clients = [asyncio.run(use()) for _ in range(3)]
    assert len(set(clients)) == 3
    assert [client.closed_in for client in clients] == [[loop] for loop in loops]


async def test_closing_in_a_loop_waits_for_it_and_can_be_repeated() -> None:
    """After `aclose` the client is closed, once; the next use makes a new one."""
    shop = Shop()
    first, sync = await shop.client_of_loop(), shop.client()
    await shop.clients.aclose()
    await shop.clients.aclose()
    assert (len(first.closed_in), sync.closed_in) == (1, ["thread"])
    assert await shop.client_of_loop() is not first
    await shop.clients.aclose()


async def test_closing_from_outside_leaves_closing_to_the_loop() -> None:
    """`close` in another thread lets the loop's client go, and the loop itself closes it."""
    shop = Shop()
    client = await shop.client_of_loop()
    await asyncio.to_thread(shop.clients.close)
    gc.collect()
    for _ in range(100):
        await asyncio.sleep(0.01)
        if client.closed_in:
            break
    assert client.closed_in == [asyncio.get_running_loop()]


def test_closed_loops_are_not_kept() -> None:
    """A program that calls `asyncio.run` for ever does not gather the loops of the past."""
    shop, loops = Shop(), []

    async def use() -> None:
        loops.append(weakref.ref(asyncio.get_running_loop()))
        await shop.client_of_loop()

    for _ in range(5):
        asyncio.run(use())
    shop.made.clear()
    gc.collect()
    assert [loop() for loop in loops] == [None] * 5


# Closing while calls are under way


def test_a_client_in_use_is_closed_by_its_last_user() -> None:
    """Closing lets the client go; the last of two users closes it, and whoever comes meanwhile gets a new one.

    (CALL-40)
    """
    shop = Shop()
    first, second = shop.clients.lease(), shop.clients.lease()
    shop.clients.close()
    assert shop.client() is not first.client
    first.give_back()
    assert first.client.closed_in == []
    second.give_back()
    assert first.client.closed_in == ["thread"]


async def test_a_client_in_use_is_closed_by_its_last_user_in_its_loop() -> None:
    """`aclose` does not wait for users, and the last of two lets the loop close the client. (CALL-40)"""
    shop = Shop()
    first, second = await shop.clients.lease_in_loop(), await shop.clients.lease_in_loop()
    await shop.clients.aclose()
    assert await shop.client_of_loop() is not first.client
    first.give_back()
    await asyncio.sleep(0)
    assert first.client.closed_in == []
    second.give_back()
    while not first.client.closed_in:
        await asyncio.sleep(0)
    assert first.client.closed_in == [asyncio.get_running_loop()]
    await shop.clients.aclose()


def test_a_lease_that_was_let_go_is_not_taken() -> None:
    """Whoever finds a client just before it is let go gets another one, and the first is closed once."""
    shop = Shop()
    lease = shop.clients.lease()
    lease.give_back()
    lease.let_go()
    assert not lease.take()
    assert lease.client.closed_in == ["thread"]


def test_a_lease_that_nobody_gave_back_ends_with_its_last_reference() -> None:
    """A call that was interrupted before it could give its client back does not keep it open for good."""
    shop = Shop()
    lease = shop.clients.lease()
    client = lease.client
    shop.clients.close()
    assert client.closed_in == []
    del lease
    gc.collect()
    assert client.closed_in == ["thread"]


# Loops that end otherwise


@pytest.mark.parametrize("is_closed", [True, False])
def test_a_client_whose_loop_does_not_run_is_abandoned(is_closed: bool) -> None:
    """Where nothing can be awaited, a client is closed without: its loop is closed, or rests and is not asked."""
    shop, loop = Shop(), asyncio.new_event_loop()
    client = loop.run_until_complete(shop.client_of_loop())
    if is_closed:
        loop.close()
    shop.clients.close()
    gc.collect()
    loop.close()
    assert client.closed_in[:1] == ["abandoned"]


def test_a_closed_loop_lets_its_client_go() -> None:
    """`loop.close()` alone ends the client, although the adapter lives on. (CALL-9)"""
    shop, loop = Shop(), asyncio.new_event_loop()
    client = loop.run_until_complete(shop.client_of_loop())
    loop.close()
    gc.collect()
    assert client.closed_in == ["abandoned"]


def test_a_client_that_is_let_go_just_now_is_not_handed_out() -> None:
    """Closed between being found and being taken, it is passed by, and the caller gets a new one. (CALL-40)"""
    shop = Shop()
    lease = shop.clients.lease()
    lease.give_back()
    take = lease.take

    def take_late() -> bool:
        shop.clients.close()
        return take()

    lease.take = take_late  # type: ignore[method-assign]
    assert shop.client() is not lease.client
    assert lease.client.closed_in == ["thread"]

"""Servers that are lost, killed or of another version; no error shows the password of a URL."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import os
import pickle
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from llm_connect.budget.accounting.bounds import NO_FACTS
from llm_connect.errors import LLMConfigurationError, LLMStoreError
from llm_connect.interface.config import RunConfig
from llm_connect.stores.opening import open_budget
from llm_connect.stores.redis.layout import MOST
from llm_connect.stores.redis.server import shown, store_error
from llm_connect.testing.mock import MockLLMAdapter
from llm_connect.types.amounts import NOTHING, Amount
from tests.budget.budget_helpers import at_rest, outcomes, refused, until
from tests.stores.crew import bill, crew
from tests.stores.looking import alone, end_leases, second, session_of
from tests.stores.servers import RedisServer, new_server

DURABLE = ("--appendonly", "yes", "--appendfsync", "always")


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """A separate server, which the test may kill."""
    found = new_server(*DURABLE)
    yield found
    found.stop()


def test_a_lost_server_refuses_and_names_itself(server: RedisServer) -> None:
    """While the server is lost, nothing is admitted or dispatched, and the error names it (STORE-10)."""
    budget = open_budget(server.url, total=100, lease_seconds=30.0)
    hold = contextvars.Context().run(budget.reserve, 10)
    server.kill()
    for use in (lambda: budget.reserve(1), hold.dispatch, budget.snapshot, lambda: budget.set_limits(total=5)):
        with pytest.raises(LLMStoreError, match=r"unix:///.*/socket cannot be used") as caught:
            use()
        assert (caught.value.store, caught.value.maybe_billed) == (server.url, False)
    server.start()
    until(lambda: spent_now(budget) == 0)
    hold.dispatch()
    hold.settle(4)
    assert budget.snapshot().spent.tokens == 4
    at_rest(budget)


async def test_an_answer_is_not_lost_with_the_server(server: RedisServer, caplog: Any) -> None:
    """A call returns its answer; its usage is booked when the server can be reached again (STORE-10)."""
    budget = open_budget(server.url, total=1_000, lease_seconds=1.2)
    adapter = MockLLMAdapter("x", prompt_tokens=3, completion_tokens=4, delay_seconds=0.1)
    with caplog.at_level(logging.CRITICAL, "llm_connect"):
        task = asyncio.create_task(
            adapter.async_execute_prompt("hello", RunConfig(budget_tracker=budget, max_tokens=20))
        )
        while not adapter.calls:
            await asyncio.sleep(0.001)
        server.kill()
        assert (await task).content == "x"
        await asyncio.to_thread(server.start)
        await asyncio.to_thread(until, lambda: spent_now(budget) == 7)
    at_rest(budget)


def held_now(budget: Any) -> int:
    try:
        return int(budget.snapshot().held.tokens)
    except LLMStoreError:
        return -1


def spent_now(budget: Any) -> int:
    try:
        return int(budget.snapshot().spent.tokens)
    except LLMStoreError:
        return -1


def test_a_short_outage_is_not_noticed(server: RedisServer) -> None:
    """A step whose reply was lost is sent again, and counts once (STORE-10)."""
    budget = open_budget(server.url, total=100)
    session = session_of(budget)
    send = session.server.patiently

    def lose_answer(command: Any) -> Any:
        send(command)
        return send(lambda again: command(True))

    session.server.patiently = lose_answer
    with budget.reserve(10) as hold:
        hold.dispatch()
        hold.settle(7)
    assert (budget.snapshot().spent.tokens, outcomes(budget)) == (7, ["settled"])
    at_rest(budget)


def test_a_step_that_is_sent_again_renews_no_lease(server: RedisServer) -> None:
    """After an outage a process renews its lease at once: what it sent before the outage did so long ago (STORE-4)."""
    budget = open_budget(server.url, total=100)
    session = session_of(budget)
    hold = budget.reserve(10)
    session.leases.renewed_at -= 100
    send = session.server.patiently

    def lose_answer(command: Any) -> Any:
        send(command)
        return send(lambda again: command(True))

    session.server.patiently = lose_answer
    with alone(session):
        session._send(session._step(), ())
        assert session.leases.due
    session.server.patiently = send
    hold.release()
    at_rest(budget)


def test_a_lost_reply_and_a_lost_lease_count_once(server: RedisServer) -> None:
    """A settlement whose reply was lost counts once, even if the lease ends before it is sent again (STORE-18)."""
    budget = open_budget(server.url, total=100)
    other, session = second(budget), session_of(budget)
    send = session.server.patiently
    hold = budget.reserve(10)
    hold.dispatch()

    def lose_answer_and_lease(command: Any) -> Any:
        session.server.patiently = send
        send(command)
        end_leases(other)
        other.snapshot()
        return send(lambda again: command(True))

    session.server.patiently = lose_answer_and_lease
    hold.settle(7)
    assert (budget.snapshot().spent.tokens, outcomes(budget)) == (7, ["settled"])
    at_rest(budget)


def test_a_killed_server_comes_back_with_whole_books(server: RedisServer, tmp_path: Path) -> None:
    """After `kill -9` of a server with `appendfsync always`, the books are at or above the bill (STORE-11)."""
    budget = open_budget(server.url, total=1_000_000, lease_seconds=1.5)
    with crew(3, "spender", server.url, str(tmp_path), 1.5) as processes:
        until(lambda: len(list(tmp_path.iterdir())) == 3)
        for _ in range(3):
            time.sleep(0.3)
            server.kill()
            server.start()
        time.sleep(0.3)
        for process in processes:
            assert process.poll() is None
            process.send_signal(signal.SIGKILL)
    until(lambda: budget.snapshot().held == NOTHING)
    assert budget.snapshot().spent.tokens >= bill(tmp_path) > 0
    at_rest(budget)


def test_a_hung_server_counts_as_lost(server: RedisServer) -> None:
    """A server that hangs counts as lost after a timeout far shorter than the lease (STORE-10)."""
    budget = open_budget(server.url, total=100, lease_seconds=6)
    os.kill(server.pid, signal.SIGSTOP)
    started = time.monotonic()
    with pytest.raises(LLMStoreError):
        budget.reserve(10)
    assert time.monotonic() - started < 6
    os.kill(server.pid, signal.SIGCONT)
    # The server may still execute the last step from before it hung. No caller has its hold, so it is released.
    until(lambda: held_now(budget) == 0)
    at_rest(budget)


def test_a_server_that_hangs_is_asked_once_when_a_budget_is_opened() -> None:
    """A second question would wait as long as the first one. (STORE-22)"""
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}/0"
        with pytest.raises(LLMStoreError):
            open_budget(url, total=100, lease_seconds=1)
        silent.settimeout(0)
        silent.accept()[0].close()
        with pytest.raises(BlockingIOError):
            silent.accept()


def test_what_the_server_forgot_is_booked_all_the_same(server: RedisServer) -> None:
    """A hold that a failover has lost cannot be dispatched; a dispatched one is still booked (STORE-10)."""
    budget = open_budget(server.url, total=100)
    sent, kept = (contextvars.Context().run(budget.reserve, 10) for _ in range(2))
    sent.dispatch()
    session = session_of(budget)
    with alone(session):
        for key in ("holds", "leases", "owners"):
            session.fetch("DEL", key)
    assert refused(kept.dispatch).reason == "lease_lost"
    sent.settle(8)
    assert budget.snapshot().spent.tokens == 8


def test_a_budget_of_another_version_is_left_alone(server: RedisServer) -> None:
    """A budget of another version is neither read nor written (STORE-12)."""
    budget = open_budget(server.url, total=100)
    session = session_of(budget)
    with alone(session):
        session.fetch("HSET", "meta", "schema", "99")
    for use in (lambda: budget.reserve(1), lambda: second(budget)):
        with pytest.raises(LLMStoreError, match="another version"):
            use()


def test_a_figure_that_lua_cannot_count_is_refused(server: RedisServer) -> None:
    """Lua counts exactly up to 2^53; larger figures are refused."""
    budget = open_budget(server.url)
    budget.gate.record(budget, Amount(MOST), NO_FACTS)
    with pytest.raises(LLMConfigurationError, match="too large"):
        budget.record(1)
    assert budget.snapshot().spent.tokens == MOST


def test_no_password_is_shown(server: RedisServer) -> None:
    """No error or repr shows the password; a pickle contains it, since it opens the budget (STORE-6)."""
    url = "redis://user:geheim@localhost:1/3?password=geheim"
    with pytest.raises(LLMStoreError) as caught:
        open_budget(url)
    assert "geheim" not in f"{caught.value!r}{caught.value}{caught.value.store}"
    assert "geheim" not in str(store_error(url, "no geheim here"))
    assert shown(url) == "redis://localhost:1/3"
    budget = open_budget(f"{server.url}?password=", total=5)
    assert "password" not in repr(session_of(budget).terms)
    assert pickle.loads(pickle.dumps(budget)) is budget


def test_all_keys_are_in_one_slot() -> None:
    """All keys of a budget are in one slot, so every step works in a cluster (STORE-1)."""
    server = new_server("--cluster-enabled", "yes")
    try:
        import redis

        with redis.Redis.from_url(server.url) as client:
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            until(lambda: b"cluster_state:ok" in client.execute_command("CLUSTER", "INFO"))
        budget = open_budget(server.url, name="{odd} name", total=100)
        with budget.allot("allotment", 50) as share, share.reserve(10) as hold:
            hold.dispatch()
        assert budget.snapshot().presumed.tokens == 10
        budget.correct(1, 5)
        at_rest(budget)
        session_of(budget).shut()
    finally:
        server.stop()

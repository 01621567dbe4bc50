"""Servers behind TLS and in a cluster, and the number of connections of a budget."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import redis

from llm_connect.errors import LLMStoreError
from llm_connect.interface.config import RunConfig
from llm_connect.stores.opening import open_budget
from llm_connect.testing.mock import MockLLMAdapter
from tests.budget.budget_helpers import at_rest, in_thread, until, waits
from tests.stores.looking import second, session_of
from tests.stores.servers import RedisServer, new_server


def free_port() -> int:
    with closing(socket.socket()) as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


@pytest.fixture
def certificate(folder: Path) -> Path:
    """A self-signed certificate for 127.0.0.1, with its key in the same folder."""
    program = shutil.which("openssl")
    if program is None:
        pytest.skip("there is no openssl here")
    made, key = folder / "certificate.pem", folder / "key.pem"
    command = [program, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-keyout", str(key), "-out", str(made), "-subj", "/CN=127.0.0.1", "-days", "2"]
    subprocess.run([*command, "-addext", "subjectAltName=IP:127.0.0.1"], check=True, capture_output=True)
    return made


@pytest.fixture
def encrypted(certificate: Path) -> Iterator[str]:
    """The URL of a server behind TLS."""
    port = free_port()
    files = ["--tls-cert-file", str(certificate), "--tls-key-file", str(certificate.with_name("key.pem"))]
    files += ["--tls-ca-cert-file", str(certificate), "--tls-auth-clients", "no"]
    server = new_server("--tls-port", str(port), *files)
    yield f"rediss://127.0.0.1:{port}/0"
    server.stop()


def test_a_server_behind_tls(encrypted: str, certificate: Path) -> None:
    """The options of the URL about certificates apply; an untrusted server gets no command (STORE-10)."""
    with pytest.raises(LLMStoreError, match=r"rediss://127\.0\.0\.1:\d+/0 cannot be used .*certificate verify failed"):
        open_budget(encrypted, total=100)
    budget = open_budget(f"{encrypted}?ssl_ca_certs={certificate}", total=100)
    budget.reserve(60).settle(50)
    other = second(budget)
    with other.reserve(40):
        waiting = in_thread(lambda: budget.reserve(30, max_wait_seconds=20))
        waits(budget, 1)
    waiting.result().release()
    assert budget.snapshot().spent.tokens == 50
    at_rest(budget)


@pytest.fixture
def cluster() -> Iterator[dict[int, RedisServer]]:
    """Two nodes of a cluster, by port, with half of the slots each."""
    ports = [(free_port(), free_port()) for _ in range(2)]
    nodes = {}
    for port, bus in ports:
        options = ["--cluster-enabled", "yes", "--cluster-port", str(bus), "--bind", "127.0.0.1"]
        nodes[port] = new_server("--port", str(port), *options)
    clients = [redis.Redis(port=port) for port in nodes]
    for client, slots in zip(clients, ((0, 8191), (8192, 16383)), strict=True):
        client.execute_command("CLUSTER", "ADDSLOTSRANGE", *slots)
    clients[0].execute_command("CLUSTER", "MEET", "127.0.0.1", *ports[1])
    until(lambda: all(_is_whole(client) for client in clients))
    yield nodes
    for client in clients:
        client.close()
    for node in nodes.values():
        node.stop()


def _is_whole(client: Any) -> bool:
    return b"cluster_state:ok" in client.execute_command("CLUSTER", "INFO")


def test_a_cluster_has_the_budget_on_one_node(cluster: dict[int, RedisServer]) -> None:
    """Whichever node the URL names, steps follow the redirection and waiting callers are woken (STORE-1, STORE-7)."""
    budgets = [open_budget(f"redis://127.0.0.1:{port}", name="shared", total=100) for port in cluster]
    assert budgets[0] is not budgets[1]
    first, other = budgets
    with first.reserve(90):
        waiting = in_thread(lambda: other.reserve(30, max_wait_seconds=20))
        waits(other, 1)
    waiting.result().settle(20)
    assert [budget.snapshot().spent.tokens for budget in budgets] == [20, 20]
    for budget in budgets:
        at_rest(budget)


async def test_thousands_of_calls_take_one_connection() -> None:
    """Thousands of calls at once take one connection, and a second one while a caller waits."""
    server = new_server()
    try:
        budget = open_budget(server.url, total_calls=1_900)
        adapter = MockLLMAdapter("x", prompt_tokens=3, completion_tokens=4)
        config = RunConfig(budget_tracker=budget, max_wait_seconds=120, max_tokens=10)
        calls = [adapter.async_execute_prompt("x", config) for _ in range(2_000)]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert sum(not isinstance(answer, Exception) for answer in answers) == 1_900
        assert session_of(budget).server.connected == 1
        with redis.Redis.from_url(server.url) as client:
            # The connections of the test, of opening, of the budget, and of its listener.
            assert client.info("stats")["total_connections_received"] < 12
        assert (await budget.asnapshot()).spent.calls == 1_900
        at_rest(budget)
    finally:
        server.stop()

"""Whose certificates an adapter trusts, and by which way and client it reaches its provider."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from typing import Any

import httpx2
import pytest

from llm_connect import BudgetTracker, LLMConfigurationError, LLMError, RunConfig, create_adapter
from tests.providers.conftest import Ask, ask_async, ask_sync
from tests.providers.echo_server import EchoServer, echo_server
from tests.providers.raw_server import TLS, RawServer, good, raw_server
from tests.providers.test_http_hostile import OK

CA = TLS / "certificate.pem"
each_adapter = pytest.mark.parametrize("name", ["openai", "openrouter"])


@pytest.fixture
def secured() -> Iterator[RawServer]:
    """A server with a certificate that nobody but CA vouches for."""
    with raw_server(tls=True) as running:
        running.reply = good(OK, b"content-type: application/json", b"connection: close")
        yield running


@pytest.fixture
def server() -> Iterator[EchoServer]:
    with echo_server() as running:
        yield running


def adapter_at(server: RawServer, name: str = "openrouter", **options: Any) -> Any:
    url = f"https://localhost:{server.port}/v1"
    return create_adapter(name, model="m", api_key="sk-0123456789", base_url=url, **options)


@each_adapter
def test_an_unknown_certificate_is_told_and_costs_nothing(name: str, ask: Ask, secured: RawServer) -> None:
    """The error names the host, the reason and the ways out; it is not tried again, and released. (PROVIDER-40)"""
    tracker, adapter = BudgetTracker(total=100_000), adapter_at(secured, name)
    with pytest.raises(LLMError) as caught:
        ask(adapter, "Hello", RunConfig(max_tokens=20, timeout_seconds=60, budget_tracker=tracker))
    adapter.close()
    assert all(word in str(caught.value) for word in ("certificate", "localhost", "self-signed", "verify="))
    assert (caught.value.attempts, caught.value.maybe_billed, tracker.spent, tracker.held) == (1, False, 0, 0)
    assert secured.requests == []


@pytest.mark.parametrize("way", ["SSL_CERT_FILE", "SSL_CERT_DIR", "path", "context", "unchecked"])
def test_trusted_certificates_are_the_users_choice(
    way: str, ask: Ask, secured: RawServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    """The environment's variables are obeyed; `verify` takes a path, a context, or False. (PROVIDER-40)"""
    options: dict[str, Any] = {}
    if way == "SSL_CERT_FILE":
        monkeypatch.setenv(way, str(CA))
    elif way == "SSL_CERT_DIR":
        # OpenSSL looks a certificate up by the hash of its subject.
        pytest.importorskip("cryptography")
        monkeypatch.setenv(way, str(_hashed(tmp_path)))
    else:
        options["verify"] = {"path": CA, "context": ssl.create_default_context(cafile=str(CA)), "unchecked": False}[way]
    adapter = adapter_at(secured, **options)
    assert ask(adapter, "Hello").content == "hi"
    adapter.close()


def _hashed(directory: Any) -> Any:
    import subprocess

    name = subprocess.run(
        ["openssl", "x509", "-subject_hash", "-noout", "-in", str(CA)], capture_output=True, text=True, check=True
    ).stdout.strip()
    (directory / f"{name}.0").write_bytes(CA.read_bytes())
    return directory


@pytest.mark.parametrize(
    "options",
    [
        {"verify": "/no/such/file"},
        {"verify": None},
        {"proxy": "proxy.example:3128"},
        {"proxy": "http://proxy.example:3128", "http_client": httpx2.Client(trust_env=False)},
    ],
)
def test_what_cannot_be_meant_is_refused(options: dict[str, Any]) -> None:
    """A path that is none, an address without a scheme, and a proxy beside a client of one's own. (PROVIDER-40)"""
    with pytest.raises(LLMConfigurationError):
        create_adapter("openrouter", api_key="sk-0123456789", **options)


def test_certificates_that_cannot_be_read_are_a_configuration_error(ask: Ask, tmp_path: Any) -> None:
    """A file that holds no certificate is named. (PROVIDER-40)"""
    (tmp_path / "empty.pem").write_text("nothing")
    adapter = create_adapter(
        "openrouter", api_key="sk-0123456789", base_url="https://localhost:1", verify=tmp_path / "empty.pem"
    )
    with pytest.raises(LLMConfigurationError, match=r"empty\.pem"):
        ask(adapter, "Hello", RunConfig(max_retries=0))


# By a proxy


@contextmanager
def proxy() -> Iterator[tuple[str, list[str]]]:
    """A proxy that lets through what is asked by CONNECT, and what it was asked for."""
    asked: list[str] = []
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        thread = threading.Thread(target=_forward, args=(listener, asked))
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", asked
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def _forward(listener: socket.socket, asked: list[str]) -> None:
    with suppress(OSError):
        while True:
            client, _ = listener.accept()
            with client:
                head = b""
                while b"\r\n\r\n" not in head:
                    head += client.recv(4096)
                target = head.split()[1].decode()
                asked.append(target)
                host, _, port = target.rpartition(":")
                with socket.create_connection((host, int(port))) as provider:
                    client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                    back = threading.Thread(target=_copy, args=(provider, client))
                    back.start()
                    _copy(client, provider)
                    back.join()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while part := source.recv(65536):
            target.sendall(part)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)


@each_adapter
def test_a_proxy_is_gone_through(name: str, ask: Ask, secured: RawServer) -> None:
    """`proxy` carries TLS to the provider, sync and async. (PROVIDER-6)"""
    with proxy() as (address, asked):
        adapter = adapter_at(secured, name, proxy=address, verify=CA)
        assert ask(adapter, "Hello").content == "hi"
        adapter.close()
    assert asked == [f"localhost:{secured.port}"]


# By a client of one's own


@pytest.mark.parametrize("name", ["openai", "gemini", "openrouter"])
def test_an_http_client_of_ones_own_is_used_and_left_open(name: str, server: EchoServer) -> None:
    """`http_client` sends the call, and closing the adapter leaves it open. (PROVIDER-7)"""
    sent: list[httpx2.Request] = []
    with httpx2.Client(trust_env=False, event_hooks={"request": [sent.append]}) as own:
        adapter = create_adapter(name, model="m", api_key="sk-0123456789", base_url=server.url(name), http_client=own)
        assert ask_sync(adapter, "ASK-own.").content == "ANS-own."
        with pytest.raises(LLMConfigurationError, match="async_http_client"):
            ask_async(adapter, "ASK-own.")
        adapter.close()
        assert not own.is_closed
        assert len(sent) == 1


@pytest.mark.parametrize("name", ["openai", "gemini", "openrouter"])
async def test_an_async_http_client_of_ones_own_is_used_and_left_open(name: str, server: EchoServer) -> None:
    """The same in an event loop, for a stream, too. (PROVIDER-7)"""
    async with httpx2.AsyncClient(trust_env=False) as own:
        adapter = create_adapter(
            name, model="m", api_key="sk-0123456789", base_url=server.url(name), async_http_client=own
        )
        assert (await adapter.async_execute_prompt("ASK-own.")).content == "ANS-own."
        stream = adapter.async_stream_prompt("ASK-own.")
        assert "".join([chunk.text async for chunk in stream]) == "ANS-own."
        await adapter.aclose()
        assert not own.is_closed

"""Where the key and the prompt of a call over HTTP must not go."""

from __future__ import annotations

import logging
import pickle
import socket
import traceback
from concurrent.futures import ThreadPoolExecutor

import pytest

from llm_connect import LLMError, RunConfig
from llm_connect.testing import Behaviour, EmbeddedProvider
from tests.providers.conftest import Ask, Make
from tests.providers.http_helpers import ONCE, PROMPT, SYSTEM, fails


def test_proxies_of_the_environment_are_not_used(
    make: Make, ask: Ask, provider: EmbeddedProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy variable, in capitals or not, does not reroute the prompt. (PROVIDER-6)"""
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
        monkeypatch.setenv(name.upper(), "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert ask(make(), PROMPT, ONCE).content
    assert len(provider.requests) == 1


def test_the_key_travels_in_a_header_alone(make: Make, ask: Ask) -> None:
    """The line with the address, as it arrives, has no key in it, and a header has. (PROVIDER-4)"""
    key = "sk-in-a-header-123456"
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as pool:
        server.settimeout(20)
        adapter = make(api_key=key, base_url=f"http://127.0.0.1:{server.getsockname()[1]}")
        error = pool.submit(fails, ask, adapter)
        with server.accept()[0] as connection:
            line, _, headers = connection.recv(65536).partition(b"\r\n")
        assert isinstance(error.result(20), LLMError)
    assert line.startswith(b"POST /")
    assert key.encode() not in line
    assert key.encode() in headers


ECHO = f"You sent '{PROMPT}' under '{SYSTEM}' with key sk-loopback-0123456789abcdef!"


@pytest.mark.parametrize(
    "behaviour",
    [
        Behaviour(status=400, error_message=ECHO, error_code=ECHO, error_type=ECHO),
        Behaviour(status=401, error_message="x" * 250 + " sk-loopback-0123456789abcdef"),
        Behaviour(status=401, error_message="x" * 275 + " sk-loopback-0123456789abcdef"),
        Behaviour(error_in_200=True, error_message=ECHO),
        Behaviour(body=ECHO.encode()),
        Behaviour(cut=5),
        Behaviour(stall="after_headers"),
    ],
    ids=["400", "cut at 300", "cut within the key", "200", "body", "cut", "timeout"],
)
def test_no_key_and_no_prompt_is_in_an_error(
    make: Make, ask: Ask, provider: EmbeddedProvider, behaviour: Behaviour, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither text, repr, pickle, traceback nor log of an error holds the key, the prompt or the system prompt.

    (ERROR-5)
    """
    provider.script(behaviour)
    caplog.set_level(logging.DEBUG, logger="llm_connect")
    adapter = make()
    config = RunConfig(max_retries=0, timeout_seconds=0.4, system_prompt=SYSTEM)
    error = fails(ask, adapter, config)
    shown = [str(error), repr(error), repr(vars(error)), repr(adapter), caplog.text]
    shown += ["".join(traceback.format_exception(error)), pickle.dumps(error).decode("latin-1")]
    for text in shown:
        assert "0123456789" not in text
        assert "quick brown fox" not in text
        assert "old sailor" not in text


def test_the_repr_names_the_model_and_no_key(make: Make) -> None:
    """An adapter in a log tells what it is, and no secret. (PROVIDER-4)"""
    text = repr(make())
    assert "test-model" in text
    assert "sk-" not in text

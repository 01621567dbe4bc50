"""After os.fork: what was made before is neither used nor ended by the forked process."""

from __future__ import annotations

import gc
import sys
from importlib import import_module

import httpx2
import pytest

from llm_connect import LLMConfigurationError, _forks
from llm_connect._forks import ForkLock
from llm_connect.engine import http
from llm_connect.engine.http_options import HttpOptions
from tests.budget.budget_helpers import PATIENCE, in_thread, until
from tests.engine.test_clients import Shop
from tests.providers.echo_server import echo_server


def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process go on as a forked one does; real ones are met in tests/providers."""
    # What tests before have left must not end under an import here.
    gc.collect()
    import_module("ctypes")
    monkeypatch.setattr(_forks, "generation", _forks.generation + 1)


def test_a_forked_process_makes_a_client_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client of before is neither handed out nor closed, whoever closes the set. (CALL-41)"""
    shop = Shop()
    before = shop.client()
    forked(monkeypatch)
    shop.clients.close()
    after = shop.client()
    assert after is not before
    shop.clients.close()
    assert (before.closed_in, after.closed_in) == ([], ["thread"])


def test_a_lease_of_before_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that was under way at the fork gives its client back there, and that closes nothing. (CALL-41)"""
    shop = Shop()
    lease = shop.clients.lease()
    lease.let_go()
    forked(monkeypatch)
    lease.give_back()
    client = lease.client
    del lease
    gc.collect()
    assert client.closed_in == []


def test_a_client_of_the_users_own_is_refused_with_connections_of_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would take answers of its parent; one without a connection is as good as new. (CALL-41)"""
    with echo_server() as server, httpx2.Client(trust_env=False) as own, httpx2.Client(trust_env=False) as unused:
        url = f"{server.url('openrouter')}/chat/completions"
        assert own.post(url, content=b"ASK-a.").status_code == 200
        of_own, of_unused = HttpOptions(http_client=own), HttpOptions(http_client=unused)
        forked(monkeypatch)
        with pytest.raises(LLMConfigurationError, match=r"os\.fork"):
            http.sync_client(1, of_own)
        http.sync_client(1, of_unused)


def test_threads_of_a_fork_that_come_first_share_one_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that waits while another one makes it gets the same, and makes none. (CALL-41)"""
    shop = Shop()
    shop.client()
    forked(monkeypatch)
    with shop.clients._first_use:
        late = in_thread(shop.client)
        until(lambda: any(frame.f_code is ForkLock.__enter__.__code__ for frame in sys._current_frames().values()))
        first = shop.client()
    assert late.result(PATIENCE) is first
    assert len(shop.made) == 2

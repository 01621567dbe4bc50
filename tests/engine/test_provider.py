"""What every provider adapter shares."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest

from llm_connect import create_adapter
from llm_connect.engine import price_lists
from llm_connect.engine.provider_adapter import api_key_from
from llm_connect.errors import LLMConfigurationError


@pytest.mark.parametrize("key", ["sk-one\nsk-two", "sk two", "sk-\u00e9", "sk-\x00"])
def test_a_key_that_no_header_can_carry_is_refused_without_being_shown(key: str) -> None:
    """A key with a line break, a space or a letter beyond ASCII was copied wrongly (PROVIDER-1)."""
    with pytest.raises(LLMConfigurationError, match="copy it again") as caught:
        api_key_from(key, "SOME_API_KEY")
    assert key not in str(caught.value)


def test_white_space_around_a_key_does_not_count() -> None:
    """A key read from a file often ends in a line break."""
    assert api_key_from(" sk-one\n", "SOME_API_KEY") == "sk-one"


@pytest.fixture
def adapter() -> Any:
    """An adapter that has done nothing yet."""
    return create_adapter("openrouter", model="m", api_key="sk-0123456789", base_url="http://127.0.0.1:1")


def test_threads_that_come_first_share_one_carrier(adapter: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of eight threads that use an adapter first gets the same one. (CALL-9)"""
    make, start, made = type(adapter).make_carrier, threading.Barrier(8, timeout=30), []

    def slowly(self: Any) -> Any:
        made.append(self)
        time.sleep(0.1)
        return make(self)

    def come(_: int) -> int:
        start.wait()
        return id(adapter._clients.carrier)

    monkeypatch.setattr(type(adapter), "make_carrier", slowly)
    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(come, range(8)))) == 1 == len(made)


async def test_a_warm_up_that_cannot_be_says_why(adapter: Any) -> None:
    """Without a client for this form of a call, both forms raise as the first call would. (PROVIDER-40)"""
    with httpx2.Client(trust_env=False) as own:
        options = {"model": "m", "api_key": "sk-0123456789", "base_url": "http://127.0.0.1:1"}
        half = create_adapter("openrouter", http_client=own, **options)
        half.warm_up()
        with pytest.raises(LLMConfigurationError, match="async_http_client"):
            await half.async_warm_up()


def test_a_warm_up_without_list_prices_is_none_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where genai-prices is not installed, there is nothing to import."""
    monkeypatch.setattr(price_lists.Snapshot, "loaded", False)
    monkeypatch.setattr(price_lists, "find_spec", lambda name: None)
    price_lists.load()
    assert price_lists.Snapshot.loaded

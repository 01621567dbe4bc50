"""Clients of the user's own, in every form of a call: measured, and told of failures, like ours."""

from __future__ import annotations

import asyncio
import contextvars
import socket
from contextlib import closing
from typing import Any

import httpx2
import pytest

from llm_connect import LLMAPIError, LLMConnectionError, OpenRouterAdapter, RunConfig
from llm_connect.engine.deadline import note_sent
from llm_connect.testing import EmbeddedProvider

CONFIG = RunConfig(max_tokens=50, max_retries=0, timeout_seconds=60)


def adapter_of(url: str, **options: Any) -> OpenRouterAdapter:
    own = {"http_client": httpx2.Client(), "async_http_client": httpx2.AsyncClient()}
    return OpenRouterAdapter(model="m", api_key="sk-0123456789", base_url=url, **own, **options)  # type: ignore[arg-type]


def nobody() -> str:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        return f"http://127.0.0.1:{server.getsockname()[1]}/v1"


async def asked(adapter: OpenRouterAdapter) -> Any:
    try:
        return await adapter.async_execute_prompt("hello", CONFIG)
    finally:
        assert adapter._options.async_http_client is not None
        await adapter._options.async_http_client.aclose()


def test_a_refused_connection_is_told() -> None:
    """Nothing was sent, in the sync and in the async form."""
    for ask in (lambda adapter: adapter.execute_prompt("hello", CONFIG), lambda adapter: asyncio.run(asked(adapter))):
        with pytest.raises(LLMConnectionError) as caught:
            ask(adapter_of(nobody()))
        assert not caught.value.maybe_billed


def test_a_sync_stream_goes_through_it() -> None:
    """Its chunks come as with a client of ours."""
    with EmbeddedProvider() as provider:
        adapter = adapter_of(provider.openrouter_url)
        assert adapter._options.http_client is not None
        with adapter._options.http_client, adapter.stream_prompt("hello", CONFIG) as stream:
            assert "".join(chunk.text for chunk in stream) == stream.response.content != ""


def test_a_hook_of_the_client_may_read_the_reply() -> None:
    """A reply that the user's own hook has read is still the answer."""
    read: list[bytes] = []
    with EmbeddedProvider() as provider:
        hooks = {"response": [lambda response: read.append(response.read())]}
        with httpx2.Client(trust_env=False, event_hooks=hooks) as own:
            adapter = OpenRouterAdapter(
                model="m", api_key="sk-0123456789", base_url=provider.openrouter_url, http_client=own
            )
            assert adapter.execute_prompt("hello", CONFIG).content.encode() in read[0]


def test_a_reply_over_the_limit_is_closed() -> None:
    """The async form reads no more of it than it allows. (CALL-43)"""
    with EmbeddedProvider() as provider:
        adapter = adapter_of(provider.openrouter_url, max_reply_bytes=10)
        with pytest.raises(LLMAPIError, match="max_reply_bytes"):
            asyncio.run(asked(adapter))


def test_a_byte_of_no_call_is_noted_nowhere() -> None:
    """A client of ours that is used outside of a call has no head to note it in."""
    contextvars.Context().run(note_sent)

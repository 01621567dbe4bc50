"""The real `claude` command over loopback: what becomes of whatever its provider replies."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from llm_connect.errors import (
    LLMAPIError,
    LLMAuthenticationError,
    LLMConnectionError,
    LLMError,
    LLMRateLimitError,
    LLMResponseError,
    LLMTimeoutError,
)
from llm_connect.interface.config import RunConfig
from llm_connect.providers.claude_code import ClaudeCodeAdapter
from tests.providers.claude_binary import DEADLINES, find_claude, needs_claude
from tests.providers.claude_helpers import KEY, ONCE, called, error_of, real
from tests.providers.messages_server import MessagesServer, messages_server

pytestmark = pytest.mark.slow


@needs_claude
async def test_sync_and_async_give_the_same(server: MessagesServer) -> None:
    """One request, its text, usage, cost and request id, whichever way it is called. (ADAPTER-1, CALL-1)"""
    adapter = real(server, model="claude-haiku-4-5-20251001")
    first = await asyncio.to_thread(adapter.execute_prompt, "hi", ONCE)
    second = await adapter.async_execute_prompt("hi", ONCE)
    for response, request_id in ((first, "req_1"), (second, "req_2")):
        assert (response.content, response.finish_reason) == ("Hello from loopback.", "stop")
        assert (response.usage.prompt_tokens, response.usage.completion_tokens) == (100, 20)
        assert (str(response.cost), response.cost_source) == ("0.0002", "claude-cli")
        assert response.metadata["request_id"] == request_id
    assert len(server.requests) == 2


@needs_claude
@pytest.mark.parametrize("model", ["claude-haiku-4-5-20251001", "claude-sonnet-5-5"])
@pytest.mark.parametrize(
    ("behaviour", "content", "finish"),
    [
        ({"stop_reason": "max_tokens"}, "Hello from loopback.", "length"),
        ({"stop_reason": "refusal"}, "Hello from loopback.", "content_filter"),
        ({"stop_reason": "refusal", "text": ""}, "", "content_filter"),
        ({"text": ""}, "", "stop"),
    ],
)
def test_one_request_whatever_the_answer(
    server: MessagesServer, model: str, behaviour: dict[str, Any], content: str, finish: str
) -> None:
    """The command neither continues, nudges nor falls back by itself, and paid text is kept. (PROVIDER-12)"""
    for name, value in behaviour.items():
        setattr(server, name, value)
    response = real(server, model=model).execute_prompt("hi", ONCE)
    assert (response.content, response.finish_reason) == (content, finish)
    assert response.usage.total_tokens == 120
    assert len(server.requests) == 1


@needs_claude
@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (307, LLMAPIError),
        (400, LLMAPIError),
        (401, LLMAuthenticationError),
        (404, LLMAPIError),
        (429, LLMRateLimitError),
        (500, LLMAPIError),
        (529, LLMAPIError),
    ],
)
def test_api_errors(server: MessagesServer, status: int, kind: type[LLMError]) -> None:
    """An error of the API comes with its status and request id, after one request. (CALL-5, PROVIDER-12)"""
    server.status = status
    error = error_of(real(server))
    assert type(error) is kind
    assert isinstance(error, LLMAPIError)
    assert (error.status_code, error.request_id) == (status, "req_1")
    assert len(server.requests) == 1


@needs_claude
@pytest.mark.parametrize("way", ["sync", "async"])
@pytest.mark.parametrize("login", [False, True])
async def test_a_redirect_is_not_followed(
    server: MessagesServer, monkeypatch: pytest.MonkeyPatch, way: str, login: bool
) -> None:
    """Where a redirect leads to gets no request, and so neither prompt nor key. (CALL-5)"""
    monkeypatch.setenv("CLAUDE_CODE_OAUTH_TOKEN", "oauth-token")
    with messages_server() as elsewhere:
        server.status = 307
        server.headers = {"location": f"{elsewhere.url}/v1/messages"}
        with pytest.raises(LLMAPIError, match="a redirect, which is not followed"):
            await called(way, real(server, login=login, api_key=None if login else KEY), "hi", ONCE)
        assert (len(server.requests), len(elsewhere.requests)) == (1, 0)


@needs_claude
def test_retries_are_ours(server: MessagesServer) -> None:
    """The call path retries, and counts, what the command does not."""
    server.turns = [{"status": 529}, {"status": 200}]
    response = real(server).execute_prompt("hi", RunConfig(max_retries=1, timeout_seconds=30))
    assert (response.metadata["attempts"], len(server.requests)) == (2, 2)


@needs_claude
@pytest.mark.parametrize("cut", ["stream", "socket"])
def test_cut_stream_is_no_answer(server: MessagesServer, cut: str) -> None:
    """Text whose end never came is not passed on as an answer."""
    server.cut = cut
    assert type(error_of(real(server))) is LLMConnectionError
    assert len(server.requests) == 1


@needs_claude
def test_no_server_is_a_connection_error() -> None:
    """Nobody at base_url: no connection, and nothing sent."""
    adapter = ClaudeCodeAdapter(api_key=KEY, cli_path=find_claude(), base_url="http://127.0.0.1:9")
    assert type(error_of(adapter)) is LLMConnectionError


@needs_claude
def test_reply_of_another_kind(server: MessagesServer) -> None:
    """HTML under a good status is a reply that cannot be read."""
    server.body = b"<html>hello</html>"
    assert type(error_of(real(server))) is LLMResponseError


@needs_claude
@pytest.mark.parametrize("way", ["sync", "async"])
async def test_stalled_stream_ends_at_the_deadline(server: MessagesServer, way: str) -> None:
    """A server that stops in the middle costs no more than timeout_seconds and a tenth. (ADAPTER-6, CALL-2)"""
    server.stall = True
    adapter = real(server)
    for seconds in DEADLINES:
        started = time.monotonic()
        with pytest.raises(LLMTimeoutError):
            await called(way, adapter, "hi", RunConfig(timeout_seconds=seconds))
        assert time.monotonic() - started < seconds * 1.1 + 10
        if server.requests:
            break
    assert len(server.requests) == 1

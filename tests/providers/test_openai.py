"""What is OpenAI's alone: the SDK's own clients, and its environment."""

from __future__ import annotations

import asyncio
import time
import traceback
from dataclasses import replace
from typing import Any

import openai
import pytest

from llm_connect import (
    BudgetTracker,
    LLMAPIError,
    LLMBudgetExceededError,
    LLMConfigurationError,
    LLMError,
    LLMTimeoutError,
    OpenAIAdapter,
    RunConfig,
)
from llm_connect.testing import Behaviour, EmbeddedProvider
from tests.providers.conftest import Ask

KEY = "sk-" + "0f1e2d3c4b5a69788796"


def test_the_address_of_the_environment_is_used(provider: EmbeddedProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    """OPENAI_BASE_URL, as documented, stands in for a base_url that is not given."""
    monkeypatch.setenv("OPENAI_BASE_URL", provider.openai_url)
    with OpenAIAdapter(api_key="key-1234") as adapter:
        assert adapter.execute_prompt("hi").content
    assert len(provider.requests) == 1


def test_the_machine_is_not_told_of(provider: EmbeddedProvider, ask: Ask) -> None:
    """The SDK's headers with operating system, processor and interpreter are left out, unless a client is one's own."""
    told = {"x-stainless-os", "x-stainless-arch", "x-stainless-runtime", "x-stainless-runtime-version"}
    with OpenAIAdapter(api_key="key-1234", base_url=provider.openai_url) as adapter:
        assert ask(adapter, "hi").content
    assert not told & provider.requests[0].headers.keys()
    with openai.OpenAI(api_key=KEY, base_url=provider.openai_url) as client:
        OpenAIAdapter(client=client).execute_prompt("hi")
    assert told <= provider.requests[1].headers.keys()


def test_an_own_client_is_used_and_not_closed(provider: EmbeddedProvider) -> None:
    """The client's key and address count, and it works after the adapter was closed. (PROVIDER-7)"""
    with openai.OpenAI(api_key=KEY, base_url=provider.openai_url) as client:
        with OpenAIAdapter(client=client) as adapter:
            assert adapter.execute_prompt("hi").content
        assert not client.is_closed()
        assert client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}]).choices
    assert len(provider.requests) == 2


async def test_an_own_async_client_is_used_and_not_closed(provider: EmbeddedProvider) -> None:
    """The same for the async form. (PROVIDER-7)"""
    async with openai.AsyncOpenAI(api_key=KEY, base_url=provider.openai_url) as client:
        async with OpenAIAdapter(async_client=client) as adapter:
            assert (await adapter.async_execute_prompt("hi")).content
        assert not client.is_closed()
    assert len(provider.requests) == 1


def test_the_retries_of_an_own_client_are_off(provider: EmbeddedProvider) -> None:
    """The SDK's retries would be requests that nobody counts. (PROVIDER-7)"""
    provider.script(Behaviour(status=500, retry_after=0))
    with openai.OpenAI(api_key=KEY, base_url=provider.openai_url, max_retries=5) as client:
        with pytest.raises(LLMAPIError):
            OpenAIAdapter(client=client).execute_prompt("hi", RunConfig(max_retries=1))
    assert len(provider.requests) == 2


@pytest.mark.parametrize(
    "behaviour",
    [Behaviour(stall="before_headers"), Behaviour(drip=0.05), Behaviour(drip=0.05, drip_headers=True)],
)
def test_the_deadline_holds_for_an_own_client(provider: EmbeddedProvider, behaviour: Behaviour) -> None:
    """`timeout_seconds` is a total whoever made the client; the SDK's own is for one read. (PROVIDER-7)"""
    provider.script(behaviour)
    limit = 0.5
    with openai.OpenAI(api_key=KEY, base_url=provider.openai_url) as client:
        started = time.monotonic()
        with pytest.raises(LLMTimeoutError):
            OpenAIAdapter(client=client).execute_prompt("hi", RunConfig(timeout_seconds=limit))
        assert time.monotonic() - started <= limit * 1.1 + 5


def test_an_own_client_follows_no_redirect(provider: EmbeddedProvider) -> None:
    """The SDK's default would send the prompt on to where a server points. (PROVIDER-7)"""
    with EmbeddedProvider() as elsewhere, openai.OpenAI(api_key=KEY, base_url=provider.openai_url) as client:
        provider.script(Behaviour(redirect=elsewhere.openai_url + "/chat/completions"))
        with pytest.raises(LLMAPIError):
            OpenAIAdapter(client=client).execute_prompt("hi")
        assert elsewhere.requests == []


async def test_an_own_async_client_has_no_retries_no_redirects_and_a_deadline(provider: EmbeddedProvider) -> None:
    """What holds for an own client holds for its async form. (PROVIDER-7)"""
    redirect = Behaviour(redirect=provider.openrouter_url + "/chat/completions")
    async with openai.AsyncOpenAI(api_key=KEY, base_url=provider.openai_url, max_retries=5) as client:
        adapter = OpenAIAdapter(async_client=client)
        for behaviour in (Behaviour(status=500, retry_after=0), redirect):
            provider.script(behaviour, wire_format="openai_chat")
            with pytest.raises(LLMAPIError):
                await adapter.async_execute_prompt("hi", RunConfig(max_retries=0))
        assert len(provider.requests) == 2
        provider.script(Behaviour(drip=0.05, drip_headers=True))
        started = time.monotonic()
        with pytest.raises(LLMTimeoutError):
            await adapter.async_execute_prompt("hi", RunConfig(timeout_seconds=0.5))
        assert time.monotonic() - started <= 0.5 * 1.1 + 5


def test_one_own_client_does_not_send_the_other_form_elsewhere(
    provider: EmbeddedProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With an own sync client alone, an async call is refused: it would go to another address than the client's.

    (PROVIDER-15)
    """
    with EmbeddedProvider() as elsewhere:
        monkeypatch.setenv("OPENAI_BASE_URL", elsewhere.openai_url)
        with openai.OpenAI(api_key=KEY, base_url=provider.openai_url) as client:
            adapter = OpenAIAdapter(client=client)
            with pytest.raises(LLMConfigurationError, match="async_client"):
                asyncio.run(adapter.async_execute_prompt("hi"))
        other = OpenAIAdapter(async_client=openai.AsyncOpenAI(api_key=KEY, base_url=provider.openai_url))
        with pytest.raises(LLMConfigurationError, match="client="):
            other.execute_prompt("hi")
        assert elsewhere.requests == provider.requests == []


def test_the_keys_of_both_own_clients_are_hidden(provider: EmbeddedProvider) -> None:
    """A provider that echoes either key does not get it into an error."""
    keys = ("sk-first-0123456789", "sk-second-987654321")
    clients = (
        openai.OpenAI(api_key=keys[0], base_url=provider.openai_url),
        openai.AsyncOpenAI(api_key=keys[1], base_url=provider.openai_url),
    )
    provider.script(Behaviour(status=401, error_message=" and ".join(keys)))
    with clients[0] as client, pytest.raises(LLMError) as caught:
        OpenAIAdapter(client=client, async_client=clients[1]).execute_prompt("hi")
    text = "".join(traceback.format_exception(caught.value))
    assert not any(key in text for key in keys)


@pytest.mark.parametrize("api", ["chat", "", None, 1, []])
def test_an_unknown_api_is_refused(api: Any) -> None:
    """The error names what there is. (PROVIDER-18)"""
    with pytest.raises(LLMConfigurationError, match="'chat_completions', 'responses'"):
        OpenAIAdapter(api_key=KEY, api=api)


@pytest.mark.parametrize(
    ("api", "path"), [("chat_completions", "/v1/chat/completions"), ("responses", "/v1/responses")]
)
def test_the_api_decides_where_a_call_goes(provider: EmbeddedProvider, api: Any, path: str) -> None:
    """Each format is spoken at its own path, and answered in the same normal form. (PROVIDER-18)"""
    with OpenAIAdapter(api_key=KEY, base_url=provider.openai_url, api=api) as adapter:
        response = adapter.execute_prompt("hi", RunConfig(max_tokens=20))
    assert provider.requests[0].path == path
    assert (response.usage.completion_tokens, response.finish_reason) == (20, "length")


@pytest.mark.parametrize("config", [RunConfig(max_tokens=5), RunConfig(max_tokens=5, when_short="clamp")])
def test_a_hold_covers_the_least_limit_that_responses_takes(provider: EmbeddedProvider, config: RunConfig) -> None:
    """A limit below 16 is held as the 16 that are sent, so the cap holds when all of them are used. (PROVIDER-19)"""
    with OpenAIAdapter(api_key=KEY, base_url=provider.openai_url, api="responses", model="gpt-5") as adapter:
        bound = adapter.bound("hi", config)
        short = BudgetTracker(bound.total_tokens - 1)
        with pytest.raises(LLMBudgetExceededError):
            adapter.execute_prompt("hi", replace(config, budget_tracker=short))
        assert provider.requests == []
        enough = BudgetTracker(bound.total_tokens)
        response = adapter.execute_prompt("hi", replace(config, budget_tracker=enough))
    assert bound.max_tokens == provider.requests[0].output_limit == response.usage.completion_tokens == 16
    assert enough.spent <= bound.total_tokens


@pytest.mark.parametrize("free", range(14, 20))
def test_a_granted_limit_is_never_below_the_least_that_responses_takes(provider: EmbeddedProvider, free: int) -> None:
    """With a `clamp_floor` below it the least limit is the floor, and what is granted is what is sent. (PROVIDER-19)"""
    with OpenAIAdapter(api_key=KEY, base_url=provider.openai_url, api="responses", model="gpt-5") as adapter:
        tracker = BudgetTracker(adapter.bound("hi", RunConfig()).prompt_tokens + free)
        config = RunConfig(clamp_floor=1, budget_tracker=tracker)
        if free < 16:
            with pytest.raises(LLMBudgetExceededError):
                adapter.execute_prompt("hi", config)
            assert provider.requests == []
        else:
            adapter.execute_prompt("hi", config)
            assert provider.requests[0].output_limit == free
    assert tracker.held == 0

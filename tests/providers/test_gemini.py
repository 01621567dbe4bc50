"""What is Gemini's alone."""

from __future__ import annotations

import asyncio

import pytest

from llm_connect import (
    GeminiAdapter,
    LLMAuthenticationError,
    LLMConfigurationError,
    LLMRateLimitError,
    RunConfig,
)
from llm_connect.testing import Behaviour, EmbeddedProvider


@pytest.mark.parametrize("variable", ["GOOGLE_GENAI_USE_VERTEXAI", "GOOGLE_GENAI_USE_ENTERPRISE"])
def test_the_environment_does_not_reroute_to_vertex(
    provider: EmbeddedProvider, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """Variables that turn the SDK to Vertex AI change nothing. (PROVIDER-9)"""
    monkeypatch.setenv(variable, "true")
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "p")
    monkeypatch.setenv("GOOGLE_CLOUD_LOCATION", "l")
    with GeminiAdapter(api_key="key-1234", base_url=provider.gemini_url) as adapter:
        assert adapter.execute_prompt("hi").content
        assert asyncio.run(adapter.async_execute_prompt("hi")).content
    assert len(provider.requests) == 2


def test_the_key_travels_in_a_header(provider: EmbeddedProvider) -> None:
    """An address ends up in logs, so the key is not in it."""
    with GeminiAdapter(api_key="key-1234", base_url=provider.gemini_url) as adapter:
        adapter.execute_prompt("hi")
    assert provider.requests[0].headers["x-goog-api-key"] == "present"
    assert "key-1234" not in provider.requests[0].path


def test_its_own_variable_comes_first(provider: EmbeddedProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    """With both set, GEMINI_API_KEY is used, where the SDK alone would take the other. (PROVIDER-1)"""
    monkeypatch.setenv("GEMINI_API_KEY", "good-key")
    monkeypatch.setenv("GOOGLE_API_KEY", "bad")
    with GeminiAdapter(base_url=provider.gemini_url) as adapter:
        assert adapter.execute_prompt("hi").content


def test_a_bad_key_is_told_by_its_reason(provider: EmbeddedProvider) -> None:
    """Gemini's 400 for a bad key is an authentication error with that status."""
    with GeminiAdapter(api_key="bad", base_url=provider.gemini_url) as adapter:
        with pytest.raises(LLMAuthenticationError) as caught:
            adapter.execute_prompt("hi")
    assert caught.value.status_code == 400
    assert caught.value.response_body["code"] == "API_KEY_INVALID"


def test_the_wait_in_the_body_is_read(provider: EmbeddedProvider) -> None:
    """RetryInfo, which the SDK does not read, says how long to wait. (WIRE-13)"""
    provider.script(Behaviour(status=429, retry_after=7.5))
    with GeminiAdapter(api_key="key-1234", base_url=provider.gemini_url) as adapter:
        with pytest.raises(LLMRateLimitError) as caught:
            adapter.execute_prompt("hi", RunConfig(max_retries=0))
    assert caught.value.retry_after == 7.5


@pytest.mark.parametrize("model", ["a?b", "../secret", "a&key=b"])
def test_a_model_that_would_change_the_address_is_refused(provider: EmbeddedProvider, model: str) -> None:
    """The model stands in the path, so it can be no more than a name. (PROVIDER-17)"""
    with GeminiAdapter(api_key="key-1234", base_url=provider.gemini_url, model=model) as adapter:
        with pytest.raises(LLMConfigurationError, match="model"):
            adapter.execute_prompt("hi")
    assert provider.requests == []


def test_a_model_with_its_collection_is_the_same_model(provider: EmbeddedProvider) -> None:
    """`models/x`, as the API lists them, is `x`."""
    with GeminiAdapter(api_key="key-1234", base_url=provider.gemini_url, model="models/g") as adapter:
        assert adapter.execute_prompt("hi").model == "g"

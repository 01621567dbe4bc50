"""Adapters by the name of their provider."""

from __future__ import annotations

from typing import Any

import pytest

from llm_connect import (
    GeminiAdapter,
    LLMConfigurationError,
    MockLLMAdapter,
    OpenAIAdapter,
    OpenRouterAdapter,
    create_adapter,
)
from llm_connect.config.factory import PROVIDERS


@pytest.mark.parametrize(
    ("name", "kind"),
    [("openai", OpenAIAdapter), ("gemini", GeminiAdapter), ("openrouter", OpenRouterAdapter)],
)
def test_a_name_gives_its_adapter_with_its_options(name: str, kind: type) -> None:
    """Options reach the constructor."""
    adapter: Any = create_adapter(name, model="some-model", api_key="key-1234", max_concurrency=3)
    assert type(adapter) is kind
    assert (adapter.model, adapter.slots.limit) == ("some-model", 3)


def test_the_mock_is_a_provider_too() -> None:
    """A configuration can name the mock, so that a program runs without any provider."""
    adapter = create_adapter("mock", reply="four")
    assert type(adapter) is MockLLMAdapter
    assert adapter.execute_prompt("2+2").content == "four"


@pytest.mark.parametrize("name", ["", "OpenAI", "anthropic", None, 5, ["openai"]])
def test_an_unknown_name_is_refused_with_those_that_are_known(name: Any) -> None:
    """The error lists every provider."""
    with pytest.raises(LLMConfigurationError) as caught:
        create_adapter(name)
    assert all(known in str(caught.value) for known in PROVIDERS)


def test_an_unknown_option_is_refused_by_name() -> None:
    """A misspelt option is an LLMError that names it, and shows no value."""
    with pytest.raises(LLMConfigurationError, match="api_kye") as caught:
        create_adapter("openai", api_kye="sk-secret-value")
    assert "sk-secret-value" not in str(caught.value)


def test_what_a_constructor_refuses_comes_through(monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing key is the constructor's own error."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(LLMConfigurationError, match="OPENAI_API_KEY"):
        create_adapter("openai")


def test_the_names_are_sorted_and_complete() -> None:
    """What the error lists is what there is."""
    assert list(PROVIDERS) == sorted(PROVIDERS)
    assert {"claude-code", "gemini", "mock", "openai", "openrouter"} <= set(PROVIDERS)

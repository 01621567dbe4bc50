"""Adapters by the name of their provider."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest

from llm_connect import (
    ClaudeCodeAdapter,
    GeminiAdapter,
    LLMConfigurationError,
    MockLLMAdapter,
    OpenAIAdapter,
    OpenRouterAdapter,
    create_adapter,
)
from llm_connect.config.factory import PROVIDERS

#: PROVIDER-48 has what happens there.
posix_only = (
    pytest.mark.allow_skip,
    pytest.mark.skipif(not hasattr(os, "killpg"), reason="the claude command needs POSIX"),
)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("openai", OpenAIAdapter), ("gemini", GeminiAdapter), ("openrouter", OpenRouterAdapter)],
)
def test_a_name_gives_its_adapter_with_its_options(name: str, kind: type) -> None:
    """Options reach the constructor. (CONFIG-1)"""
    adapter: Any = create_adapter(name, model="some-model", api_key="key-1234", max_concurrency=3)
    assert type(adapter) is kind
    assert (adapter.model, adapter.slots.limit) == ("some-model", 3)


@posix_only[0]
@posix_only[1]
def test_claude_code_is_made_with_its_options_too() -> None:
    """The adapter of the command, whose options are others, is made in the same way. (CONFIG-1)"""
    adapter: Any = create_adapter("claude-code", model="some-model", api_key="key-1234", cli_path=sys.executable)
    assert type(adapter) is ClaudeCodeAdapter
    assert adapter.model == "some-model"


def test_the_mock_is_a_provider_too() -> None:
    """A configuration can name the mock, so that a program runs without any provider. (CONFIG-1)"""
    adapter = create_adapter("mock", reply="four")
    assert type(adapter) is MockLLMAdapter
    assert adapter.execute_prompt("2+2").content == "four"


@pytest.mark.parametrize("name", ["", "OpenAI", "anthropic", None, 5, ["openai"]])
def test_an_unknown_name_is_refused_with_those_that_are_known(name: Any) -> None:
    """The error lists every provider. (CONFIG-2)"""
    with pytest.raises(LLMConfigurationError) as caught:
        create_adapter(name)
    assert all(known in str(caught.value) for known in PROVIDERS)


def test_an_unknown_option_is_refused_by_name() -> None:
    """A misspelt option is an LLMError that names it, and shows no value. (CONFIG-3)"""
    with pytest.raises(LLMConfigurationError, match="api_kye") as caught:
        create_adapter("openai", api_kye="sk-secret-value")
    assert "sk-secret-value" not in str(caught.value)


def test_what_a_constructor_refuses_comes_through(monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing key is the constructor's own error. (CONFIG-4)"""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(LLMConfigurationError, match="OPENAI_API_KEY"):
        create_adapter("openai")


def test_the_names_are_sorted_and_complete() -> None:
    """What the error lists is what there is."""
    assert list(PROVIDERS) == sorted(PROVIDERS)
    assert {"claude-code", "gemini", "mock", "openai", "openrouter"} <= set(PROVIDERS)


@pytest.mark.parametrize(
    ("name", "options", "modules"),
    [
        pytest.param(
            "claude-code",
            {"cli_path": sys.executable},
            {"claude_code", "relay", "relay_streams", "strands", "subprocesses", "workplaces"},
            marks=posix_only,
        ),
        ("gemini", {}, {"gemini"}),
        ("openai", {}, {"openai"}),
        ("openrouter", {}, {"openrouter"}),
    ],
)
def test_only_the_adapter_that_is_asked_for_is_imported(name: str, options: dict[str, str], modules: set[str]) -> None:
    """In a fresh interpreter no module of another adapter comes along. (CONFIG-5)"""
    script = (
        "import sys; from llm_connect import create_adapter\n"
        f"create_adapter({name!r}, api_key='key-1234', **{options!r})\n"
        "print(*(name for name in sys.modules if name.startswith('llm_connect.providers.')))"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=200)
    assert result.returncode == 0, result.stderr
    assert {module.rpartition(".")[2] for module in result.stdout.split()} == modules

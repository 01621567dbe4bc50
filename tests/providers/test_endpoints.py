"""The provider's own endpoint, however its address is written: its list prices and its grades apply."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import openai
import pytest

from llm_connect import (
    ClaudeCodeAdapter,
    GeminiAdapter,
    LLMConfigurationError,
    OpenAIAdapter,
    OpenRouterAdapter,
    RunConfig,
)
from llm_connect.testing import EmbeddedProvider

OWN: dict[str, tuple[str, str, str]] = {
    "openai": ("https", "api.openai.com", "/v1"),
    "gemini": ("https", "generativelanguage.googleapis.com", ""),
    "openrouter": ("https", "openrouter.ai", "/api/v1"),
    "claude": ("https", "api.anthropic.com", ""),
}
VARIABLES = {"openai": "OPENAI_BASE_URL", "gemini": "GOOGLE_GEMINI_BASE_URL", "claude": "ANTHROPIC_BASE_URL"}
MAKE: dict[str, Callable[..., Any]] = {
    "openai": lambda **options: OpenAIAdapter(api_key="key-1", **options),
    "gemini": lambda **options: GeminiAdapter(api_key="key-1", **options),
    "openrouter": lambda **options: OpenRouterAdapter(api_key="key-1", **options),
    "claude": lambda **options: ClaudeCodeAdapter(api_key="key-1", cli_path="/bin/true", **options),
}
SPELLINGS: dict[str, Callable[[str, str, str], str]] = {
    "plain": lambda scheme, host, path: f"{scheme}://{host}{path}",
    "a slash": lambda scheme, host, path: f"{scheme}://{host}{path}/",
    "upper case": lambda scheme, host, path: f"{scheme.upper()}://{host.upper()}{path}",
    "the port": lambda scheme, host, path: f"{scheme}://{host}:443{path}",
    "all of them": lambda scheme, host, path: f"{scheme}://{host.title()}:443{path}/",
    "a root": lambda scheme, host, path: f"{scheme}://{host}.{path}",
}
each_adapter = pytest.mark.parametrize("name", OWN)


def is_at_home(adapter: Any) -> bool:
    return adapter.price_for(None, RunConfig()) is not None


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in VARIABLES.values():
        monkeypatch.delenv(variable, raising=False)


@each_adapter
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_the_providers_own_address_is_known(name: str, spelling: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Case, the default port, a dot and a slash at its end make no other place of it, given or in the environment.

    (PROVIDER-41)
    """
    address = SPELLINGS[spelling](*OWN[name])
    assert is_at_home(MAKE[name](base_url=address))
    assert is_at_home(MAKE[name](base_url=f" {address}\n"))
    if name in VARIABLES:
        monkeypatch.setenv(VARIABLES[name], address)
        assert is_at_home(MAKE[name]())


@each_adapter
@pytest.mark.parametrize("blank", ["", " ", "\t\n"])
def test_a_blank_address_is_none(name: str, blank: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that is set to nothing, as in a compose file, is not set; so is an argument. (PROVIDER-41)"""
    assert is_at_home(MAKE[name](base_url=blank))
    if name in VARIABLES:
        monkeypatch.setenv(VARIABLES[name], blank)
        assert is_at_home(MAKE[name]())
        monkeypatch.setenv(VARIABLES[name], "http://127.0.0.1:9")
        assert not is_at_home(MAKE[name](base_url=blank))


@each_adapter
@pytest.mark.parametrize(
    "other",
    [
        "https://{host}.example.com{path}",
        "https://example.com/{host}{path}",
        "https://{host}@example.com{path}",
        "https://not{host}{path}",
    ],
)
def test_another_place_is_not_the_providers(name: str, other: str) -> None:
    """A gateway whose address only looks like the provider's has no list prices. (PROVIDER-41)"""
    _, host, path = OWN[name]
    try:
        adapter = MAKE[name](base_url=other.format(host=host, path=path))
    except LLMConfigurationError:
        return
    assert not is_at_home(adapter)


@pytest.mark.parametrize("version", ["v1", "v1beta", "v1alpha", "v1beta/"])
def test_googles_address_may_have_a_version(version: str) -> None:
    """The SDK puts a version behind the address, so that one that is given stands in for it. (PROVIDER-41)"""
    adapter = GeminiAdapter(api_key="key-1", base_url=f"https://generativelanguage.googleapis.com/{version}")
    assert is_at_home(adapter)
    client = adapter.make_carrier().make()
    built = client._api_client._build_request("post", "models/m:generateContent", {})
    assert built.url == f"https://generativelanguage.googleapis.com/{version.rstrip('/')}/models/m:generateContent"
    client.close()


def test_the_environments_address_is_used_without_its_blanks(
    provider: EmbeddedProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is not blank is where requests go."""
    monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", f" {provider.gemini_url} ")
    monkeypatch.setenv("OPENAI_BASE_URL", f" {provider.openai_url}/ ")
    with GeminiAdapter(api_key="key-1") as gemini, OpenAIAdapter(api_key="key-1") as openai_adapter:
        assert gemini.execute_prompt("hi").content
        assert openai_adapter.execute_prompt("hi").content
    assert len(provider.requests) == 2


def test_an_own_client_at_openai_is_at_home() -> None:
    """Its address counts, whatever the environment says. (PROVIDER-41)"""
    with openai.OpenAI(api_key="key-1", base_url="https://API.openai.com:443/v1/") as client:
        assert is_at_home(OpenAIAdapter(client=client))

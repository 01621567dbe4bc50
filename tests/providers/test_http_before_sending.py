"""What an adapter over HTTP does before it sends anything: what it refuses, whose key it takes, what it imports."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from typing import Any

import pytest

from llm_connect import LLMAuthenticationError, LLMConfigurationError, RunConfig, create_adapter
from llm_connect.testing import EmbeddedProvider
from tests.providers.conftest import Ask, Make, Wiring
from tests.providers.http_helpers import PROMPT, each_format, fails


@pytest.mark.parametrize("prompt", [None, "", "  ", 5, b"x", ["x"], "a\ud800"])
def test_a_prompt_that_cannot_be_sent_is_refused(make: Make, ask: Ask, provider: EmbeddedProvider, prompt: Any) -> None:
    """A configuration error, and no request. (ADAPTER-7)"""
    with pytest.raises(LLMConfigurationError):
        ask(make(), prompt)
    assert provider.requests == []


@each_format
@pytest.mark.parametrize("params", [{"n": 5}, {"stream": True}, {"not_a_parameter": 1}, {"seed": object()}])
def test_parameters_that_cannot_be_meant_are_refused(
    make: Make, ask: Ask, provider: EmbeddedProvider, params: dict[str, Any]
) -> None:
    """A configuration error that names the key, no request, and `validate_config` says so beforehand.

    (ADAPTER-4, WIRE-3)
    """
    adapter, config = make(), RunConfig(model_params=params)
    assert adapter.validate_config(config) is False
    with pytest.raises(LLMConfigurationError, match=next(iter(params))):
        ask(adapter, PROMPT, config)
    assert provider.requests == []
    assert adapter.validate_config(RunConfig(max_tokens=3, model_params={"top_p": 0.5})) is True


def test_a_missing_key_is_refused_by_name(wiring: Wiring, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a key the constructor raises, and names each variable that is looked at. (PROVIDER-1)"""
    for variable in wiring.variables:
        monkeypatch.delenv(variable, raising=False)
    for key in (None, "", "  "):
        with pytest.raises(LLMConfigurationError) as caught:
            create_adapter(wiring.name, api_key=key)
        assert all(variable in str(caught.value) for variable in wiring.variables)


def test_a_key_of_the_environment_is_used(
    wiring: Wiring, ask: Ask, provider: EmbeddedProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each variable gives the key; the argument comes before it. (PROVIDER-1)"""
    for variable in wiring.variables:
        monkeypatch.setenv(variable, "bad")
        with create_adapter(wiring.name, base_url=wiring.url(provider)) as adapter:
            assert isinstance(fails(ask, adapter), LLMAuthenticationError)
        with create_adapter(wiring.name, base_url=wiring.url(provider), api_key="good-key") as adapter:
            assert ask(adapter, PROMPT).content
        monkeypatch.delenv(variable)


@pytest.mark.parametrize("model", ["", "  ", None, 5])
def test_an_adapter_needs_a_model(wiring: Wiring, model: Any) -> None:
    """A model that names nothing is refused in the constructor. (PROVIDER-3)"""
    with pytest.raises(LLMConfigurationError, match="model"):
        create_adapter(wiring.name, api_key="k", model=model)


@pytest.mark.parametrize("limit", [0, -1, 1.5, True, None])
def test_max_concurrency_is_a_count(wiring: Wiring, limit: Any) -> None:
    """No place at all would block every call for ever."""
    with pytest.raises(LLMConfigurationError, match="max_concurrency"):
        create_adapter(wiring.name, api_key="k", max_concurrency=limit)


def test_a_missing_package_is_named_with_its_extra(wiring: Wiring, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the package and the extra, and does not say to install another project's name. (PROVIDER-2)"""
    find_spec = importlib.util.find_spec
    module = __import__("llm_connect.engine.provider_adapter", fromlist=["provider_adapter"])

    def blocked(name: str, package: str | None = None) -> Any:
        return None if name == wiring.module else find_spec(name, package)

    monkeypatch.setattr(module, "find_spec", blocked)
    with pytest.raises(LLMConfigurationError) as caught:
        create_adapter(wiring.name, api_key="k")
    assert f"'{wiring.extra}'" in str(caught.value)
    assert wiring.module.replace(".", "-") in str(caught.value)
    assert "pip install llm-connect" not in str(caught.value)


def test_only_the_first_call_imports_an_sdk(wiring: Wiring, provider: EmbeddedProvider) -> None:
    """A program that makes adapters and uses none of them does not wait for SDKs. (PROVIDER-5)"""
    script = (
        "import sys; from llm_connect import create_adapter\n"
        f"adapter = create_adapter({wiring.name!r}, api_key='key-1234', base_url={wiring.url(provider)!r})\n"
        "print([name for name in ('openai', 'google.genai', 'httpx2', 'httpx') if name in sys.modules])\n"
        "adapter.execute_prompt('hi')\n"
        f"print({wiring.module!r} in sys.modules)\n"
        "adapter.close()\n"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=200)
    assert result.stdout.split() == ["[]", "True"], result.stderr

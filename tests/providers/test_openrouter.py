"""What is OpenRouter's alone."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest

from llm_connect import LLMConfigurationError, OpenRouterAdapter, RunConfig
from llm_connect.testing import Behaviour, EmbeddedProvider


@pytest.fixture
def adapter(provider: EmbeddedProvider) -> Iterator[OpenRouterAdapter]:
    """An adapter with a name and an address of its own."""
    options: dict[str, Any] = {"app_name": "My App", "app_url": "https://app.example"}
    with OpenRouterAdapter(api_key="key-1234", base_url=provider.openrouter_url, **options) as made:
        yield made


def test_the_cost_of_a_reply_is_the_cost(adapter: OpenRouterAdapter, provider: EmbeddedProvider) -> None:
    """USD as reported, exact, and with its source. (MODEL-3, WIRE-12)"""
    response = adapter.execute_prompt("hello")
    assert response.cost == provider.meter.cost > 0
    assert response.cost_source == "provider"


def test_with_an_own_key_the_cost_is_fee_and_price(adapter: OpenRouterAdapter, provider: EmbeddedProvider) -> None:
    """BYOK reports the fee alone as cost; the provider's price is added. (WIRE-12)"""
    provider.script(Behaviour(byok=True))
    assert adapter.execute_prompt("hello").cost == provider.meter.cost * Decimal("1.05")


def test_a_cost_that_is_not_told_is_unknown(adapter: OpenRouterAdapter, provider: EmbeddedProvider) -> None:
    """Without usage there is no cost, and not a cost of zero. (MODEL-3)"""
    provider.script(Behaviour(usage="missing"))
    assert adapter.execute_prompt("hello").cost is None


def test_only_providers_that_honour_the_limit_are_asked_for(
    adapter: OpenRouterAdapter, provider: EmbeddedProvider
) -> None:
    """`require_parameters` is in every request, and cannot be turned off. (PROVIDER-8)"""
    adapter.execute_prompt("hello")
    params = {"provider": {"require_parameters": False, "sort": "price"}}
    adapter.execute_prompt("hello", RunConfig(model_params=params))
    assert provider.requests[0].body["provider"] == {"require_parameters": True}
    assert provider.requests[1].body["provider"] == {"require_parameters": True, "sort": "price"}
    for value in (None, "openai", []):
        with pytest.raises(LLMConfigurationError, match="provider"):
            adapter.execute_prompt("hello", RunConfig(model_params={"provider": value}))


def test_the_caller_is_named(adapter: OpenRouterAdapter, provider: EmbeddedProvider) -> None:
    """Name and address are sent when given, and not otherwise."""
    adapter.execute_prompt("hello")
    headers = provider.requests[0].headers
    assert headers["x-openrouter-title"] == "My App"
    assert headers["http-referer"] == "https://app.example"
    with OpenRouterAdapter(api_key="key-1234", base_url=provider.openrouter_url) as anonymous:
        anonymous.execute_prompt("hello")
    assert not {"x-openrouter-title", "http-referer"} & provider.requests[1].headers.keys()


def test_the_generation_is_the_request_id(adapter: OpenRouterAdapter, provider: EmbeddedProvider) -> None:
    """The id under which OpenRouter tells costs later is kept, for answers and for errors."""
    assert adapter.execute_prompt("hello").metadata["request_id"].startswith("gen-")
    provider.script(Behaviour(status=400))
    with pytest.raises(Exception) as caught:
        adapter.execute_prompt("hello")
    assert caught.value.request_id.startswith("gen-")


def test_fallback_models_are_refused(adapter: OpenRouterAdapter) -> None:
    """A list of other models could cost more than the one that was asked for."""
    with pytest.raises(LLMConfigurationError, match="models"):
        adapter.execute_prompt("hello", RunConfig(model_params={"models": ["a/b"]}))

"""Makes an adapter by the name of its provider."""

from __future__ import annotations

from importlib import import_module
from inspect import signature
from typing import TYPE_CHECKING, Any, Literal, Unpack, get_args, overload

from llm_connect.config.options import Provider
from llm_connect.errors import LLMConfigurationError
from llm_connect.interface.adapter import LLMAdapter

if TYPE_CHECKING:
    from llm_connect.config.options import (
        AdapterOptions,
        ClaudeCodeOptions,
        GeminiOptions,
        MockOptions,
        OpenAIOptions,
        OpenRouterOptions,
    )
    from llm_connect.providers.claude_code import ClaudeCodeAdapter
    from llm_connect.providers.gemini import GeminiAdapter
    from llm_connect.providers.openai import OpenAIAdapter
    from llm_connect.providers.openrouter import OpenRouterAdapter
    from llm_connect.testing.mock import MockLLMAdapter

_ADAPTERS = {
    "claude-code": ("llm_connect.providers.claude_code", "ClaudeCodeAdapter"),
    "gemini": ("llm_connect.providers.gemini", "GeminiAdapter"),
    "mock": ("llm_connect.testing.mock", "MockLLMAdapter"),
    "openai": ("llm_connect.providers.openai", "OpenAIAdapter"),
    "openrouter": ("llm_connect.providers.openrouter", "OpenRouterAdapter"),
}

#: The names that `create_adapter` knows.
PROVIDERS: tuple[str, ...] = get_args(Provider)


@overload
def create_adapter(provider: Literal["claude-code"], **options: Unpack[ClaudeCodeOptions]) -> ClaudeCodeAdapter: ...
@overload
def create_adapter(provider: Literal["gemini"], **options: Unpack[GeminiOptions]) -> GeminiAdapter: ...
@overload
def create_adapter(provider: Literal["mock"], **options: Unpack[MockOptions]) -> MockLLMAdapter: ...
@overload
def create_adapter(provider: Literal["openai"], **options: Unpack[OpenAIOptions]) -> OpenAIAdapter: ...
@overload
def create_adapter(provider: Literal["openrouter"], **options: Unpack[OpenRouterOptions]) -> OpenRouterAdapter: ...
@overload
def create_adapter(provider: Provider, **options: Unpack[AdapterOptions]) -> LLMAdapter: ...
def create_adapter(provider: str, **options: Any) -> LLMAdapter:
    """Make the adapter of a provider with the options of its constructor.

        adapter = create_adapter("openai", model="gpt-4.1-mini")

    Raises LLMConfigurationError for an unknown name or option, and the errors of the constructor.
    """
    if not isinstance(provider, str) or provider not in _ADAPTERS:
        raise LLMConfigurationError(f"The provider {provider!r} is not known; known are: {', '.join(PROVIDERS)}.")
    module, name = _ADAPTERS[provider]
    adapter: type[LLMAdapter] = getattr(import_module(module), name)
    try:
        signature(adapter).bind(**options)
    except TypeError as error:
        raise LLMConfigurationError(f"{name} cannot be made with these options: {error}") from None
    return adapter(**options)

"""One interface over language model providers.

    from llm_connect import OpenAIAdapter, RunConfig

    adapter = OpenAIAdapter(model="gpt-4.1-mini")
    print(adapter.execute_prompt("Hello", RunConfig(max_tokens=50)).content)

Importing this package imports no SDK; an adapter's own is imported on its first use.
"""

from __future__ import annotations

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

from llm_connect.core.adapter import LLMAdapter
from llm_connect.core.exceptions import (
    LLMAPIError,
    LLMAuthenticationError,
    LLMConfigurationError,
    LLMConnectionError,
    LLMError,
    LLMRateLimitError,
    LLMResponseError,
    LLMSubprocessError,
    LLMTimeoutError,
)
from llm_connect.core.mock import ErrorLLMAdapter, MockLLMAdapter
from llm_connect.core.models import FinishReason, LLMResponse, Prompt, RunConfig, Usage

if TYPE_CHECKING:
    from llm_connect.adapters.claude_code import ClaudeCodeAdapter
    from llm_connect.adapters.gemini import GeminiAdapter
    from llm_connect.adapters.openai import OpenAIAdapter
    from llm_connect.adapters.openrouter import OpenRouterAdapter
    from llm_connect.config.factory import create_adapter

__version__ = "0.1.0"

__all__ = [
    "ClaudeCodeAdapter",
    "ErrorLLMAdapter",
    "FinishReason",
    "GeminiAdapter",
    "LLMAPIError",
    "LLMAdapter",
    "LLMAuthenticationError",
    "LLMConfigurationError",
    "LLMConnectionError",
    "LLMError",
    "LLMRateLimitError",
    "LLMResponse",
    "LLMResponseError",
    "LLMSubprocessError",
    "LLMTimeoutError",
    "MockLLMAdapter",
    "OpenAIAdapter",
    "OpenRouterAdapter",
    "Prompt",
    "RunConfig",
    "Usage",
    "__version__",
    "create_adapter",
]

_LAZY = {
    "ClaudeCodeAdapter": "llm_connect.adapters.claude_code",
    "GeminiAdapter": "llm_connect.adapters.gemini",
    "OpenAIAdapter": "llm_connect.adapters.openai",
    "OpenRouterAdapter": "llm_connect.adapters.openrouter",
    "create_adapter": "llm_connect.config.factory",
}

logging.getLogger(__name__).addHandler(logging.NullHandler())


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_LAZY[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))

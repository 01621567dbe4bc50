"""One interface over language model providers, and one budget whose cap holds.

    from llm_connect import BudgetTracker, OpenAIAdapter, RunConfig

    tracker = BudgetTracker(total=50_000)
    adapter = OpenAIAdapter(model="gpt-4.1-mini")
    print(adapter.execute_prompt("Hello", RunConfig(budget_tracker=tracker)).content)
    print(tracker)

Importing this package imports nothing else: each name is imported on its first use, an adapter's SDK on its first call.
"""

from __future__ import annotations

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llm_connect.adapters.claude_code import ClaudeCodeAdapter
    from llm_connect.adapters.gemini import GeminiAdapter
    from llm_connect.adapters.openai import OpenAIAdapter
    from llm_connect.adapters.openrouter import OpenRouterAdapter
    from llm_connect.config.factory import create_adapter
    from llm_connect.core.adapter import LLMAdapter
    from llm_connect.core.bounds import Bound
    from llm_connect.core.budget import BudgetTracker
    from llm_connect.core.chunks import FinishChunk, StreamChunk, TextChunk, UsageChunk
    from llm_connect.core.counting import TokenCounter
    from llm_connect.core.exceptions import (
        LLMAPIError,
        LLMAuthenticationError,
        LLMBudgetExceededError,
        LLMBudgetNeverFitsError,
        LLMBudgetWaitError,
        LLMConfigurationError,
        LLMConnectionError,
        LLMError,
        LLMRateLimitError,
        LLMResponseError,
        LLMStoreError,
        LLMSubprocessError,
        LLMTimeoutError,
    )
    from llm_connect.core.holds import Hold
    from llm_connect.core.learning import LearnedFactor
    from llm_connect.core.ledger import LedgerEntry
    from llm_connect.core.mock import ErrorLLMAdapter, MockLLMAdapter
    from llm_connect.core.models import RunConfig
    from llm_connect.core.price import Price
    from llm_connect.core.response import FinishReason, LLMResponse, Prompt
    from llm_connect.core.sinks import JsonLinesSink
    from llm_connect.core.snapshot import BudgetSnapshot
    from llm_connect.core.streams import AsyncLLMStream, LLMStream
    from llm_connect.core.totals import Total
    from llm_connect.core.units import Amount
    from llm_connect.core.usage import Usage
    from llm_connect.protocols.openrouter_generations import Generation
    from llm_connect.stores.opening import aopen_budget, open_budget

__version__ = "0.2.0"

__all__ = [
    "Amount",
    "AsyncLLMStream",
    "Bound",
    "BudgetSnapshot",
    "BudgetTracker",
    "ClaudeCodeAdapter",
    "ErrorLLMAdapter",
    "FinishChunk",
    "FinishReason",
    "GeminiAdapter",
    "Generation",
    "Hold",
    "JsonLinesSink",
    "LLMAPIError",
    "LLMAdapter",
    "LLMAuthenticationError",
    "LLMBudgetExceededError",
    "LLMBudgetNeverFitsError",
    "LLMBudgetWaitError",
    "LLMConfigurationError",
    "LLMConnectionError",
    "LLMError",
    "LLMRateLimitError",
    "LLMResponse",
    "LLMResponseError",
    "LLMStoreError",
    "LLMStream",
    "LLMSubprocessError",
    "LLMTimeoutError",
    "LearnedFactor",
    "LedgerEntry",
    "MockLLMAdapter",
    "OpenAIAdapter",
    "OpenRouterAdapter",
    "Price",
    "Prompt",
    "RunConfig",
    "StreamChunk",
    "TextChunk",
    "TokenCounter",
    "Total",
    "Usage",
    "UsageChunk",
    "__version__",
    "aopen_budget",
    "create_adapter",
    "open_budget",
]

#: Where each public name is; importing the package imports none of them.
_PLACES = {
    "Amount": "llm_connect.core.units",
    "AsyncLLMStream": "llm_connect.core.streams",
    "Bound": "llm_connect.core.bounds",
    "BudgetSnapshot": "llm_connect.core.snapshot",
    "BudgetTracker": "llm_connect.calling.trackers",
    "ClaudeCodeAdapter": "llm_connect.adapters.claude_code",
    "ErrorLLMAdapter": "llm_connect.core.mock",
    "FinishChunk": "llm_connect.core.chunks",
    "FinishReason": "llm_connect.core.response",
    "GeminiAdapter": "llm_connect.adapters.gemini",
    "Generation": "llm_connect.protocols.openrouter_generations",
    "Hold": "llm_connect.core.holds",
    "JsonLinesSink": "llm_connect.core.sinks",
    "LLMAPIError": "llm_connect.core.exceptions",
    "LLMAdapter": "llm_connect.core.adapter",
    "LLMAuthenticationError": "llm_connect.core.exceptions",
    "LLMBudgetExceededError": "llm_connect.core.exceptions",
    "LLMBudgetNeverFitsError": "llm_connect.core.exceptions",
    "LLMBudgetWaitError": "llm_connect.core.exceptions",
    "LLMConfigurationError": "llm_connect.core.exceptions",
    "LLMConnectionError": "llm_connect.core.exceptions",
    "LLMError": "llm_connect.core.exceptions",
    "LLMRateLimitError": "llm_connect.core.exceptions",
    "LLMResponse": "llm_connect.core.response",
    "LLMResponseError": "llm_connect.core.exceptions",
    "LLMStoreError": "llm_connect.core.exceptions",
    "LLMStream": "llm_connect.core.streams",
    "LLMSubprocessError": "llm_connect.core.exceptions",
    "LLMTimeoutError": "llm_connect.core.exceptions",
    "LearnedFactor": "llm_connect.core.learning",
    "LedgerEntry": "llm_connect.core.ledger",
    "MockLLMAdapter": "llm_connect.core.mock",
    "OpenAIAdapter": "llm_connect.adapters.openai",
    "OpenRouterAdapter": "llm_connect.adapters.openrouter",
    "Price": "llm_connect.core.price",
    "Prompt": "llm_connect.core.response",
    "RunConfig": "llm_connect.core.models",
    "StreamChunk": "llm_connect.core.chunks",
    "TextChunk": "llm_connect.core.chunks",
    "TokenCounter": "llm_connect.core.counting",
    "Total": "llm_connect.core.totals",
    "Usage": "llm_connect.core.usage",
    "UsageChunk": "llm_connect.core.chunks",
    "aopen_budget": "llm_connect.stores.opening",
    "create_adapter": "llm_connect.config.factory",
    "open_budget": "llm_connect.stores.opening",
}
#: What prices a user's own reservations by the providers' lists, whoever keeps the budget.
_PRICED = {"aopen_budget", "open_budget"}

logging.getLogger(__name__).addHandler(logging.NullHandler())


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name in _PRICED:
        import_module("llm_connect.calling.trackers")
    value = globals()[name] = getattr(import_module(_PLACES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))

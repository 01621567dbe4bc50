"""One interface over language model providers, and one budget whose cap holds.

    from llm_connect import BudgetTracker, OpenAIAdapter, RunConfig

    tracker = BudgetTracker(total=50_000)
    adapter = OpenAIAdapter(model="gpt-4.1-mini")
    print(adapter.execute_prompt("Hello", RunConfig(budget_tracker=tracker)).content)
    print(tracker)

Importing this package imports no other module of it. The first use of a name imports that name, and the first call of
an adapter imports its SDK.
"""

from __future__ import annotations

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llm_connect.budget.accounting.bounds import Bound
    from llm_connect.budget.accounting.ledger import LedgerEntry
    from llm_connect.budget.accounting.prices import Price
    from llm_connect.budget.accounting.sinks import JsonLinesSink
    from llm_connect.budget.accounting.snapshot import BudgetSnapshot
    from llm_connect.budget.accounting.token_counters import TokenCounter
    from llm_connect.budget.accounting.totals import Total
    from llm_connect.budget.admission.holds import Hold
    from llm_connect.budget.admission.observing import CallEvent, Observer, add_observer, remove_observer
    from llm_connect.budget.tracker import Allotment, BudgetTracker
    from llm_connect.config.factory import create_adapter
    from llm_connect.errors import (
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
    from llm_connect.interface.adapter import LLMAdapter
    from llm_connect.interface.config import RunConfig
    from llm_connect.interface.streams import AsyncLLMStream, LLMStream
    from llm_connect.protocols.openrouter_generations import Generation
    from llm_connect.providers.claude_code import ClaudeCodeAdapter
    from llm_connect.providers.gemini import GeminiAdapter
    from llm_connect.providers.openai import OpenAIAdapter
    from llm_connect.providers.openrouter import OpenRouterAdapter
    from llm_connect.stores.opening import aopen_budget, open_budget
    from llm_connect.testing.mock import ErrorLLMAdapter, MockLLMAdapter
    from llm_connect.types.amounts import Amount
    from llm_connect.types.chunks import FinishChunk, StreamChunk, TextChunk, UsageChunk
    from llm_connect.types.response import FinishReason, LLMResponse, Prompt
    from llm_connect.types.usage import Usage

__version__ = "0.2.0"

__all__ = [
    "Allotment",
    "Amount",
    "AsyncLLMStream",
    "Bound",
    "BudgetSnapshot",
    "BudgetTracker",
    "CallEvent",
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
    "LedgerEntry",
    "MockLLMAdapter",
    "Observer",
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
    "add_observer",
    "aopen_budget",
    "create_adapter",
    "open_budget",
    "remove_observer",
]

#: The module of each public name.
_MODULES = {
    "Allotment": "llm_connect.budget.tracker",
    "Amount": "llm_connect.types.amounts",
    "AsyncLLMStream": "llm_connect.interface.streams",
    "Bound": "llm_connect.budget.accounting.bounds",
    "BudgetSnapshot": "llm_connect.budget.accounting.snapshot",
    "BudgetTracker": "llm_connect.engine.priced_tracker",
    "CallEvent": "llm_connect.budget.admission.observing",
    "ClaudeCodeAdapter": "llm_connect.providers.claude_code",
    "ErrorLLMAdapter": "llm_connect.testing.mock",
    "FinishChunk": "llm_connect.types.chunks",
    "FinishReason": "llm_connect.types.response",
    "GeminiAdapter": "llm_connect.providers.gemini",
    "Generation": "llm_connect.protocols.openrouter_generations",
    "Hold": "llm_connect.budget.admission.holds",
    "JsonLinesSink": "llm_connect.budget.accounting.sinks",
    "LLMAPIError": "llm_connect.errors",
    "LLMAdapter": "llm_connect.interface.adapter",
    "LLMAuthenticationError": "llm_connect.errors",
    "LLMBudgetExceededError": "llm_connect.errors",
    "LLMBudgetNeverFitsError": "llm_connect.errors",
    "LLMBudgetWaitError": "llm_connect.errors",
    "LLMConfigurationError": "llm_connect.errors",
    "LLMConnectionError": "llm_connect.errors",
    "LLMError": "llm_connect.errors",
    "LLMRateLimitError": "llm_connect.errors",
    "LLMResponse": "llm_connect.types.response",
    "LLMResponseError": "llm_connect.errors",
    "LLMStoreError": "llm_connect.errors",
    "LLMStream": "llm_connect.interface.streams",
    "LLMSubprocessError": "llm_connect.errors",
    "LLMTimeoutError": "llm_connect.errors",
    "LedgerEntry": "llm_connect.budget.accounting.ledger",
    "MockLLMAdapter": "llm_connect.testing.mock",
    "Observer": "llm_connect.budget.admission.observing",
    "OpenAIAdapter": "llm_connect.providers.openai",
    "OpenRouterAdapter": "llm_connect.providers.openrouter",
    "Price": "llm_connect.budget.accounting.prices",
    "Prompt": "llm_connect.types.response",
    "RunConfig": "llm_connect.interface.config",
    "StreamChunk": "llm_connect.types.chunks",
    "TextChunk": "llm_connect.types.chunks",
    "TokenCounter": "llm_connect.budget.accounting.token_counters",
    "Total": "llm_connect.budget.accounting.totals",
    "Usage": "llm_connect.types.usage",
    "UsageChunk": "llm_connect.types.chunks",
    "add_observer": "llm_connect.budget.admission.observing",
    "aopen_budget": "llm_connect.stores.opening",
    "create_adapter": "llm_connect.config.factory",
    "open_budget": "llm_connect.stores.opening",
    "remove_observer": "llm_connect.budget.admission.observing",
}
#: Names whose first use also installs the list prices for reservations by users.
_PRICED = {"aopen_budget", "open_budget"}

logging.getLogger(__name__).addHandler(logging.NullHandler())


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name in _PRICED:
        import_module("llm_connect.engine.priced_tracker")
    value = globals()[name] = getattr(import_module(_MODULES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))

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
from typing import Any

__version__ = "0.2.0"

#: The module of each public name. Type checkers read the same from `__init__.pyi`, which a test makes from it.
_MODULES = {
    "Allotment": "llm_connect.budget.tracker",
    "Amount": "llm_connect.types.amounts",
    "AsyncLLMStream": "llm_connect.interface.streams",
    "Bound": "llm_connect.budget.accounting.bounds",
    "BudgetSnapshot": "llm_connect.budget.accounting.snapshot",
    "BudgetTracker": "llm_connect.engine.price_lists",
    "CallEvent": "llm_connect.budget.admission.log",
    "ClaudeCodeAdapter": "llm_connect.providers.claude_code",
    "ErrorLLMAdapter": "llm_connect.testing.mock",
    "FinishChunk": "llm_connect.types.chunks",
    "FinishReason": "llm_connect.types.response",
    "GeminiAdapter": "llm_connect.providers.gemini",
    "Generation": "llm_connect.protocols.openrouter_replies",
    "Hold": "llm_connect.budget.admission.holds",
    "JsonLinesSink": "llm_connect.budget.accounting.ledger",
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
    "Observer": "llm_connect.budget.admission.log",
    "OpenAIAdapter": "llm_connect.providers.openai",
    "OpenRouterAdapter": "llm_connect.providers.openrouter",
    "Price": "llm_connect.budget.accounting.prices",
    "Prompt": "llm_connect.types.response",
    "RunConfig": "llm_connect.interface.config",
    "StreamChunk": "llm_connect.types.chunks",
    "TextChunk": "llm_connect.types.chunks",
    "TokenCounter": "llm_connect.budget.accounting.bounds",
    "Total": "llm_connect.budget.accounting.ledger",
    "Usage": "llm_connect.types.usage",
    "UsageChunk": "llm_connect.types.chunks",
    "add_observer": "llm_connect.budget.admission.log",
    "aopen_budget": "llm_connect.stores.opening",
    "create_adapter": "llm_connect.config.factory",
    "open_budget": "llm_connect.stores.opening",
    "remove_observer": "llm_connect.budget.admission.log",
}
__all__ = sorted([*_MODULES, "__version__"])  # pyright: ignore[reportUnsupportedDunderAll]
#: Names whose first use also installs the list prices for reservations by users.
_PRICED = {"aopen_budget", "open_budget"}

logging.getLogger(__name__).addHandler(logging.NullHandler())


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name in _PRICED:
        import_module("llm_connect.engine.price_lists")
    value = globals()[name] = getattr(import_module(_MODULES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))

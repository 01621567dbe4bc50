"""Metered adapters, the provider behind them, and calls, for tests of metering."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from llm_connect.budget.tracker import BudgetTracker
from llm_connect.interface.adapter import LLMAdapter
from llm_connect.interface.config import RunConfig
from llm_connect.types.response import LLMResponse
from llm_connect.types.usage import Usage
from tests.budget.budget_helpers import PATIENCE

#: 5 bytes of prompt and 95 of output are 100 tokens.
PROMPT = "12345"


class Provider:
    """A provider that bills each request on arrival and keeps count."""

    def __init__(self, *, tokens: int = 100, seconds: float = 0.0) -> None:
        self.tokens = tokens
        self.seconds = seconds
        self.limits: list[int | None] = []
        self.billed = 0
        self._lock = threading.Lock()

    def bill(self, config: RunConfig) -> LLMResponse:
        with self._lock:
            self.limits.append(config.max_tokens)
            self.billed += self.tokens
        return answer(self.tokens)


def answer(tokens: int = 100, *, estimated: bool = False, cost: Decimal | None = None) -> LLMResponse:
    usage = Usage(prompt_tokens=5, completion_tokens=tokens - 5, estimated=estimated)
    return LLMResponse(content="yes", model="tiny-1", usage=usage, cost=cost, cost_source=cost and "provider")


class Sync(LLMAdapter):
    """An adapter that defines only `execute_prompt`."""

    def __init__(self, provider: Provider) -> None:
        self.provider = provider

    def execute_prompt(self, prompt: str, config: RunConfig | None = None) -> LLMResponse:
        time.sleep(self.provider.seconds)
        return self.provider.bill(config or RunConfig())


class Both(Sync):
    """An adapter that also defines the async form."""

    async def async_execute_prompt(self, prompt: str, config: RunConfig | None = None) -> LLMResponse:
        await asyncio.sleep(self.provider.seconds)
        return self.provider.bill(config or RunConfig())


class Wrapper(LLMAdapter):
    """An adapter that only wraps another one, and sets `metered = False`."""

    metered = False

    def __init__(self, inner: LLMAdapter) -> None:
        self.inner = inner

    def execute_prompt(self, prompt: str, config: RunConfig | None = None) -> LLMResponse:
        return self.inner.execute_prompt(prompt, config)


class Does(LLMAdapter):
    """An adapter that answers with the result of a function, which receives the config."""

    def __init__(self, function: Callable[[RunConfig], LLMResponse]) -> None:
        self.function = function

    def execute_prompt(self, prompt: str, config: RunConfig | None = None) -> LLMResponse:
        assert config is not None
        return self.function(config)


def config_of(tracker: BudgetTracker, **fields: Any) -> RunConfig:
    return RunConfig(**{"budget_tracker": tracker, "max_tokens": 95, "timeout_seconds": 2 * PATIENCE, **fields})


async def gather(adapter: LLMAdapter, config: RunConfig, number: int = 200) -> list[Any]:
    calls = (adapter.async_execute_prompt(PROMPT, config) for _ in range(number))
    return await asyncio.gather(*calls, return_exceptions=True)

"""llm-connect: `OpenAIAdapter` over the real openai SDK, prompts bounded by their bytes, in tokens, USD or calls."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from benchmarks.overshoot.attempts import Contender, Task
from benchmarks.overshoot.scenarios import COMPLETION_USD, MODEL, PROMPT_USD
from llm_connect import BudgetTracker, LLMError, LLMResponse, OpenAIAdapter, Price, RunConfig


class Ours(Contender):
    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.unit: Any = task.variant
        self.tracker = BudgetTracker(**self.limit("A"))
        price = Price(prompt=PROMPT_USD, completion=COMPLETION_USD)
        self.adapter = OpenAIAdapter(model=MODEL, base_url=task.url, api_key="loopback", price=price)
        first = RunConfig(budget_tracker=self.tracker, max_tokens=self.scenario.max_tokens)
        second = self.delegated(first, "B")
        self.configs = {"A": first, "B": second, "C": self.delegated(second, "C")}

    def limit(self, agent: str) -> dict[str, Any]:
        cap = self.scenario.cap(self.unit, agent)
        return {"total_usd": cap} if self.unit == "usd" else {f"total{_suffix(self.unit)}": int(cap)}

    def delegated(self, config: RunConfig, agent: str) -> RunConfig:
        return config.delegate(agent, **self.limit(agent), max_tokens=self.scenario.max_tokens)

    def call(self, agent: str) -> LLMResponse:
        try:
            return self.adapter.execute_prompt(self.scenario.prompt(agent), self.configs[agent])
        except LLMError as error:
            return _paid_for(error)

    async def acall(self, agent: str) -> LLMResponse:
        try:
            return await self.adapter.async_execute_prompt(self.scenario.prompt(agent), self.configs[agent])
        except LLMError as error:
            return _paid_for(error)

    async def aclose(self) -> None:
        await self.adapter.aclose()

    def books(self) -> Decimal:
        return Decimal(getattr(self.tracker, f"spent{_suffix(self.unit)}"))

    def held(self) -> Decimal:
        # Of all units together: none may be left in any.
        return self.tracker.held + self.tracker.held_calls + self.tracker.held_usd


def _suffix(unit: str) -> str:
    return "" if unit == "tokens" else f"_{unit}"


def _paid_for(error: LLMError) -> LLMResponse:
    """The answer that an error carries, else the error."""
    if error.response is None:
        raise error
    return error.response


make = Ours

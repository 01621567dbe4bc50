"""pydantic-ai: one `RunUsage` and one `UsageLimits` for all runs, as its documentation shares them between agents."""

from __future__ import annotations

import threading
from decimal import Decimal
from typing import Any

from pydantic_ai import Agent, ModelSettings, RunUsage, UsageLimits
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

from benchmarks.overshoot.attempts import Contender, Task
from benchmarks.overshoot.contenders.openai_client import clients
from benchmarks.overshoot.scenarios import MODEL


class PydanticAI(Contender):
    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.usage = RunUsage()
        self.here = threading.local()
        limits = UsageLimits(total_tokens_limit=int(self.scenario.cap("tokens")), request_limit=None)
        limit = self.scenario.max_tokens
        settings = ModelSettings() if limit is None else ModelSettings(max_tokens=limit)
        self.shared: dict[str, Any] = {"usage": self.usage, "usage_limits": limits, "model_settings": settings}

    def agent(self) -> Agent:
        """The agent of this thread: a client belongs to one event loop, and each thread has its own for sync calls."""
        if not hasattr(self.here, "agent"):
            _, async_client = clients(self.task)
            self.here.agent = Agent(OpenAIChatModel(MODEL, provider=OpenAIProvider(openai_client=async_client)))
        return self.here.agent

    def call(self, agent: str) -> object:
        return self.agent().run_sync(self.scenario.prompt(agent), **self.shared)

    async def acall(self, agent: str) -> object:
        return await self.agent().run(self.scenario.prompt(agent), **self.shared)

    def books(self) -> Decimal:
        return Decimal(self.usage.total_tokens)


make = PydanticAI

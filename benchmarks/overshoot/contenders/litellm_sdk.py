"""LiteLLM in process: `litellm.max_budget`, `BudgetManager`, and the Router's provider budgets."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Any

import litellm

from benchmarks.overshoot.attempts import Contender, Task
from benchmarks.overshoot.contenders.openai_client import as_float
from benchmarks.overshoot.scenarios import MODEL, TENTHS

litellm.suppress_debug_info = True


class LiteLLM(Contender):
    def settings(self) -> dict[str, Any]:
        return {"api_base": self.task.url, "api_key": "loopback", "timeout": 60, "max_retries": 0}

    async def aclose(self) -> None:
        # Its callbacks, some of which keep the books, run after the reply.
        await asyncio.sleep(1)

    def request(self, agent: str) -> dict[str, Any]:
        limit = {} if self.scenario.max_tokens is None else {"max_tokens": self.scenario.max_tokens}
        return {"messages": [{"role": "user", "content": self.scenario.prompt(agent)}], **limit}


class MaxBudget(LiteLLM):
    """The global `litellm.max_budget`."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        litellm.max_budget = as_float(self.scenario.cap("usd"))

    def call(self, agent: str) -> object:
        return litellm.completion(model=f"openai/{MODEL}", **self.settings(), **self.request(agent))

    async def acall(self, agent: str) -> object:
        return await litellm.acompletion(model=f"openai/{MODEL}", **self.settings(), **self.request(agent))

    def books(self) -> Decimal:
        return Decimal(str(litellm._current_cost))


class Manager(LiteLLM):
    """`BudgetManager`, a user for each agent: ask before each call, update after it, as its documentation does."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.manager = litellm.BudgetManager(project_name="overshoot")
        for agent in TENTHS:
            self.manager.create_budget(total_budget=as_float(self.scenario.cap("usd", agent)), user=agent)

    def call(self, agent: str) -> object:
        self.check(agent)
        reply = litellm.completion(model=f"openai/{MODEL}", **self.settings(), **self.request(agent))
        return self.update(agent, reply)

    async def acall(self, agent: str) -> object:
        self.check(agent)
        reply = await litellm.acompletion(model=f"openai/{MODEL}", **self.settings(), **self.request(agent))
        return self.update(agent, reply)

    def check(self, agent: str) -> None:
        for user in _lineage(agent):
            if self.manager.get_current_cost(user=user) > self.manager.get_total_budget(user):
                raise Refused

    def update(self, agent: str, reply: Any) -> object:
        for user in _lineage(agent):
            self.manager.update_cost(completion_obj=reply, user=user)
        return reply

    def books(self) -> Decimal:
        return Decimal(str(self.manager.get_current_cost(user="A")))


class ProviderBudget(LiteLLM):
    """`Router(provider_budget_config=...)`, whose spend is logged after each reply."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        # It starts a task when it is made, so it needs a running event loop, also for its sync form.
        self.router: Any = asyncio.run(self.made()) if self.scenario.way == "threads" else None

    async def made(self) -> litellm.Router:
        model = {"model_name": MODEL, "litellm_params": {"model": f"openai/{MODEL}", **self.settings()}}
        budget = {"budget_limit": as_float(self.scenario.cap("usd")), "time_period": "1d"}
        return litellm.Router(
            model_list=[model], provider_budget_config={"openai": budget}, num_retries=0, disable_cooldowns=True
        )

    def call(self, agent: str) -> object:
        return self.router.completion(model=MODEL, **self.request(agent))

    async def acall(self, agent: str) -> object:
        if self.router is None:
            self.router = await self.made()
        return await self.router.acompletion(model=MODEL, **self.request(agent))

    def books(self) -> Decimal:
        spent = self.router.cache.in_memory_cache.get_cache("provider_spend:openai:1d")
        return Decimal(str(spent or 0))


class Refused(Exception):
    """The caller's own refusal, raised when the manager reports that the budget is spent."""


def _lineage(agent: str) -> list[str]:
    return [user for user in TENTHS if user <= agent]


def make(task: Task) -> Contender:
    return {"max-budget": MaxBudget, "manager": Manager, "router": ProviderBudget}[task.variant](task)

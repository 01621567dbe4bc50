"""token-budget-py: `BudgetPool`, a counter that the caller feeds; it has no children, so a pool for each agent."""

from __future__ import annotations

from contextlib import ExitStack
from decimal import Decimal
from typing import Any

from token_budget import BudgetPool

from benchmarks.overshoot.attempts import Contender, Task
from benchmarks.overshoot.contenders.openai_client import clients, estimated_tokens, request
from benchmarks.overshoot.scenarios import TENTHS


class Pools(Contender):
    """Pools for A, B and C; spending from C also spends from B and A."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.client, self.async_client = clients(task)
        self.pools = {agent: BudgetPool(token_cap=int(self.scenario.cap("tokens", agent))) for agent in TENTHS}

    def lineage(self, agent: str) -> list[BudgetPool]:
        return [pool for name, pool in self.pools.items() if name <= agent]

    def books(self) -> Decimal:
        return Decimal(self.pools["A"].snapshot().tokens_used)

    def held(self) -> Decimal:
        snapshot = self.pools["A"].snapshot()
        return Decimal(snapshot.token_cap - snapshot.tokens_used - snapshot.tokens_remaining)


class Record(Pools):
    """`record` after each reply, as its quick start does."""

    def call(self, agent: str) -> object:
        return self.record(agent, self.client.chat.completions.create(**request(self.scenario, agent)))

    async def acall(self, agent: str) -> object:
        return self.record(agent, await self.async_client.chat.completions.create(**request(self.scenario, agent)))

    def record(self, agent: str, reply: Any) -> object:
        for pool in self.lineage(agent):
            pool.record(tokens=reply.usage.total_tokens)
        return reply


class Reserve(Pools):
    """`reserve` before each call and `commit` after it; the estimate is the caller's."""

    def call(self, agent: str) -> object:
        with ExitStack() as stack:
            holds = self.reserve(stack, agent)
            return _commit(holds, self.client.chat.completions.create(**request(self.scenario, agent)))

    async def acall(self, agent: str) -> object:
        with ExitStack() as stack:
            holds = self.reserve(stack, agent)
            return _commit(holds, await self.async_client.chat.completions.create(**request(self.scenario, agent)))

    def reserve(self, stack: ExitStack, agent: str) -> list[Any]:
        tokens = sum(estimated_tokens(self.scenario, agent))
        return [stack.enter_context(pool.reserve(tokens=tokens)) for pool in self.lineage(agent)]


def _commit(holds: list[Any], reply: Any) -> object:
    for hold in holds:
        hold.commit(tokens=reply.usage.total_tokens)
    return reply


def make(task: Task) -> Contender:
    return {"record": Record, "reserve": Reserve}[task.variant](task)

"""The openai SDK without a budget: shows that all attempts reach the server if nothing stops them."""

from __future__ import annotations

from decimal import Decimal

from benchmarks.overshoot.attempts import Contender, Task
from benchmarks.overshoot.contenders.openai_client import clients, request


class NoBudget(Contender):
    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.client, self.async_client = clients(task)

    def call(self, agent: str) -> object:
        return self.client.chat.completions.create(**request(self.scenario, agent))

    async def acall(self, agent: str) -> object:
        return await self.async_client.chat.completions.create(**request(self.scenario, agent))

    async def aclose(self) -> None:
        await self.async_client.close()

    def books(self) -> Decimal:
        return Decimal(0)


make = NoBudget

"""shekel: `with budget(...)` around the work, nested for each agent; it patches the openai SDK."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

from shekel import budget

from benchmarks.overshoot.attempts import Contender, Task
from benchmarks.overshoot.contenders.openai_client import as_float, clients, request


class Shekel(Contender):
    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.client, self.async_client = clients(task)
        self.budgets: dict[str, Any] = {}

    @contextmanager
    def scope(self, agent: str) -> Iterator[object]:
        with budget(max_usd=as_float(self.scenario.cap("usd", agent)), name=agent) as opened:
            self.budgets[agent] = opened
            yield opened

    def call(self, agent: str) -> object:
        return self.client.chat.completions.create(**request(self.scenario, agent))

    async def acall(self, agent: str) -> object:
        return await self.async_client.chat.completions.create(**request(self.scenario, agent))

    def books(self) -> Decimal:
        return Decimal(str(self.budgets["A"].spent))


make = Shekel

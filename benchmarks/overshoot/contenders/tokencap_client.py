"""tokencap: a wrapped client for each agent, whose policy has a dimension for it and for each above it."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from tokencap import Action, DimensionPolicy, Guard, Policy, Threshold
from tokencap.backends.sqlite import SQLiteBackend

from benchmarks.overshoot.attempts import Contender, Task
from benchmarks.overshoot.contenders.openai_client import clients, request
from benchmarks.overshoot.scenarios import TENTHS


class Tokencap(Contender):
    def __init__(self, task: Task) -> None:
        super().__init__(task)
        backend = SQLiteBackend("tokencap.db")
        self.guards = {agent: self.guard(agent, backend) for agent in TENTHS}
        client, async_client = clients(task)
        self.clients = {agent: guard.wrap_openai(client) for agent, guard in self.guards.items()}
        self.async_clients = {agent: guard.wrap_openai(async_client) for agent, guard in self.guards.items()}

    def guard(self, agent: str, backend: SQLiteBackend) -> Guard:
        block = Threshold(at_pct=1.0, actions=[Action(kind="BLOCK")])
        lineage = [name for name in TENTHS if name <= agent]
        limits = {
            name: DimensionPolicy(limit=int(self.scenario.cap("tokens", name)), thresholds=[block]) for name in lineage
        }
        same = {name: name for name in lineage}
        return Guard(Policy(dimensions=limits), identifiers=same, backend=backend, quiet=True)

    def call(self, agent: str) -> Any:
        return self.clients[agent].chat.completions.create(**request(self.scenario, agent))

    async def acall(self, agent: str) -> Any:
        return await self.async_clients[agent].chat.completions.create(**request(self.scenario, agent))

    def books(self) -> Decimal:
        return Decimal(self.guards["A"].get_status().dimensions["A"].used)


make = Tokencap

"""agentbudget: a session for each agent, child of the one above it, around a client of its own.

`wrap_client` is what its README calls most predictable for concurrent apps. Its loop detection, which raises
after ten calls of one model within a minute, is set out of reach, as it is no budget; for a child it cannot be set.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

import agentbudget

from benchmarks.overshoot.attempts import Contender, Task
from benchmarks.overshoot.contenders.openai_client import as_float, clients, estimated_tokens, request, usd


class Session(Contender):
    """The calls are tracked when their replies come."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        cap = as_float(self.scenario.cap("usd"))
        self.budget = agentbudget.AgentBudget(max_spend=cap, max_repeated_calls=1_000_000)
        self.sessions: dict[str, Any] = {}
        self.clients: dict[str, Any] = {}
        self.async_clients: dict[str, Any] = {}

    @contextmanager
    def scope(self, agent: str) -> Iterator[object]:
        above = self.sessions.get(chr(ord(agent) - 1))
        cap = as_float(self.scenario.cap("usd", agent))
        with self.budget.session() if above is None else above.child_session(max_spend=cap) as session:
            self.sessions[agent] = session
            client, async_client = clients(self.task)
            self.clients[agent] = agentbudget.wrap_client(client, session)
            self.async_clients[agent] = agentbudget.wrap_client(async_client, session)
            yield session

    def call(self, agent: str) -> object:
        return self.clients[agent].chat.completions.create(**request(self.scenario, agent))

    async def acall(self, agent: str) -> object:
        return await self.async_clients[agent].chat.completions.create(**request(self.scenario, agent))

    def books(self) -> Decimal:
        return Decimal(str(self.sessions["A"].spent))


class CheckedSession(Session):
    """`would_exceed` before each call, as its README does before the last one; the estimate is the caller's."""

    def call(self, agent: str) -> object:
        self.check(agent)
        return super().call(agent)

    async def acall(self, agent: str) -> object:
        self.check(agent)
        return await super().acall(agent)

    def check(self, agent: str) -> None:
        if self.sessions[agent].would_exceed(usd(*estimated_tokens(self.scenario, agent))):
            raise WouldExceed


class WouldExceed(Exception):
    """The caller's own refusal."""


def make(task: Task) -> Contender:
    return {"wrap": Session, "would-exceed": CheckedSession}[task.variant](task)

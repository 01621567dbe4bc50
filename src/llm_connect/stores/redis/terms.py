"""On which terms a process uses a budget in a server."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from llm_connect.stores.redis.server import shown
from llm_connect.stores.redis.states import MOST
from llm_connect.stores.terms import Terms

if TYPE_CHECKING:
    from llm_connect.core.admission import OnUnknown
    from llm_connect.core.limits import Limits
    from llm_connect.core.periods import Period
    from llm_connect.stores.gate import StoreGate


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerTerms(Terms):
    """How a process uses a budget in the server at `url`, which may have a password in it."""

    url: str = field(repr=False)

    @property
    def most_limit(self) -> int:
        return MOST

    @property
    def shown(self) -> str:
        return shown(self.url)

    def make(self, limits: Limits, period: Period | None, on_unknown: OnUnknown) -> bool:
        from llm_connect.stores.redis.budgets import make  # it imports this module

        return make(self, limits, period, on_unknown)

    def gate(self) -> StoreGate:
        from llm_connect.stores.redis.budgets import gate_of

        return gate_of(self)

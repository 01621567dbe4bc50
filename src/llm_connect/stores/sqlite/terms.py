"""On which terms a process uses a budget in a file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from llm_connect.stores.sqlite.schema import url_of
from llm_connect.stores.terms import Terms

if TYPE_CHECKING:
    from llm_connect.core.admission import OnUnknown
    from llm_connect.core.limits import Limits
    from llm_connect.core.periods import Period
    from llm_connect.stores.gate import StoreGate


@dataclass(frozen=True, slots=True, kw_only=True)
class FileTerms(Terms):
    """How a process uses a budget in the file at `path`."""

    path: str

    @property
    def shown(self) -> str:
        return url_of(self.path)

    def make(self, limits: Limits, period: Period | None, on_unknown: OnUnknown) -> bool:
        from llm_connect.stores.sqlite.budgets import make  # it imports this module

        return make(self, limits, period, on_unknown)

    def gate(self) -> StoreGate:
        from llm_connect.stores.sqlite.budgets import gate_of

        return gate_of(self)

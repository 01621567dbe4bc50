"""The options with which a process uses a budget in a store."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

from llm_connect.budget.accounting.prices import Price
from llm_connect.budget.admission.booking import Sink
from llm_connect.types.amounts import MOST_LIMIT


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms(ABC):
    """The options of a process for a budget in a store. Each kind of store adds the place."""

    name: str
    prices: Mapping[str, Price]
    strict: bool = False
    keep_entries: int = 1000
    sink: Sink | None = None
    lease_seconds: float = 60.0
    #: True if a server may evict budgets when it is full.
    allow_eviction: bool = False

    @property
    def busy_seconds(self) -> float:
        """The longest time to wait for a busy store. It is far shorter than a lease, so a slow store costs no lease."""
        return min(5.0, self.lease_seconds / 6)

    @property
    def most_limit(self) -> int:
        """The largest limit that the store can count."""
        return MOST_LIMIT

    @property
    @abstractmethod
    def shown(self) -> str:
        """The URL of the store, without credentials."""

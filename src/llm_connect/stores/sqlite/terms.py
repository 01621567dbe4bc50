"""On which terms a process uses a budget in a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from llm_connect.core.books import Sink
from llm_connect.core.price import Price


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """How a process uses a budget in a file."""

    path: str
    name: str
    prices: Mapping[str, Price]
    strict: bool = False
    keep_entries: int = 1000
    sink: Sink | None = None
    lease_seconds: float = 60.0

    @property
    def busy_seconds(self) -> float:
        """How long the file may be busy: far less than a lease, so that a slow store costs no lease."""
        return min(5.0, self.lease_seconds / 6)

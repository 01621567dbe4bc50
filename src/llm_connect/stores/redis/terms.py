"""The options with which a process uses a budget in a server."""

from __future__ import annotations

from dataclasses import dataclass, field

from llm_connect.stores.redis.packing import MOST
from llm_connect.stores.redis.server import shown
from llm_connect.stores.terms import Terms


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerTerms(Terms):
    """The options of a process for a budget in the server at `url`, which may contain a password."""

    url: str = field(repr=False)

    @property
    def most_limit(self) -> int:
        return MOST

    @property
    def shown(self) -> str:
        return shown(self.url)

"""The options with which a process uses a budget in a file."""

from __future__ import annotations

from dataclasses import dataclass, field

from llm_connect.stores.sqlite.schema import url_of
from llm_connect.stores.terms import Terms


@dataclass(frozen=True, slots=True, kw_only=True)
class FileTerms(Terms):
    """The options of a process for a budget in the file at `path`."""

    path: str
    #: The path in the URL, absolute and with its symbolic links.
    named: str = field(compare=False)

    @property
    def shown(self) -> str:
        return url_of(self.path)

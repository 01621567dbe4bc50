"""The interfaces between the parts of a budget file."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Any, Protocol

from llm_connect.stores.ports import Finding, StoreParts

if TYPE_CHECKING:
    from llm_connect.budget.accounting.scope import Scope


class FileFinding(Finding, Protocol):
    """The trackers that this process has loaded, and the leases of open allotments."""

    @property
    def allotments(self) -> dict[int, int]: ...
    def is_current(self, tracker: Scope) -> bool: ...
    def note_allotment(self, number: int, lease: Any) -> None: ...


class FileWaiting(Protocol):
    """The waiting callers."""

    def end_over(self, connection: sqlite3.Connection, now: float) -> None: ...


class FileParts(StoreParts, Protocol):
    """The parts of one budget in a file, in one process."""

    #: True if budget may have become free since the last look at the waiting callers of this process.
    unseen: bool

    @property
    def budget(self) -> int: ...
    @property
    def connection(self) -> sqlite3.Connection: ...
    @property
    def trackers(self) -> FileFinding: ...
    @property
    def waiters(self) -> FileWaiting: ...
    def check_touched(self) -> None: ...
    def read_rows(self, query: str, values: tuple[Any, ...]) -> list[Any]: ...

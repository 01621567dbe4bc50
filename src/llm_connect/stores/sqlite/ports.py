"""What the parts of a budget file ask of the gate that brings them together."""

from __future__ import annotations

import sqlite3
from typing import Any, Protocol

from llm_connect.stores.lease import Lease
from llm_connect.stores.ports import Leasing, StoreSession


class FileLeasing(Leasing, Protocol):
    """The lease of this process, which a first hold needs."""

    def have(self) -> Lease: ...


class FileWaiting(Protocol):
    """The callers that wait."""

    def end_over(self, connection: sqlite3.Connection, now: float) -> None: ...


class FileSession(StoreSession, Protocol):
    """The use of one budget in a file by one process."""

    #: Whether anything was freed since those that wait here were looked at.
    unseen: bool

    @property
    def budget(self) -> int: ...
    @property
    def connection(self) -> sqlite3.Connection: ...
    @property
    def leases(self) -> FileLeasing: ...
    @property
    def waiters(self) -> FileWaiting: ...
    def read_rows(self, query: str, values: tuple[Any, ...]) -> list[Any]: ...

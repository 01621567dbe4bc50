"""The lease of one process."""

from __future__ import annotations

from typing import Any

from llm_connect import _forks


class Lease:
    """The lease of one process. A process that has lost its lease, or that was forked, gets a new one."""

    def __init__(self, number: Any, expires_at: float) -> None:
        #: Its number or name in the store.
        self.number = number
        self.expires_at = expires_at
        self.generation: int = _forks.generation

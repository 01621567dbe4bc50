"""The lease of one process."""

from __future__ import annotations

from typing import Any

from llm_connect import _forks


class Lease:
    """The lease of one process; it is a new one after it was lost, and in a forked process."""

    def __init__(self, number: Any, expires_at: float) -> None:
        #: Under which number or name it stands in the store.
        self.number = number
        self.expires_at = expires_at
        self.generation: int = _forks.generation

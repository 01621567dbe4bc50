"""Callbacks of what a transaction has booked: they are made once it is committed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llm_connect.core.outbox import Outbox


class StagedOutbox(Outbox):
    """An outbox whose calls are kept back until their transaction is committed."""

    def __init__(self) -> None:
        super().__init__()
        self._staged: list[tuple[Callable[[Any], object], Callable[[], Any]]] = []

    def put(self, callback: Callable[[Any], object], argument: Callable[[], Any]) -> None:
        self._staged.append((callback, argument))

    def commit(self) -> None:
        """What is kept back may be delivered."""
        if self._staged:
            self.calls.extend(self._staged)
            self._staged.clear()

    def roll_back(self) -> None:
        """What is kept back has not happened."""
        self._staged.clear()

"""Callbacks of what a transaction has booked: they are made once it is committed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from llm_connect.core.outbox import Outbox


class StagedOutbox(Outbox):
    """An outbox whose calls are kept back until their transaction is committed."""

    def __init__(self) -> None:
        super().__init__()
        self._staged: deque[tuple[Callable[[Any], object], Callable[[], Any], object]] = deque()

    def put(self, callback: Callable[[Any], object], argument: Callable[[], Any], about: object) -> None:
        self._staged.append((callback, argument, about))

    def has(self, about: object) -> bool:
        return super().has(about) or any(each is about for _, _, each in self._staged)

    def commit(self) -> None:
        """What is kept back may be delivered."""
        while self._staged:
            # In this order: interrupted, it is delivered twice rather than never.
            self.calls.append(self._staged[0])
            self._staged.popleft()

    def roll_back(self) -> None:
        """What is kept back has not happened."""
        self._staged.clear()

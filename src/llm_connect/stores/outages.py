"""The time in which a store cannot be used, for the log."""

from __future__ import annotations

import time

from llm_connect.budget.admission.log import STORE_BACK, STORE_LOST, Owed, tell
from llm_connect.errors import LLMStoreError


class Outage:
    """Whether the store of a budget is lost; told of once at its beginning, and once at its end."""

    def __init__(self) -> None:
        self._store = ""
        self._since: float | None = None

    def note(self, error: BaseException | None, owed: Owed) -> None:
        """A transaction has ended, by `error` if there is one; called by the thread that did it, without the lock."""
        if isinstance(error, LLMStoreError):
            self._begin(error.store, owed)
        elif error is None and self._since is not None:
            since, self._since = self._since, None
            tell(STORE_BACK, owed, store=self._store, seconds=time.monotonic() - since)

    def _begin(self, store: str, owed: Owed) -> None:
        if self._since is None:
            self._store, self._since = store, time.monotonic()
            tell(STORE_LOST, owed, store=store)

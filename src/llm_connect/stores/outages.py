"""Log lines about outages of a store."""

from __future__ import annotations

import time
from typing import Any

from llm_connect.budget.admission.callbacks import Outbox
from llm_connect.budget.admission.log import tell
from llm_connect.errors import LLMStoreError


class Outage:
    """Logs an outage of a store once when it begins and once when it ends."""

    def __init__(self) -> None:
        self._store = ""
        self._since: float | None = None

    def note(self, error: BaseException | None, outbox: Outbox) -> None:
        """Note the result of a step; `outbox` writes the log line after the lock is released."""
        if isinstance(error, LLMStoreError) and self._since is None:
            self._store, self._since = error.store, time.monotonic()
            _tell(outbox, store=error.store)
        elif error is None and self._since is not None:
            since, self._since = self._since, None
            _tell(outbox, store=self._store, seconds=time.monotonic() - since)


def _tell(outbox: Outbox, **fields: Any) -> None:
    outbox.calls.append((lambda _: tell("outage", outbox.owed, **fields), lambda: None, object()))

"""The waiting callers in a server: each step adds and removes some, and a reply lists all of them."""

from __future__ import annotations

import itertools
import json
import time
from typing import TYPE_CHECKING, Any

from llm_connect.budget.admission.waiters import Waiter
from llm_connect.stores.redis.server import text_of
from llm_connect.stores.waiters import Heard, Waiters
from llm_connect.types.amounts import Amount

if TYPE_CHECKING:
    from llm_connect.budget.admission.wait_queue import Line
    from llm_connect.stores.redis.ports import ServerParts

#: Precedes the list of waiting callers in a reply.
WAITERS = "waiters\n"


class ServerWaiters(Waiters):
    """The waiting callers of this process that the server lists, and the callers of other processes."""

    _session: ServerParts

    def __init__(self, session: ServerParts, seconds: float) -> None:
        super().__init__(session, seconds)
        self._names = itertools.count(1)
        self._said: tuple[str, float] | None = None

    def hear(self, text: str, moment: float) -> None:
        """Keep a list of waiting callers from a reply, with the server's time, until `read` reads it."""
        self._said = (text, moment - time.monotonic())

    def read(self, line: Line) -> None:
        """Give the waiting callers of other processes their places in `line`, as the last reply lists them."""
        if self._said is not None:
            (text, ahead), self._said = self._said, None
            now = time.monotonic() + ahead
            rows = (row.split(" ", 2) for row in text.splitlines())
            # A step whose outcome was in doubt wrote an unknown caller of this process.
            others = {name: caller for name, *caller in rows if not name.startswith(self._session.client)}
            self.see({name: _heard(now, *caller) for name, caller in others.items()}, line)

    def leave_to_parent(self) -> None:
        super().leave_to_parent()
        self._said = None

    def _write(self, row: Any, waiter: Waiter, seconds: float) -> Any:
        name = row or f"{self._session.client}.{next(self._names)}"
        place = (self._session.trackers.number_of(waiter.tracker), waiter.arrival, *waiter.demand.smallest)
        self._session.changes.say("told", (name, text_of(place), int(seconds * 1000)))
        return name

    def _delete(self, row: Any) -> None:
        self._session.changes.say("forgotten", row)


def _heard(now: float, until: str, place: str) -> Heard:
    tracker, arrival, *amount = json.loads(place)
    return Heard(tracker, arrival, Amount(*amount), int(until) / 1000 - now)

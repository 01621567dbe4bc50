"""The gate of a budget in a server: what it decides on what it knows, the server checks on what is so."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from llm_connect.budget.admission.earmarks import limits_of
from llm_connect.budget.admission.holds import gather_lost
from llm_connect.budget.admission.log import write
from llm_connect.errors import LLMStoreError
from llm_connect.stores.gate import Again
from llm_connect.stores.redis.listener import Listener
from llm_connect.stores.redis.state import RedisState

if TYPE_CHECKING:
    from llm_connect.budget.accounting.accounts import Account
    from llm_connect.budget.accounting.arguments import Limits
    from llm_connect.budget.accounting.demands import CallFacts, Demand
    from llm_connect.budget.accounting.ledger import LedgerEntry
    from llm_connect.budget.accounting.scope import Scope
    from llm_connect.budget.accounting.snapshot import BudgetSnapshot
    from llm_connect.budget.admission.alerts import Threshold
    from llm_connect.budget.admission.holds import Hold
    from llm_connect.budget.admission.waiters import Waiter
    from llm_connect.types.amounts import Amount

#: How long one waits before the store is tried again.
_RETRY_SECONDS = 1.0
#: How often one looks by oneself, in case that a notification got lost.
_LOOK_SECONDS = 1.0
T = TypeVar("T")
S = TypeVar("S", bound="Scope")


class RedisGate(RedisState):
    """The gate of one budget in a server, in one process. Waiters, callbacks and notes are the process's own.

    Who is let in, who may dispatch and what a call came to is decided on what the last reply said, and written by one
    script, on condition that it is so. What would be refused is looked at anew before.
    """

    def __init__(self, *details: Any) -> None:
        super().__init__(*details)
        self._listener = Listener(self)
        #: Whether others may have freed what somebody waits for.
        self._noticed = False
        self._looked_at = 0.0

    @property
    def waited_for(self) -> bool:
        """Whether anybody waits for what others may free."""
        return self._line.busy_here and not self.closed

    def notice(self) -> None:
        """Others may have freed something."""
        self._noticed = True
        self._worker.put(self.stay)

    def _run(self, operation: Callable[..., T], *args: Any) -> T:
        """Do it until what it decides is written."""
        while True:
            try:
                return super()._run(operation, *args)
            except Again:
                self.stale = True

    def _covers(self, hold: Hold) -> bool:
        if super()._covers(hold):
            return True
        self.sure()
        return False

    # Operations whose answer may only be given on what the server says now.

    def change_limits(self, tracker: Scope, limits: dict[Account, int | None]) -> None:
        self.stale = True
        super().change_limits(tracker, limits)

    def correct(self, entry_id: int, figures: Limits) -> LedgerEntry:
        self.stale = True
        return super().correct(entry_id, figures)

    def join(self, joined: dict[str, S], child: S) -> S:
        self.stale = True
        return super().join(joined, child)

    def read(self, tracker: Scope) -> BudgetSnapshot:
        self.stale = True
        return super().read(tracker)

    def record(self, tracker: Scope, amount: Amount, facts: CallFacts) -> LedgerEntry:
        self.stale = True
        return super().record(tracker, amount, facts)

    def reset(self, facts: CallFacts) -> None:
        self.stale = True
        super().reset(facts)

    def room(self, tracker: Scope, demand: Demand, facts: CallFacts) -> int | None:
        self.stale = True
        return super().room(tracker, demand, facts)

    def watch(self, threshold: Threshold) -> None:
        self.stale = True
        super().watch(threshold)

    def open_slice(self, child: Scope, kept: Hold) -> bool:
        self.stale = True
        return super().open_slice(child, kept)

    def queue(self, waiter: Waiter, *, may_wait: bool) -> None:
        self.stale = True
        super().queue(waiter, may_wait=may_wait)
        if waiter.waiting:
            self._listener.start()

    def take(self, waiter: Waiter) -> Hold | None:
        if waiter.waiting:
            self.stale = True
        return super().take(waiter)

    # What an operation does under the lock.

    def _open_slice(self, child: Scope, kept: Hold) -> bool:
        opened = super()._open_slice(child, kept)
        if opened:
            lease = self.trackers.slices[child.number]
            self.changes.add_slice(child, lease, limits_of(child))
        return opened

    def _close_slices(self, tracker: Scope) -> None:
        closed = [child for child in self.trackers.open_slices() if tracker in child.lineage]
        super()._close_slices(tracker)
        for child in sorted(closed, key=lambda child: -len(child.lineage)):
            self.changes.add_slice(child, "", None)

    def tick(self) -> float:
        if self.gone:
            return self.leases.pause
        try:
            now, due = time.monotonic(), self.leases.due
            waits = self._line.busy_here and (
                self._noticed or self.waiters.due or now >= self._looked_at + self._look_seconds
            )
            if due or waits:
                self._noticed, self._looked_at = False, now
                self.stale: bool = True
            gather_lost()
            self._do_suspects()
            if due or waits or self.notes:
                self.look_after(due)
        except LLMStoreError as error:
            write(logging.WARNING, "%s", error, owed=self.owed)
            return _RETRY_SECONDS
        return min(self.leases.pause, self._look_seconds) if self._line.busy_here else self.leases.pause

    @property
    def _look_seconds(self) -> float:
        """How often those that wait look by themselves: a window may open by then."""
        return min(_LOOK_SECONDS, self._windows.pause) if self._windowed else _LOOK_SECONDS

    def look_after(self, due: bool) -> None:
        """Do what is left to do, see who is let in, and keep the lease or let it go."""
        self._run(self._look_after, due)

    def _look_after(self, due: bool) -> None:
        self._line.close()
        if due and not self.leases.needed:
            self.leases.give_up()

    def leave_connection(self) -> None:
        super().leave_connection()
        self._listener = Listener(self)

    def __del__(self) -> None:
        worker = self.__dict__.get("_worker")
        if worker is not None and worker.running:
            worker.put_end()

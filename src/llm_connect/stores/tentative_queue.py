"""A wait queue whose decisions can be undone."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any

from llm_connect.budget.admission.holds import Hold, Keeper
from llm_connect.budget.admission.queues import Queues
from llm_connect.budget.admission.wait_queue import Line
from llm_connect.budget.admission.waiters import Waiter
from llm_connect.errors import BudgetReason, LLMError


class RevisableLine(Line):
    """A wait queue that announces the decisions of a step after its commit, and undoes them otherwise."""

    def __init__(self, keeper: Keeper, sure: Callable[[], None]) -> None:
        super().__init__(keeper)
        #: The waiters to wake.
        self.told: deque[Waiter] = deque()
        self._sure = sure
        self._before: dict[Waiter, tuple[Any, ...]] = {}
        self._joined: set[Waiter] = set()

    def note(self, waiter: Waiter) -> None:
        """Remember the state of a waiter that is about to change."""
        if waiter not in self._before:
            self._before[waiter] = (waiter.hold, waiter.error, waiter.own, waiter.gone)

    def join(self, waiter: Waiter) -> None:
        self.note(waiter)
        self._joined.add(waiter)
        super().join(waiter)

    def take(self, waiter: Waiter) -> Hold | None:
        self.note(waiter)
        return super().take(waiter)

    def leave(self, waiter: Waiter) -> None:
        self.note(waiter)
        super().leave(waiter)

    def reclaim(self) -> None:
        if self.due <= time.monotonic():
            for waiter in self.untaken:
                self.note(waiter)
        super().reclaim()

    def _refuse(self, waiter: Waiter, reason: BudgetReason) -> None:
        if reason != "wait_expired":
            self._sure()
        self.note(waiter)
        super()._refuse(waiter, reason)

    def _decide(self, waiter: Waiter) -> None:
        self.note(waiter)
        super()._decide(waiter)

    def commit(self) -> None:
        """Keep the decisions: the step was committed."""
        if self.ready:
            self.told.extend(self.ready)
            self.ready.clear()
        if self._before:
            self._before.clear()
            self._joined.clear()

    def undo(self, error: LLMError | None = None) -> None:
        """Undo the decisions: all wait as before. Callers that the step had admitted get `error`, if there is one."""
        self.ready.clear()
        self._kept.clear()
        for waiter, before in self._before.items():
            granted = waiter.hold is not None
            waiter.hold, waiter.error, waiter.own, waiter.gone = before
            if granted and waiter.waiting and error is not None:
                waiter.error = error
                self.told.append(waiter)
        waiting = {waiter for waiter in (*self._queues, *self._before) if waiter.waiting}
        self._queues = Queues()
        for waiter in waiting - self._joined:
            self._queues.add(waiter)
        self._restore_untaken()
        self._look_who_waits()
        self._before.clear()
        self._joined.clear()

    def _restore_untaken(self) -> None:
        for waiter in [waiter for waiter in self.untaken if waiter.hold is None]:
            del self.untaken[waiter]
        for waiter in self._before:
            if waiter.hold is not None and waiter not in self.untaken:
                self._expect_taking(waiter)

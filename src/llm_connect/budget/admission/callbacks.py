"""Calls of users' callbacks after the lock is released: entries to the sink, and thresholds."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, TypeAlias

from llm_connect._validation import check_number
from llm_connect.budget.accounting.accounts import Scope
from llm_connect.budget.accounting.snapshot import BudgetSnapshot
from llm_connect.budget.admission.backoff_lock import TreeLock
from llm_connect.budget.admission.log import CALLBACK_FAILED, Owed, log_event
from llm_connect.errors import LLMConfigurationError

ThresholdCallback: TypeAlias = Callable[[BudgetSnapshot], object]
#: A callback, a function that makes its argument, and its subject.
Call: TypeAlias = tuple[Callable[[Any], object], Callable[[], Any], object]


class Threshold:
    """A part of the limits of one tracker, and the callback for the moment at which it is spent."""

    def __init__(
        self, tracker: Scope, part: float, callback: ThresholdCallback, snapshot: Callable[[], BudgetSnapshot]
    ) -> None:
        check_number("part", part, above=0)
        if not callable(callback):
            raise LLMConfigurationError("callback must be a function that takes a BudgetSnapshot.")
        self.tracker = tracker
        self.callback = callback
        #: Returns the argument of the callback.
        self.snapshot = snapshot
        #: The callback does not run again until the present part of the tracker's window ends after this moment.
        self.told_until: float = -math.inf
        # The decimal value as it is written: in floating point, 0.07 of 100 is more than 7.
        self._numerator, self._denominator = Decimal(str(part)).as_integer_ratio()

    @property
    def reached(self) -> bool:
        """True if that part of any limit is spent, and the callback has not run in this window."""
        window = self.tracker.window
        if window is not None and window.ends_at <= self.told_until:
            return False
        return any(
            account.limit is not None and account.spent * self._denominator >= account.limit * self._numerator
            for account in self.tracker.own_accounts
        )

    def rest(self) -> bool:
        """Rest until all present spend has left the window; False without a period, when it never fires again."""
        window = self.tracker.window
        if window is None:
            return False
        self.told_until = window.ends_at + window.kept
        return True


@dataclass(eq=False)
class Outbox:
    """A queue of callbacks that run outside of the lock, in order and one at a time.

    The failure of a callback is logged and affects no LLM call. A callback that uses the budget itself is not entered a
    second time before it returns. If a callback raises SystemExit or KeyboardInterrupt, the next call raises that:
    raised here, it would discard an answer that is paid for.

    A callback stays in the queue until it has returned, so an interruption may repeat it but never drops it. The next
    operation repeats a callback once if it ended by Ctrl-C, a RecursionError or a MemoryError.

    A store stages the callbacks of a step until its commit, so none runs for a step that is then undone.
    """

    #: SystemExit and KeyboardInterrupt exceptions of callbacks, which the next call raises.
    owed: Owed = field(default_factory=deque)
    calls: deque[Call] = field(default_factory=deque)
    #: The callbacks of the present step; None if they are queued at once.
    staged: deque[Call] | None = None
    _delivering: TreeLock = field(default_factory=TreeLock)
    #: The subject of the callback that will be repeated.
    _failed: object = None

    def put(self, callback: Callable[[Any], object], argument: Callable[[], Any], about: object) -> None:
        """Queue a call of `callback` with the result of `argument`, which is called at that time."""
        queue = self.calls if self.staged is None else self.staged
        queue.append((callback, argument, about))

    def has(self, about: object) -> bool:
        """True if a callback about this object is queued."""
        return any(each is about for _, _, each in (*self.calls, *(self.staged or ())))

    def commit(self) -> None:
        """Queue the staged callbacks: their step is committed."""
        while self.staged:
            # In this order, an interruption delivers it twice rather than never.
            self.calls.append(self.staged[0])
            self.staged.popleft()

    def start_over(self) -> None:
        """Drop all callbacks, and the lock of a thread that may be delivering one."""
        self._delivering = TreeLock()
        self.calls.clear()
        self.staged = deque()

    def deliver(self) -> None:
        """Run all queued callbacks, unless another thread or an outer frame is already doing so."""
        # A local of this name means that a frame is using the lock.
        if self._delivering.owned() and not self._delivering.left:
            return
        lock = self._delivering
        while self.calls:
            try:
                if not lock.take(False):
                    return
                while self.calls:
                    if not self._call(*self.calls[0]):
                        return
                    self.calls.popleft()
            finally:
                try:
                    lock.release()
                except BaseException as error:
                    lock.let_go(error)

    def _call(self, callback: Callable[[Any], object], argument: Callable[[], Any], about: object) -> bool:
        """Run a callback; False if it must be repeated."""
        try:
            callback(argument())
        except BaseException as error:
            log_event(CALLBACK_FAILED, self.owed)
            return self._over(error, about)
        return True

    def _over(self, error: BaseException, about: object) -> bool:
        """True if `error` has ended a callback. False, once, if the error may have come before the callback began."""
        again = self._failed is about
        if isinstance(error, SystemExit | KeyboardInterrupt) and not again:
            self.owed.append(error)
        if isinstance(error, MemoryError | RecursionError) or not isinstance(error, Exception | SystemExit):
            self._failed = about
            return again
        return True

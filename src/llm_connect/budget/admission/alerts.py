"""Thresholds: callbacks for the moment at which a part of a limit is spent."""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Decimal
from typing import TypeAlias

from llm_connect._validation import check_number
from llm_connect.budget.accounting.scope import Scope
from llm_connect.budget.accounting.snapshot import BudgetSnapshot
from llm_connect.errors import LLMConfigurationError

ThresholdCallback: TypeAlias = Callable[[BudgetSnapshot], object]


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

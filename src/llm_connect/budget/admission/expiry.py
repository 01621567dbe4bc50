"""What leaves the windows of a tree of trackers as time goes by."""

from __future__ import annotations

import math
import weakref
from collections import deque
from typing import TYPE_CHECKING

from llm_connect.budget.accounting.accounts import amount_of
from llm_connect.budget.accounting.journal import Plan
from llm_connect.budget.accounting.windows import Clock
from llm_connect.budget.admission.clocks import wall_clock
from llm_connect.types.amounts import NOTHING

if TYPE_CHECKING:
    from llm_connect.budget.accounting.scope import Scope
    from llm_connect.budget.admission.booking import Books


class Windows:
    """The windows of one tree of trackers; but for `add` and `due`, its caller holds the lock of the tree."""

    def __init__(self, clock: Clock = wall_clock) -> None:
        self._clock = clock
        self._trackers: deque[weakref.ref[Scope]] = deque()
        #: Those that were added since the last look.
        self._added: deque[weakref.ref[Scope]] = deque()
        # Between these moments nothing is due.
        self._since = self._until = math.inf

    def add(self, tracker: Scope) -> None:
        """Look after the window of `tracker`, for as long as anybody has it."""
        self._added.append(weakref.ref(tracker))

    @property
    def due(self) -> bool:
        """Whether `roll` has anything to look at."""
        return bool(self._added) or not self._since <= self._clock() < self._until

    @property
    def pause(self) -> float:
        """Seconds until `roll` has anything to look at."""
        return 0.0 if self.due else self._until - self._clock()

    def look_again(self) -> None:
        """Others may have changed a window."""
        self._since = math.inf

    def roll(self, books: Books) -> bool:
        """Let time go by for all windows; whether anything has left one."""
        if not self.due:
            return False
        while self._added:
            # In this order, so that an interruption forgets none; one that it has twice does no harm.
            self._trackers.append(self._added[0])
            self._added.popleft()
        # Until all have moved, all are due.
        self._since, moment = math.inf, self._clock()
        living = self.living()
        left = [self._move(tracker, moment, books) for tracker in living]
        until = min((tracker.window.due_at for tracker in living if tracker.window is not None), default=math.inf)
        self._since, self._until = moment, until
        return any(left)

    def living(self) -> list[Scope]:
        """The trackers that it looks after."""
        living = {tracker: ref for ref in self._trackers if (tracker := ref()) is not None}
        self._trackers = deque(living.values())
        return list(living)

    def _move(self, tracker: Scope, moment: float, books: Books) -> bool:
        window, own = tracker.window, tracker.own_accounts
        assert window is not None
        plan = Plan()
        gone = window.move(plan, moment, amount_of(own, "spent"), amount_of(own, "presumed"), books.number)
        for part in gone:
            if (part.spent, part.presumed) != (NOTHING, NOTHING):
                books.expire(plan, tracker, part.spent, part.presumed)
        tracker.accounts.journal.carry_out(plan)
        return bool(gone)


def seconds_until_open(tracker: Scope) -> float:
    """Seconds until the next of what is spent leaves a window of `tracker` or above it; infinite without any."""
    windows = [each.window for each in tracker.lineage if each.window is not None]
    return min((window.opens_at - window.clock() for window in windows), default=math.inf)

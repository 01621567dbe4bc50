"""Expiry: spend that leaves the windows of a tree of trackers as time passes."""

from __future__ import annotations

import math
import weakref
from collections import deque
from collections.abc import Iterable
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
    """The windows of one tree of trackers. Except for `add` and `due`, the caller has the lock of the tree."""

    def __init__(self, clock: Clock = wall_clock) -> None:
        self._clock = clock
        self._trackers: deque[weakref.ref[Scope]] = deque()
        #: Trackers added since the last `roll`.
        self._added: deque[weakref.ref[Scope]] = deque()
        # Between these moments nothing is due.
        self._since = self._until = math.inf

    def add(self, tracker: Scope) -> None:
        """Roll the window of `tracker` from now on, as long as the tracker exists."""
        self._added.append(weakref.ref(tracker))

    @property
    def due(self) -> bool:
        """True if `roll` has work to do."""
        return bool(self._added) or not self._since <= self._clock() < self._until

    def roll(self, books: Books) -> bool:
        """Move all windows to the present time; True if spend has left one of them."""
        if not self.due:
            return False
        while self._added:
            # In this order an interruption loses no tracker; a duplicate does no harm.
            self._trackers.append(self._added[0])
            self._added.popleft()
        # If this is interrupted, all windows stay due.
        self._since, moment = math.inf, self._clock()
        living = self._living()
        left = [self._move(tracker, moment, books) for tracker in living]
        until = min((tracker.window.due_at for tracker in living if tracker.window is not None), default=math.inf)
        self._since, self._until = moment, until
        return any(left)

    def move(self, trackers: Iterable[Scope], books: Books) -> bool:
        """Move the windows of these trackers alone to the present time; True if spend has left one of them."""
        windowed = [tracker for tracker in trackers if tracker.window is not None]
        moment = self._clock() if windowed else 0.0
        left = [self._move(tracker, moment, books) for tracker in windowed]
        return any(left)

    def _living(self) -> list[Scope]:
        """The trackers with a window that still exist."""
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
    """The seconds until spend next leaves a window of `tracker` or of one above it; infinite without windows."""
    windows = [each.window for each in tracker.lineage if each.window is not None]
    return min((window.opens_at - window.clock() for window in windows), default=math.inf)

"""Windows: limits per period, in sixtieths. Without I/O and without a timer.

A tracker with a period limits what is spent in it. For an hour, a day or a month of the calendar that is simple: at the
boundary, what was spent leaves. A `timedelta` is harder. "1,000,000 tokens in any 24 hours" should hold for every span
of 24 hours, wherever it begins, and four usual ways do not give that, or cost too much.

- Start over every 24 hours. A caller spends the limit before the boundary and once more behind it: twice in an hour.
- A token bucket that refills over 24 hours. A full bucket can be emptied and refilled within one span: again twice.
- Weigh the last period by how much of it is still in view. That assumes even spending, and errs when it was not.
- Keep the time of every booking. This is exact, but it costs memory for each call, and work for each call twice.

Instead the span is divided into 60 parts, and each part leaves as a whole. A part counts until it has been over for the
whole length of the period. So a booking counts for at least the period and for at most a sixtieth longer. At any moment
`spent` has everything of the last 24 hours in it. The limit therefore holds for every span, and the error, at most 24
minutes in a day, is on the safe side. At most 60 ended parts and the present one are kept, whatever the traffic is. A
calendar period is the same thing with a single part that leaves when it ends.

Bookings know nothing of this. They add to `spent`, as without a period. A window keeps the figures of the parts that
have ended, and the present part is the difference: `spent` minus those. `Window.move` freezes it when its time is over.

No thread waits for a boundary. An operation on a tree with windows looks at the clock before its own work
(`expiry.Windows.roll`), and compares it with two moments between which nothing is due. A caller that waits sleeps until
the next amount leaves a window on its path, if that is before its deadline (`expiry.seconds_until_open`). For
coroutines that wait for budget in a store, the worker of the store looks.

Each amount that leaves is booked, so that the entries of a tracker still add up to its `spent`: one entry takes it off
the tracker, and another gives it back to the parent, from whose figures it has not left (`Books.expire`).

Some cases need care.

- A correction must count where its entry counts, else a window could show less than was spent in it. Parts know their
  entries by number: times would differ by microseconds between a look at the clock and a booking. If the part has left
  already, the correction leaves at once (`Books._follow`).
- A clock that is set back by up to a part makes the present part longer. Set back further, it begins the part that it
  shows, with all that the present one has, and no part stays longer than that one will.
- Holds belong to no part. An amount counts from the moment it is booked, and an open hold counts in every window.
- A call that does not fit now may fit before its wait is over, because enough will have left. `accounts.opening`
  computes when, as if all holds ended without spending, so only calls that cannot fit in time are refused at once.

Rolling windows of buckets are an old way of counting events; Netflix's Hystrix counts failures with them. There the
oldest bucket is dropped when its place is needed, so the window is up to a bucket too short. A cap may only err the
other way.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import reduce
from typing import NamedTuple, TypeAlias

from llm_connect.budget.accounting.journal import Plan
from llm_connect.budget.accounting.periods import Period, kept_seconds, part_end
from llm_connect.types.amounts import NOTHING, Amount

#: A clock that says the moment in seconds since the epoch.
Clock: TypeAlias = Callable[[], float]


class Part(NamedTuple):
    """What was spent in a part of a period that has ended, and when it leaves the window."""

    expires_at: float
    #: The least id that its entries in the ledger may have; those of the next part begin at the next part's.
    first: int
    spent: Amount
    presumed: Amount


class Window:
    """The parts of one tracker's period; its caller holds the lock of the tree."""

    __slots__ = ("changed", "clock", "ends_at", "first", "kept", "parts", "period")

    def __init__(self, period: Period, clock: Clock) -> None:
        self.period: Period = period
        #: By which it moves.
        self.clock: Clock = clock
        #: How long a part counts after its end.
        self.kept: float = kept_seconds(period)
        #: When the present part ends.
        self.ends_at: float = part_end(period, clock())
        #: The least id of its entries.
        self.first: int = 0
        #: Those that have ended, oldest first.
        self.parts: list[Part] = []
        #: Whether anything here has changed since a store has written it.
        self.changed: bool = True

    @property
    def due_at(self) -> float:
        """When `move` has something to do."""
        return min(self.ends_at, self.parts[0].expires_at) if self.parts else self.ends_at

    @property
    def opens_at(self) -> float:
        """When the next of what is spent leaves; of a window that is empty, when that would which is spent now."""
        return next((part.expires_at for part in self.parts if part.spent != NOTHING), self.ends_at + self.kept)

    def move(self, plan: Plan, moment: float, spent: Amount, presumed: Amount, number: Callable[[], int]) -> list[Part]:
        """Let it be `moment` when `plan` is carried out; what leaves the window by that.

        spent, presumed: of the tracker until now. number: gives a number between the ids of before and the next ones.
        A clock that was set back by more than a part begins the part that it shows, with all that the present one has.
        """
        parts, ends_at = self.parts, self.ends_at
        if moment >= ends_at:
            first = number()
            parts = [*parts, self._present(spent, presumed)]
            ends_at = part_end(self.period, moment)
            plan.set(self, "first", first)
        elif part_end(self.period, part_end(self.period, moment)) < ends_at:
            ends_at = part_end(self.period, moment)
            last = ends_at + self.kept
            parts = [part._replace(expires_at=min(part.expires_at, last)) for part in parts]
        gone = [part for part in parts if part.expires_at <= moment]
        if gone:
            parts = parts[len(gone) :]
        if parts is not self.parts or ends_at != self.ends_at:
            plan.set(self, "parts", parts)
            plan.set(self, "ends_at", ends_at)
            plan.set(self, "changed", True)
        return gone

    def amend(self, plan: Plan, entry_id: int, difference: Amount, presumed: Amount) -> bool:
        """Let a correction count where the entry does that it amends; False when that has left."""
        if entry_id >= self.first:
            return True
        for place in reversed(range(len(self.parts))):
            part = self.parts[place]
            if part.first <= entry_id:
                less = part.presumed.minus(presumed)
                amended = part._replace(spent=part.spent.plus(difference), presumed=less)
                plan.set(self, "parts", [*self.parts[:place], amended, *self.parts[place + 1 :]])
                plan.set(self, "changed", True)
                return True
        return False

    def forget(self, number: int) -> None:
        """Be empty: what is spent was taken off the books, and entries begin at this number."""
        self.parts, self.first, self.changed = [], number, True

    def frees(self, place: int, spent: int, lacking: int) -> float | None:
        """When so much of what is spent in the unit of this place will have left; None for more than all of it."""
        for part in self.parts:
            left = part.spent[place]
            if lacking <= left:
                return part.expires_at
            lacking, spent = lacking - left, spent - left
        return self.ends_at + self.kept if lacking <= spent else None

    @property
    def state(self) -> tuple[float, int, str]:
        """What a store keeps of it beside its period."""
        rows = [(part.expires_at, part.first, *part.spent, *part.presumed) for part in self.parts]
        return self.ends_at, self.first, json.dumps(rows)

    def become(self, ends_at: float, first: int, parts: str) -> None:
        """Be as a store has kept it."""
        self.ends_at, self.first, self.changed = ends_at, first, False
        self.parts = [Part(row[0], row[1], Amount(*row[2:5]), Amount(*row[5:8])) for row in json.loads(parts)]

    def _present(self, spent: Amount, presumed: Amount) -> Part:
        """The present part, which ends."""
        spent = reduce(Amount.minus, (part.spent for part in self.parts), spent)
        presumed = reduce(Amount.minus, (part.presumed for part in self.parts), presumed)
        return Part(self.ends_at + self.kept, self.first, spent, presumed)

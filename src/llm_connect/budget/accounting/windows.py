"""Windows: limits per period, in sixtieths, without I/O and without a timer.

A tracker with a period limits the spend in that period. For an hour, a day or a month of the calendar that is simple:
at the boundary all spend leaves. A `timedelta` is harder. "1,000,000 tokens in any 24 hours" should hold for every span
of 24 hours, wherever it begins, and four usual ways do not give that, or cost too much.

- Start over every 24 hours. A caller spends the limit before the boundary and once more after it: twice in an hour.
- A token bucket that refills over 24 hours. A full bucket can be emptied and refilled within one span: again twice.
- Weigh the last period by how much of it is still in view. That assumes even spending, and errs when it was not.
- Keep the time of every booking. This is exact, but it costs memory for each call, and work for each call twice.

Instead a window divides the span into 60 parts, and each part leaves as a whole, one period after its end. So a booking
counts for at least the period and for at most a sixtieth longer. At any moment `spent` contains all spend of the last
24 hours. The limit therefore holds for every span, and the error, at most 24 minutes in a day, is on the safe side. A
window keeps at most 60 ended parts and the present one, however much traffic there is. A calendar period is the same
with a single part, which leaves as soon as it ends.

Bookings do not know about windows. They add to `spent`, as without a period. A window keeps the figures of the parts
that have ended, and the present part is the difference: `spent` minus those. `Window.move` fixes its figures when it
ends.

No thread waits for a boundary. An operation on a tree with windows reads the clock before its own work
(`booking.Windows.roll`), and compares it with two moments between which nothing is due. A caller that waits sleeps
until the next amount leaves a window on its path, if that is before its deadline (`booking.seconds_until_open`). For
coroutines that wait for budget in a store, the worker of the store reads the clock.

The ledger books each amount that leaves, so that the entries of a tracker still add up to its `spent`: one entry
subtracts it from the tracker, and another adds it to the parent, whose figures still contain it (`Books.expire`).

Some cases need care.

- A correction must count where its entry counts; otherwise a window could show less than was spent in it. Parts
  identify their entries by number, because a reading of the clock and the time of a booking may differ by microseconds.
  If the part has left already, the correction leaves at once (`Books._follow`).
- If the clock is set back by up to a part, the present part lasts longer. If it is set back further, the window begins
  the part that the clock shows, with all spend of the present one, and no part stays longer than that part will.
- Holds belong to no part. An amount counts from the moment it is booked, and an open hold counts in every window.
- A call that does not fit now may fit before its wait is over, because enough spend will have left. `accounts.opening`
  computes that time, as if all holds ended without spending, so only calls that cannot fit in time are refused at once.

Rolling windows of buckets are an old way of counting events; Netflix's Hystrix counts failures with them. Hystrix drops
the oldest bucket when it needs the space, so its window is up to a bucket too short. A cap may only err the other way.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import reduce
from typing import Literal, NamedTuple, TypeAlias

from llm_connect.budget.accounting.journal import Plan
from llm_connect.types.amounts import NOTHING, Amount

#: A calendar period starts over at its boundary in UTC; a `timedelta` means every span of that length.
Period: TypeAlias = Literal["hour", "day", "month"] | timedelta

#: The number of parts in a `timedelta`; each part leaves the window as a whole.
PARTS = 60
_SECONDS = {"hour": 3_600, "day": 86_400}
PHRASES = {"hour": "an hour", "day": "a day", "month": "a month"}
_MICROSECOND = timedelta(microseconds=1)


def part_end(period: Period, now: float) -> float:
    """The end of the part that contains `now`, always after `now`; a calendar period is a single part."""
    if isinstance(period, timedelta):
        step = -(-(period // _MICROSECOND) // PARTS)
        return (math.floor(now * 1e6) // step + 1) * step / 1e6
    if period == "month":
        day = datetime.fromtimestamp(now, UTC)
        return datetime(day.year + day.month // 12, day.month % 12 + 1, 1, tzinfo=UTC).timestamp()
    seconds = _SECONDS[period]
    return (now // seconds + 1) * seconds


def kept_seconds(period: Period) -> float:
    """The seconds that a part counts after its end, so that a limit holds for every span of the period's length."""
    return period.total_seconds() if isinstance(period, timedelta) else 0.0


def describe_period(period: Period) -> str:
    """A period as text after a limit: `a day`, `in any 24 hours`."""
    if not isinstance(period, timedelta):
        return PHRASES[period]
    for unit in ("days", "hours", "minutes"):
        number, rest = divmod(period, timedelta(**{unit: 1}))
        if number > 1 and not rest:
            return f"in any {number} {unit}"
    seconds = period.total_seconds()
    return "in any second" if seconds == 1 else f"in any {seconds:g} seconds"


def period_text(period: Period) -> str:
    """A period in the format of the stores: `day`, or `86400000000 us`."""
    return f"{period // _MICROSECOND} us" if isinstance(period, timedelta) else period


def period_of(text: str) -> Period:
    """The inverse of `period_text`."""
    number, _, unit = text.partition(" ")
    return timedelta(microseconds=int(number)) if unit else text  # type: ignore[return-value]


def describe_moment(moment: float) -> str:
    """A time as text, rounded up to a second: `2026-11-25 00:00:00 UTC`."""
    return f"{datetime.fromtimestamp(math.ceil(moment), UTC):%Y-%m-%d %H:%M:%S} UTC"


#: Returns the present time in seconds since the epoch.
Clock: TypeAlias = Callable[[], float]


class Part(NamedTuple):
    """The spend in one ended part of a period, and the time at which it leaves the window."""

    expires_at: float
    #: The lowest id of its ledger entries; its ids end before the `first` of the next part.
    first: int
    spent: Amount
    presumed: Amount


class Window:
    """The parts of one tracker's period; its caller holds the lock of the tree."""

    __slots__ = ("changed", "clock", "ends_at", "first", "kept", "parts", "period")

    def __init__(self, period: Period, clock: Clock) -> None:
        self.period: Period = period
        #: The clock by which the window moves.
        self.clock: Clock = clock
        #: The seconds that a part counts after its end.
        self.kept: float = kept_seconds(period)
        #: The end of the present part.
        self.ends_at: float = part_end(period, clock())
        #: The lowest id of the present part's entries.
        self.first: int = 0
        #: The ended parts, oldest first.
        self.parts: list[Part] = []
        #: True if the window has changed since a store last wrote it.
        self.changed: bool = True

    @property
    def due_at(self) -> float:
        """The time from which `move` will change something."""
        return min(self.ends_at, self.parts[0].expires_at) if self.parts else self.ends_at

    @property
    def opens_at(self) -> float:
        """The time at which spend next leaves; for an empty window, the time at which spend of now would leave."""
        return next((part.expires_at for part in self.parts if part.spent != NOTHING), self.ends_at + self.kept)

    def move(self, plan: Plan, moment: float, spent: Amount, presumed: Amount, number: Callable[[], int]) -> list[Part]:
        """Plan to move the window to `moment`, and return the parts that leave it.

        spent, presumed: the present figures of the tracker. number: returns an id above all past entries and not above
        any future one.
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
        """Plan to count a correction in the part of the entry that it amends; False if that part has left."""
        if entry_id >= self.first:
            return True
        for index in reversed(range(len(self.parts))):
            part = self.parts[index]
            if part.first <= entry_id:
                less = part.presumed.minus(presumed)
                amended = part._replace(spent=part.spent.plus(difference), presumed=less)
                plan.set(self, "parts", [*self.parts[:index], amended, *self.parts[index + 1 :]])
                plan.set(self, "changed", True)
                return True
        return False

    def forget(self, number: int) -> None:
        """Empty the window after a reset of the budget; new entries start at `number`."""
        self.parts, self.first, self.changed = [], number, True

    def frees(self, index: int, spent: int, lacking: int) -> float | None:
        """The time by which `lacking` of `spent`, in the unit of this index, will have left; None if it never will."""
        for part in self.parts:
            left = part.spent[index]
            if lacking <= left:
                return part.expires_at
            lacking, spent = lacking - left, spent - left
        return self.ends_at + self.kept if lacking <= spent else None

    @property
    def state(self) -> tuple[float, int, str]:
        """The state that a store keeps beside the period."""
        rows = [(part.expires_at, part.first, *part.spent, *part.presumed) for part in self.parts]
        return self.ends_at, self.first, json.dumps(rows)

    def become(self, ends_at: float, first: int, parts: str) -> None:
        """Restore the state that a store has kept."""
        self.ends_at, self.first, self.changed = ends_at, first, False
        self.parts = [Part(row[0], row[1], Amount(*row[2:5]), Amount(*row[5:8])) for row in json.loads(parts)]

    def _present(self, spent: Amount, presumed: Amount) -> Part:
        """The present part, as it is kept when it ends."""
        spent = reduce(Amount.minus, (part.spent for part in self.parts), spent)
        presumed = reduce(Amount.minus, (part.presumed for part in self.parts), presumed)
        return Part(self.ends_at + self.kept, self.first, spent, presumed)

"""A model of budgets that is slow and obviously right."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property

from llm_connect.budget.accounting.prices import nano_usd_of
from llm_connect.budget.accounting.snapshot import BudgetSnapshot
from llm_connect.budget.accounting.windows import Period
from llm_connect.budget.admission.holds import Hold
from llm_connect.budget.admission.wait_queue import Waiter
from llm_connect.budget.tracker import BudgetTracker
from llm_connect.types.amounts import Amount

UNITS = (0, 1, 2)
START = 1_795_477_000.25


@dataclass(eq=False)
class Node:
    """The model of a tracker."""

    tracker: BudgetTracker
    parent: Node | None
    limits: list[int | None]
    closed_itself: bool = False
    allotment: bool = False
    period: Period | None = None

    def counts_until(self, moment: float) -> float:
        """The moment at which spend booked at `moment` leaves the window."""
        if self.period is None:
            return math.inf
        part = 3_600 if self.period == "hour" else self.period.total_seconds() / 60  # type: ignore[union-attr]
        end = math.floor(moment / part) * part + part
        return end if self.period == "hour" else end + 60 * part

    @cached_property
    def above(self) -> list[Node]:
        return [] if self.parent is None else [self.parent, *self.parent.above]

    def path(self) -> list[Node]:
        return [self, *self.above]

    @property
    def closed(self) -> bool:
        return any(node.closed_itself for node in self.path())

    def needs(self, amount: Amount) -> list[tuple[Node, int, int]]:
        """The amount that a call needs from each tracker on its path: nothing above an allotment."""
        asked = []
        for unit in UNITS:
            need = amount[unit]
            for node in self.path():
                asked.append((node, unit, need))
                need = 0 if node.allotment and node.limits[unit] is not None else need
        return asked


@dataclass(eq=False)
class Alone:
    """The place of a booking that counts in one tracker only."""

    node: Node

    def path(self) -> list[Node]:
        return [self.node]


Booked = tuple[Node | Alone, Amount, float]


@dataclass(eq=False)
class Kept:
    """The model of an open hold."""

    hold: Hold | None
    node: Node
    bound: Amount
    dispatched: bool = False


@dataclass(eq=False)
class Caller:
    """The model of a waiter."""

    node: Node
    amounts: dict[int, Amount]
    own: list[Kept]
    arrival: int = 0
    patience: float = 0.0
    waiter: Waiter | None = None
    kept: Kept | None = None
    error: str | None = None

    @property
    def smallest(self) -> Amount:
        return self.amounts[min(self.amounts)]


@dataclass
class Model:
    """Bookings, open holds and the queue as plain lists; each reading adds all figures up."""

    nodes: list[Node] = field(default_factory=list)
    now: float = START
    #: A correction has the moment of the booking that it corrects.
    bookings: list[Booked] = field(default_factory=list)
    presumptions: dict[int, tuple[Node, Amount, float]] = field(default_factory=dict)
    holds: list[Kept] = field(default_factory=list)
    queue: list[Caller] = field(default_factory=list)

    def correct(self, node: Node, difference: Amount, when: float) -> None:
        """An allotment gets nothing back once the spend has left a window above it."""
        self.bookings.append((node, difference, when))
        for at in node.path():
            if at.allotment and any(above.counts_until(when) <= self.now for above in at.above):
                limited = zip(difference, at.limits, strict=True)
                returned = (0 if limit is None else min(0, figure) for figure, limit in limited)
                self.bookings.append((Alone(at), Amount().minus(Amount(*returned)), when))

    def spent(self, node: Node, unit: int) -> int:
        return self.counting(self.bookings, node, unit, self.now)

    def presumed(self, node: Node, unit: int) -> int:
        return self.counting(self.presumptions.values(), node, unit, self.now)

    def counting(self, booked: Iterable[Booked], node: Node, unit: int, moment: float) -> int:
        """The spend that is in the window of `node` at `moment`."""
        within = (amount for at, amount, when in booked if node in at.path() and node.counts_until(when) > moment)
        return sum(amount[unit] for amount in within)

    def held(self, node: Node, unit: int) -> int:
        return sum(kept.bound[unit] for kept in self.holds if node in kept.node.path())

    def allotted(self, node: Node, unit: int) -> int:
        """The unused part of the allotments directly below, with no other allotment in between."""
        allotments = [at for at in self.nodes if at.allotment and at.limits[unit] is not None and node in at.above]
        return sum(self.aside(at, unit) for at in allotments if not any(other in at.above for other in allotments))

    def aside(self, node: Node, unit: int) -> int:
        limit = node.limits[unit]
        return 0 if limit is None else max(0, limit - self.spent(node, unit) - self.held(node, unit))

    def own(self, caller: Caller, node: Node, unit: int) -> int:
        return sum(kept.bound[unit] for kept in caller.own if kept in self.holds and node in kept.node.path())

    def breached(self, node: Node, unit: int) -> bool:
        limit = node.limits[unit]
        return limit is not None and self.spent(node, unit) > limit

    def over(self, node: Node, unit: int, need: int, kept: int, moment: float | None = None) -> bool:
        limit = node.limits[unit]
        spent = self.counting(self.bookings, node, unit, self.now if moment is None else moment)
        if limit is None or not (need > 0 or spent > limit):
            return False
        return spent + kept + need > limit

    def opens_at(self, node: Node, amount: Amount) -> float | None:
        """The first moment at which `amount` fits with no hold and no allotment open; None if it never does."""
        leaving = {at.counts_until(when) for _, _, when in self.bookings for at in node.path()}
        for moment in [self.now, *sorted(leaving - {math.inf})]:
            asked = ((at, unit, need, 0) for at, unit, need in node.needs(amount))
            if moment >= self.now and not any(self.over(*one, moment) for one in asked):
                return moment
        return None

    def short(self, node: Node, amount: Amount) -> set[tuple[Node, int]]:
        return {
            (at, unit)
            for at, unit, need in node.needs(amount)
            if self.over(at, unit, need, self.held(at, unit) + self.allotted(at, unit))
        }

    def obstacle(self, caller: Caller) -> str | None:
        if caller.node.closed:
            return "closed"
        opens_at = self.opens_at(caller.node, caller.smallest)
        if opens_at is None:
            return "never_fits"
        return "window_full" if opens_at - self.now > caller.patience else None

    def scan(self) -> None:
        for caller in self.queue:
            caller.error = self.obstacle(caller)
        self.queue = [caller for caller in self.queue if caller.error is None]
        blocked: set[tuple[Node, int]] = set()
        for caller in sorted(self.queue, key=lambda caller: caller.arrival):
            stopped = [
                (at, unit)
                for at, unit, need in caller.node.needs(caller.smallest)
                if need and (at, unit) in blocked and not self.own(caller, at, unit)
            ]
            if not stopped and not self.short(caller.node, caller.smallest):
                self.grant(caller)
            else:
                blocked |= self.short(caller.node, caller.smallest)

    def waits_for_itself(self, caller: Caller) -> bool:
        lacking = self.short(caller.node, caller.smallest)
        return bool(lacking) and all(
            0 < self.held(*one) + self.allotted(*one) <= self.own(caller, *one) for one in lacking
        )

    def grant(self, caller: Caller) -> None:
        limit = max(limit for limit, amount in caller.amounts.items() if not self.short(caller.node, amount))
        caller.kept = Kept(None, caller.node, caller.amounts[limit])
        self.holds.append(caller.kept)
        self.queue.remove(caller)

    def join(self, caller: Caller, *, may_wait: bool) -> None:
        caller.error = self.obstacle(caller)
        if caller.error is None:
            self.queue.append(caller)
            self.scan()
        if caller in self.queue and not may_wait:
            self.leave(caller, "refused")

    def leave(self, caller: Caller, error: str) -> None:
        self.queue.remove(caller)
        caller.error = error
        self.scan()

    def end(self, kept: Kept, booked: Amount | None) -> None:
        self.holds.remove(kept)
        if booked is not None:
            self.bookings.append((kept.node, booked, self.now))
        self.scan()


def limits_of(snapshot: BudgetSnapshot) -> list[int | None]:
    """The limits of a tracker in the units of the model, USD in nano-USD."""
    usd = snapshot.total_usd
    return [snapshot.total, snapshot.total_calls, None if usd is None else nano_usd_of("total_usd", usd)]

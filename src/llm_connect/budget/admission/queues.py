"""The groups of the wait queue, the order in which it admits callers, and the reason why none of them starves.

A call whose bound does not fit waits until others end. Many calls may wait at once, for different amounts, on different
trackers and in different units, and each end frees something for some of them. The queue decides which of them gets it.

Three simpler queues do not work.

- Strict first in, first out. A large call that waits for tokens of one child would stop the calls of all other
  children, which need nothing of that child. Their waits would end in refusals, although they fit.
- Admit every caller that fits. Small calls take each freed amount at once. A large call, which needs several of them
  together, may wait for ever.
- Wake all callers and let them try again. The order is random, and each of 10,000 ends wakes 10,000 callers.

The rule lies between the first two: a caller that does not fit blocks exactly the accounts that it is short of. A scan
(`Line.scan`) starts with no account blocked and looks at the waiters in order of arrival. It admits a waiter if the
waiter fits and needs no blocked account; otherwise it blocks the accounts that the waiter is short of, until the scan
ends. A later caller passes if it needs none of them. A new call bypasses the queue only while nobody waits, or in place
of a hold that it gives back, and a retried call keeps the arrival number of its first attempt.

This is sufficient. Take the oldest waiter that is short of some account. While it is short, no later caller gets
anything from that account, so the number of open holds there falls (each may grow once, just before it is sent). Holds
end: their owners settle them or lose them, or the lease of their process expires. Each end frees the hold or books it
as spent. So after finitely many ends the waiter fits there, or can never fit because too much is spent. In the second
case `hopeless` finds it, and it is refused at once unless a window opens in time. By then it may be short of another
account, further up. That adds one more round for each level and no more: a caller that needs a tracker also needs those
above it, up to the allotment around it, so a blocked account protects all accounts below it.

The argument has two gaps, and only the deadline of the wait bounds them.

- Units are blocked one by one. Calls that cost no money pass a caller that is short of money. If they take the tokens
  that it needs as well, it waits for tokens next.
- A caller may overtake a waiter that is short of an account on which the caller itself has a hold. The waiter may be
  waiting for that hold, and behind it both would deadlock. So a caller that always keeps a hold can overtake again and
  again.

A waiter whose event loop is blocked cannot leave when its wait is over. A second later a scan refuses it, so that it no
longer blocks other callers.

A scan that looks at every waiter would be too slow, so the queue consists of groups. The members of a group wait on the
same tracker and need the same units. If the first of them has to wait, the others have to wait as well, because they
need the account that stopped it. A larger one may be short of more accounts and must block these, too. So a scan looks
at the first of each group, and at the others only while the largest demand of the group may be short of an account that
is not blocked yet. 10,000 equal waiters cost as much as one.

Each process that shares a store runs its own queue. A `RemoteWaiter` stands for a caller of another process: only that
process admits it, but it keeps its place here, and a scan sets aside the amount that it needs.

Batch schedulers have the same problem; there, small jobs that pass a large one are called backfilling (Mu'alem and
Feitelson, 2001). Schedulers predict how long a job runs. A budget cannot predict that, so a later call never takes from
an account that an earlier one is short of.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Hashable, Iterator
from typing import TYPE_CHECKING
from weakref import WeakSet

from llm_connect.budget.accounting.accounts import Path
from llm_connect.budget.admission.waiters import RemoteWaiter, Waiter, doomed, fits_by
from llm_connect.types.amounts import NOTHING, Amount

if TYPE_CHECKING:
    from llm_connect.budget.accounting.scope import Scope


class Queues:
    """Waiters in groups; if the first waiter of a group has to wait, the others have to wait, too.

    A group has one tracker and one set of needed units, so its other members need every account that can stop the first
    one. A caller with open holds forms its own group, because it may overtake. So does a caller of another process,
    because callers behind it may pass once it fits.
    """

    def __init__(self) -> None:
        self._groups: dict[Hashable, _Group] = {}
        #: All waiters that have arrived and still exist.
        self._members: WeakSet[Waiter] = WeakSet()

    def __bool__(self) -> bool:
        return bool(self._groups) and any(group.first() is not None for group in self._groups.values())

    def __iter__(self) -> Iterator[Waiter]:
        for group in self._groups.values():
            yield from group.waiters()

    @property
    def trackers(self) -> list[Scope]:
        """The tracker of each group; a tracker with several groups appears several times."""
        return [group.tracker for group in self._groups.values()]

    @property
    def members(self) -> list[Waiter]:
        """The waiters that have arrived and not left, in order of arrival, even with a grant or an error already."""
        return sorted(waiter for waiter in self._members if not waiter.gone)

    def add(self, waiter: Waiter) -> None:
        self._members.add(waiter)
        self._group(waiter)

    def rebuild(self) -> None:
        """Build all groups again from the waiters and their present demands."""
        self._groups = {}
        for waiter in self.members:
            if waiter.waiting:
                self._group(waiter)

    def _group(self, waiter: Waiter) -> None:
        amount = waiter.demand.amount
        needs = tuple(bool(value) for value in amount)
        alone = bool(waiter.own) or isinstance(waiter, RemoteWaiter)
        key = (waiter.tracker, needs, waiter if alone else None)
        self._groups.setdefault(key, _Group(waiter.tracker)).add(waiter)

    def scan(self, ask: Callable[[Waiter], None], may_block: Callable[[Path, Amount], bool]) -> None:
        """Call `ask`, in order of arrival, with each waiter that may be admitted or may block others.

        may_block: returns True if such a demand is short of an account that is not blocked yet.
        """
        for waiter in heapq.merge(*(group.line(may_block) for group in self._groups.values())):
            ask(waiter)
        self._groups = {key: group for key, group in self._groups.items() if group.first()}

    def first(self, number: int) -> list[Waiter]:
        """The first waiter of each group, without those of other processes; at most `number`, in order of arrival."""
        firsts = (group.first() for group in self._groups.values())
        return heapq.nsmallest(number, (one for one in firsts if one and not isinstance(one, RemoteWaiter)))

    def hopeless(self) -> list[Waiter]:
        """The waiters that can no longer fit, however many holds end."""
        return [waiter for group in self._groups.values() for waiter in group.hopeless()]


class _Group:
    def __init__(self, tracker: Scope) -> None:
        self.tracker = tracker
        self._path = tracker.accounts
        self._heap: list[Waiter] = []
        self._largest = NOTHING
        self._earliest = math.inf

    def add(self, waiter: Waiter) -> None:
        heapq.heappush(self._heap, waiter)
        self._measure(waiter)

    def first(self) -> Waiter | None:
        while self._heap and not self._heap[0].waiting:
            heapq.heappop(self._heap)
        return self._heap[0] if self._heap else None

    def waiters(self) -> list[Waiter]:
        return [waiter for waiter in self._heap if waiter.waiting]

    def line(self, may_block: Callable[[Path, Amount], bool]) -> Iterator[Waiter]:
        """Yield waiters in order until one has to wait, and then the others, as long as one of them may block more."""
        while (first := self.first()) is not None:
            yield first
            if first.waiting:
                break
        if may_block(self._path, self._largest):
            for waiter in sorted(self._measured())[1:]:
                if not may_block(self._path, self._largest):
                    return
                yield waiter

    def hopeless(self) -> list[Waiter]:
        """The waiters that cannot fit in time. If the largest demand fits by the earliest deadline, there are none."""
        if fits_by(self._earliest, self._path, self._largest):
            return []
        return [waiter for waiter in self._measured() if doomed(waiter)]

    def _measured(self) -> list[Waiter]:
        """All waiters, after computing the largest demand and the earliest deadline again."""
        waiters = self.waiters()
        self._largest, self._earliest = NOTHING, math.inf
        for waiter in waiters:
            self._measure(waiter)
        return waiters

    def _measure(self, waiter: Waiter) -> None:
        self._largest = _larger(self._largest, waiter.demand.smallest)
        self._earliest = min(self._earliest, waiter.patient_until)


def _larger(one: Amount, other: Amount) -> Amount:
    return Amount(*map(max, one, other))

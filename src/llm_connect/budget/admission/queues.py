"""The wait queue: callers in order of arrival, and why nobody starves.

A call whose bound does not fit waits until others end. Many calls may wait at once, for different amounts, on different
trackers and in different units, and each end frees something for some of them. The queue decides who gets it.

Three simpler queues do not work.

- Strict first in, first out. A large call that waits for tokens of one child would stop the calls of all other
  children, which need nothing of that child. They would be refused when their wait is over, although they fit.
- Let in whoever fits. Small calls take each freed amount at once. A large call, which needs several of them together,
  may wait for ever.
- Wake everybody and let them try again. The order is chance, and each of 10,000 ends wakes 10,000 callers.

The rule lies between the first two: a caller that does not fit blocks exactly the accounts that it is short of. A scan
(`Line.scan`) starts with no account blocked and looks at the waiters in order of arrival. It lets a waiter in if the
waiter fits and needs no blocked account; otherwise it blocks the accounts that the waiter is short of, until the scan
ends. A later caller passes if it needs none of them. A new call goes round the queue only while nobody waits, or in
place of a hold that it gives back, and a retried call keeps the arrival number of its first attempt.

Why that is enough: take the oldest waiter that is short of some account. While it is short, no later caller gets
anything from that account, so the open holds there become fewer (each may grow once, just before it is sent). Holds
end: their owners settle them or lose them, or the lease of their process runs out. Each end frees the hold or books it
as spent. So after finitely many ends the waiter fits there, or can never fit because too much is spent. In the second
case `hopeless` finds it, and it is refused at once unless a window opens in time. By then it may be short of another
account, further up. That adds one more round for each level and no more: whoever needs a tracker also needs those above
it, up to the slice around it, so a blocked account protects all accounts below it.

The argument has two gaps, and only the deadline of the wait bounds them.

- Units are blocked one by one. A caller that is short of money is passed by calls that cost no money. If these take
  the tokens that it needs as well, it waits for tokens next.
- A caller passes a waiter that is short of an account on which the caller itself holds something. The waiter may be
  waiting for that very hold, and behind it both would wait for ever. So a caller that always keeps a hold can pass
  again and again.

A waiter whose event loop stands still cannot leave when its wait is over. A second later a scan refuses it, so that it
blocks nobody any longer.

A scan that looks at every waiter would be too slow. Hence the groups below: the members of a group wait on the same
tracker and need the same units. If the first of them has to wait, the others have to as well, because they need the
account that stopped it. A larger one may be short of more accounts and must block these, too. So a scan looks at the
first of each group, and behind it only while the largest demand of the group may be short of an account that is not
blocked yet. 10,000 equal waiters cost as much as one.

Processes that share a store run this queue each for itself. A `RemoteWaiter` stands for a caller of another process:
only its own process lets it in, but it keeps its place here, and a scan sets aside the amount that it needs.

Batch schedulers have the same problem, and call it backfilling when small jobs pass a large one (Mu'alem and Feitelson,
2001). They predict how long a job runs. Nobody can predict that here, so a later call never takes from an account that
an earlier one is short of.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Hashable, Iterator
from weakref import WeakSet

from llm_connect.budget.accounting.accounts import Path
from llm_connect.budget.admission.waiters import RemoteWaiter, Waiter, doomed, fits_by
from llm_connect.types.amounts import NOTHING, Amount


class Queues:
    """Waiters, grouped so that where the first of a group has to wait, all behind it have to.

    A group is one path of accounts and one set of needed units: whatever pair of tracker and unit stops the first,
    the others need too. So a scan looks at the first of each group, and behind it only where a larger demand may be
    short of more than the first: 10,000 equal waiters cost no more than one. A caller with open holds of its own is a
    group of its own, since it may pass; so is one in another process, since one behind it may pass once it fits.
    """

    def __init__(self) -> None:
        self._groups: dict[Hashable, _Group] = {}
        #: All that have come and that anybody still has.
        self._members: WeakSet[Waiter] = WeakSet()

    def __bool__(self) -> bool:
        return bool(self._groups) and any(group.first() is not None for group in self._groups.values())

    def __iter__(self) -> Iterator[Waiter]:
        for group in self._groups.values():
            yield from group.waiters()

    @property
    def members(self) -> list[Waiter]:
        """Those that have come and have not gone, in order of arrival, whether they wait or not."""
        return sorted(waiter for waiter in self._members if not waiter.gone)

    def add(self, waiter: Waiter) -> None:
        self._members.add(waiter)
        self._group(waiter)

    def rebuild(self) -> None:
        """Group those that wait by what they ask for, whatever the groups are."""
        self._groups = {}
        for waiter in self.members:
            if waiter.waiting:
                self._group(waiter)

    def _group(self, waiter: Waiter) -> None:
        amount = waiter.demand.amount
        needs = tuple(bool(value) for value in amount)
        alone = bool(waiter.own) or isinstance(waiter, RemoteWaiter)
        key = (waiter.tracker, needs, waiter if alone else None)
        self._groups.setdefault(key, _Group(waiter.tracker.accounts)).add(waiter)

    def scan(self, ask: Callable[[Waiter], None], may_block: Callable[[Path, Amount], bool]) -> None:
        """Ask in order of arrival those that may be let in, or may block others.

        `may_block` says whether one with such a demand is short of anything that is not blocked yet.
        """
        for waiter in heapq.merge(*(group.line(may_block) for group in self._groups.values())):
            ask(waiter)
        self._groups = {key: group for key, group in self._groups.items() if group.first()}

    def first(self, number: int) -> list[Waiter]:
        """The first of each group that wait in this process; so many of them at most, in order of arrival."""
        firsts = (group.first() for group in self._groups.values())
        return heapq.nsmallest(number, (one for one in firsts if one and not isinstance(one, RemoteWaiter)))

    def hopeless(self) -> list[Waiter]:
        """The waiters that can no longer fit, however many holds end."""
        return [waiter for group in self._groups.values() for waiter in group.hopeless()]


class _Group:
    def __init__(self, path: Path) -> None:
        self._path = path
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
        """In order, until one has to wait; then so have all behind it, which are seen while they may block others."""
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
        """Looks at each waiter only when the largest demand, with the earliest deadline, says that one may be."""
        if fits_by(self._earliest, self._path, self._largest):
            return []
        return [waiter for waiter in self._measured() if doomed(waiter)]

    def _measured(self) -> list[Waiter]:
        """All waiters, after a new look at how large their demands are."""
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

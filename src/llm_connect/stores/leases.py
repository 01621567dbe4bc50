"""Leases: how the holds of a process end when it cannot end them, and how its late ends still count.

A process that shares a budget may die at any moment, by `kill -9` or a power cut. Its holds stay in the store, and
nobody is left to end them. Some other process has to, but it cannot know that the first one is dead: it may be slow,
stopped by a debugger, asleep with its laptop, or cut off from the server. So the rules must also be right for a process
that was taken for dead and comes back.

Other ways to notice a death do not fit.

- Check that the process id still exists. That works on one machine only, and ids are reused.
- End the holds with the connection. Connections break without a death, and a file has no server that would notice.
- A time limit for each hold. A thousand open calls would write a thousand rows every few seconds, and a call that takes
  longer than its limit would be ended while it runs.

So a lease belongs to a process: one row with the moment at which it ends. All holds of the process point to it. The
transactions of the process renew it as they go, and the worker does when a third of its time has passed without any
(`RENEWALS`). A process without holds and allotments gives it up. Every process looks for expired leases, and ends them
with their holds. A reserved hold is released, since nothing was sent. A dispatched hold is presumed, since the provider
may bill it (`budget/admission/booking.py`); with `on_unknown="release"` it is released.

**Fencing.** The dangerous process is one that was stopped for longer than its lease, and continues as if nothing had
happened. Its objects still say "reserved", while others were given that budget. Comparing clocks is not enough, because
the process can be stopped between the comparison and the next step. Therefore the number of a lease is never reused,
and every transaction checks that the own lease is still in the store. If it is not, the process continues under a new
one. Each hold remembers its `Lease`, so from that moment `StoredHold.lost` is true for all holds under the old one, and
they cannot be dispatched any more: `dispatch` raises before a request leaves, and an adapter reserves again. Fencing
ends there. The provider knows no lease numbers, so a request that was dispatched before cannot be called back. This is
why a dispatched hold counts as spent.

**Late ends.** The process that comes back may still learn the cost of such a request. Its `settle` must count, and must
count once, although the hold was ended for it. `end_late` looks up the entry by which that was done.

- The entry is an open presumption, and the late end knows more: it corrects the entry, by the difference.
- The entry released the hold, and the call has cost something after all: the late end is recorded as spent.
- The presumption was corrected already, or the late end is a presumption itself: nothing more is booked.

The clock is the machine's for a file, whose processes all run there, and the server's for Redis. A fork has no part in
the lease of its parent; its first hold takes a new one.

Chubby and ZooKeeper end the sessions of their clients in this way, and Kleppmann explains why a lock that expires needs
a fencing number ("How to do distributed locking", 2016). Late ends are our own: a lock service may forget a client that
comes too late, but a provider's bill arrives all the same.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from llm_connect.budget.accounting.demands import PlainDemand
from llm_connect.budget.admission.holds import RELEASED, Ending
from llm_connect.stores.holds import StoredHold
from llm_connect.stores.lease import Lease
from llm_connect.stores.serialization import Row, facts_of
from llm_connect.types.amounts import NOTHING, Amount

if TYPE_CHECKING:
    from llm_connect.stores.ports import StoreParts

#: The process renews its lease three times before it would end.
RENEWALS = 3
#: The interval in which the worker looks for lost holds, whose finalizers cannot wake it.
_LOOK_SECONDS = 1.0


class Leases(ABC):
    """The lease of this process, and the end of holds whose lease has ended."""

    def __init__(self, session: StoreParts, seconds: float) -> None:
        self._session = session
        self.seconds = seconds
        self.own: Lease | None = None
        #: The number of open holds under the own lease.
        self.open_holds: int = 0
        self._before: tuple[Lease | None, int] = (None, 0)

    @property
    @abstractmethod
    def due(self) -> bool:
        """True if this process has to renew its lease."""

    @abstractmethod
    def have(self) -> Lease:
        """Return this process's lease; take a new one if it has none."""

    @abstractmethod
    def give_up(self) -> None:
        """End the own lease and all holds under it."""

    @abstractmethod
    def _left(self, hold: StoredHold) -> tuple[int, str, bool] | None:
        """Return the number and outcome of the entry that ended a lost hold, and True if it is an open presumption."""

    @property
    def pause(self) -> float:
        """The seconds until the worker should look again."""
        return min(_LOOK_SECONDS, self.seconds / RENEWALS / 2)

    @property
    def needed(self) -> bool:
        """True if holds or allotments are open under this process's lease."""
        own = self.own
        return self.open_holds > 0 or (own is not None and self._session.trackers.keeps_allotments(own.number))

    def commit(self) -> None:
        """Keep the changes: the step was committed."""
        self._before = (self.own, self.open_holds)

    def undo(self) -> None:
        """Undo the changes: the step was rolled back."""
        self.own, self.open_holds = self._before

    def forget(self) -> None:
        """Forget the lease in a forked process: it belongs to the parent."""
        self.own, self.open_holds, self._before = None, 0, (None, 0)

    def end_late(self, hold: StoredHold, ending: Ending) -> None:
        """End a lost hold: correct the entry by which another process has ended it."""
        left = self._left(hold)
        hold.leave_row()
        if left is None:
            return
        hold.entry_id, outcome, is_open = left
        hold.ending = ending
        if is_open and ending.outcome != "presumed":
            self._session.books.correct(hold.entry_id, ending.amount)
        elif outcome == "released" and ending.amount != NOTHING:
            self._session.books.record(hold.tracker, ending.amount, hold.facts)

    def _end_hold(self, lease: Lease, row: Row) -> None:
        """End a hold whose lease has ended: release it if it was reserved, presume it if it was dispatched."""
        number, _, tracker, state, tokens, calls, nano_usd, max_tokens, grade, adapter, model, labels, reserved_at = row
        bound = Amount(tokens, calls, nano_usd)
        facts = facts_of(grade, adapter, model, labels)
        hold = StoredHold(
            self._session.gate, self._session.trackers.find(tracker), bound, max_tokens, PlainDemand(*bound), facts
        )
        hold.row, hold.lease, hold.reserved_at = number, lease, reserved_at
        presumed = state == "dispatched" and self._session.gate.on_unknown == "presume"
        self._session.books.end(hold, Ending("presumed", bound) if presumed else RELEASED)

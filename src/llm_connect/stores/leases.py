"""Leases: whoever holds budget says again and again that it is still there, and loses it when it does not."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from llm_connect.core import forks
from llm_connect.core.demand import PlainDemand
from llm_connect.core.holds import RELEASED, Ending
from llm_connect.core.units import NOTHING, Amount
from llm_connect.stores.holds import StoredHold
from llm_connect.stores.rows import Row, facts_of

if TYPE_CHECKING:
    from llm_connect.stores.gate import StoreGate

#: A lease is renewed three times before it would end.
RENEWALS = 3


class Lease:
    """The lease of one process; it is a new one after it was lost, and in a forked process."""

    def __init__(self, number: Any, expires_at: float) -> None:
        #: Under which number or name it stands in the store.
        self.number = number
        self.expires_at = expires_at
        self.generation: int = forks.generation


class Leases(ABC):
    """The own lease of this process, and what becomes of the holds of those that have lost theirs."""

    def __init__(self, gate: StoreGate, seconds: float) -> None:
        self._gate = gate
        self.seconds = seconds
        self.own: Lease | None = None
        #: Holds that stand under the own lease.
        self.open_holds: int = 0
        self._before: tuple[Lease | None, int] = (None, 0)

    @property
    @abstractmethod
    def due(self) -> bool:
        """Whether the own lease is to be renewed."""

    @abstractmethod
    def have(self) -> Lease:
        """The own lease; a new one when there is none."""

    @abstractmethod
    def give_up(self) -> None:
        """End the own lease, and all holds under it."""

    @abstractmethod
    def _left(self, hold: StoredHold) -> tuple[int, str, bool] | None:
        """How a lost hold was ended: the number of its entry, the outcome, and whether it is an open presumption."""

    @property
    def pause(self) -> float:
        """Seconds after which somebody should look again."""
        return self.seconds / RENEWALS / 2

    @property
    def needed(self) -> bool:
        """Whether anything stands under the own lease."""
        return self.open_holds > 0 or (self.own is not None and self.own.number in self._gate.trackers.slices.values())

    def commit(self) -> None:
        """The transaction was committed."""
        self._before = (self.own, self.open_holds)

    def undo(self) -> None:
        """The transaction was rolled back."""
        self.own, self.open_holds = self._before

    def forget(self) -> None:
        """In a forked process: the lease is the parent's."""
        self.own, self.open_holds, self._before = None, 0, (None, 0)

    def end_late(self, hold: StoredHold, ending: Ending) -> None:
        """End a hold that was lost: what was booked for it is corrected."""
        left = self._left(hold)
        hold.leave_row()
        if left is None:
            return
        hold.entry_id, outcome, is_open = left
        hold.ending = ending
        if is_open and ending.outcome != "presumed":
            self._gate.books.correct(hold.entry_id, ending.amount)
        elif outcome == "released" and ending.amount != NOTHING:
            self._gate.books.record(hold.tracker, ending.amount, hold.facts)

    def _end_hold(self, lease: Lease, row: Row) -> None:
        """Release a hold that was reserved under a lease that is over, presume one that was dispatched."""
        number, _, tracker, state, tokens, calls, nano_usd, max_tokens, grade, adapter, model, labels, reserved_at = row
        bound = Amount(tokens, calls, nano_usd)
        facts = facts_of(grade, adapter, model, labels)
        hold = StoredHold(self._gate.trackers.find(tracker), bound, max_tokens, PlainDemand(*bound), facts)
        hold.row, hold.lease, hold.reserved_at = number, lease, reserved_at
        presumed = state == "dispatched" and self._gate.on_unknown == "presume"
        self._gate.books.end(hold, Ending("presumed", bound) if presumed else RELEASED)

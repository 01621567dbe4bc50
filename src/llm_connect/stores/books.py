"""Books whose entries and presumptions a store keeps."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from llm_connect.budget.accounting.demands import CallFacts, PlainDemand
from llm_connect.budget.accounting.journal import Plan
from llm_connect.budget.accounting.ledger import Ledger, LedgerEntry
from llm_connect.budget.admission.alerts import Threshold
from llm_connect.budget.admission.booking import Books, Sink
from llm_connect.budget.admission.callbacks import Outbox
from llm_connect.budget.admission.holds import Ending, Hold
from llm_connect.stores.holds import StoredHold
from llm_connect.types.amounts import NOTHING, Amount

if TYPE_CHECKING:
    from llm_connect.budget.accounting.scope import Scope
    from llm_connect.stores.ports import StoreParts


class StoredBooks(Books):
    """Like `Books`. The store keeps the ids of entries and the open presumptions."""

    def __init__(self, session: StoreParts, ledger: Ledger, outbox: Outbox, sink: Sink | None) -> None:
        super().__init__(ledger, outbox, sink)
        self._session = session
        self._presumed = Presumptions(self._presumption)
        #: Always True: other processes may have booked an overrun.
        self.surprised = True
        #: The thresholds at the beginning of the step, with the times until which they have fired.
        self._thresholds_before: list[tuple[Threshold, float]] = []

    def begin(self) -> None:
        """Begin a step: remember the thresholds, which it may change."""
        if self._thresholds or self._thresholds_before:
            self._thresholds_before = [(threshold, threshold.told_until) for threshold in self._thresholds]

    def undo(self) -> None:
        """Undo a step: restore the thresholds."""
        self._thresholds[:] = [threshold for threshold, _ in self._thresholds_before]
        for threshold, told_until in self._thresholds_before:
            threshold.told_until = told_until

    @abstractmethod
    def _presumption(self, entry_id: int) -> Hold | None:
        """Return the hold that this entry presumed, and mark the entry corrected. None if it was corrected before."""

    @abstractmethod
    def open_presumptions(self) -> list[int]:
        """The ids of the presumed entries that are not corrected yet."""

    def end(self, hold: Hold, ending: Ending) -> bool:
        return self._end_by_plan(hold, ending)

    def _carry_out(self, plan: Plan, tracker: Scope, entry: LedgerEntry, presumed: Amount = NOTHING) -> LedgerEntry:
        self._session.changes.note_trackers(tracker.lineage)
        return super()._carry_out(plan, tracker, entry, presumed)

    def expire(self, plan: Plan, tracker: Scope, spent: Amount, presumed: Amount) -> None:
        self._session.changes.note_trackers((tracker,))
        super().expire(plan, tracker, spent, presumed)

    def _ended_hold(self, tracker: int, entry: LedgerEntry) -> Hold:
        """Rebuild the ended hold of an entry that will be corrected, on the tracker with this number."""
        session, bound = self._session, entry.bound
        facts = CallFacts(adapter=entry.adapter, model=entry.model, labels=entry.labels, grade=entry.grade)
        hold = StoredHold(session.gate, session.trackers.find(tracker), bound, None, PlainDemand(*bound), facts)
        hold.leave_row()
        hold.entry_id, hold.ending = entry.id, Ending(entry.outcome, entry.amount)
        hold.request_id, hold.reserved_at = entry.request_id, entry.reserved_at
        return hold


class Presumptions(dict[int, Hold]):
    """The open presumptions by entry id, which the store keeps."""

    def __init__(self, find: Callable[[int], Hold | None]) -> None:
        super().__init__()
        self._find = find

    def __setitem__(self, entry_id: int, hold: Hold) -> None:
        """Do nothing: the entry itself marks the presumption."""

    def pop(self, entry_id: int, *_: object) -> Any:
        """Do nothing: `get` has removed it."""

    def get(self, entry_id: int, *_: object) -> Any:
        return self._find(entry_id)

"""Booking in a store."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

from llm_connect.budget.accounting.journal import Plan
from llm_connect.budget.accounting.ledger import LedgerEntry
from llm_connect.budget.admission.alerts import Threshold
from llm_connect.budget.admission.booking import Books, Sink
from llm_connect.budget.admission.callbacks import Outbox
from llm_connect.budget.admission.holds import Ending, Hold
from llm_connect.types.amounts import NOTHING, Amount

if TYPE_CHECKING:
    from llm_connect.budget.accounting.scope import Scope
    from llm_connect.stores.ports import StoreSession


class StoredBooks(Books):
    """Like `Books`; the numbers of entries, and what is presumed, are those of the store."""

    def __init__(self, gate: StoreSession, outbox: Outbox, sink: Sink | None) -> None:
        super().__init__(gate.ledger, outbox, sink)
        self._gate = gate
        #: Others may have booked more than was held.
        self.surprised = True
        #: When a transaction began, with what they had told.
        self._thresholds_before: list[tuple[Threshold, float]] = []

    def begin(self) -> None:
        """A transaction begins: remember what it may change."""
        if self._thresholds or self._thresholds_before:
            self._thresholds_before = [(threshold, threshold.told_until) for threshold in self._thresholds]

    def undo(self) -> None:
        """It is undone: thresholds that were reached were not."""
        self._thresholds[:] = [threshold for threshold, _ in self._thresholds_before]
        for threshold, told_until in self._thresholds_before:
            threshold.told_until = told_until

    @abstractmethod
    def open_presumptions(self) -> list[int]:
        """The numbers of the entries that are presumed and not corrected yet."""

    def end(self, hold: Hold, ending: Ending) -> bool:
        return self._end_by_plan(hold, ending)

    def _carry_out(self, plan: Plan, tracker: Scope, entry: LedgerEntry, presumed: Amount = NOTHING) -> LedgerEntry:
        self._gate.changes.note_trackers(tracker.lineage)
        return super()._carry_out(plan, tracker, entry, presumed)

    def expire(self, plan: Plan, tracker: Scope, spent: Amount, presumed: Amount) -> None:
        self._gate.changes.note_trackers((tracker,))
        super().expire(plan, tracker, spent, presumed)

"""The books and the ledger of a budget in a store."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, get_args

from llm_connect.budget.accounting.bounds import CallFacts
from llm_connect.budget.accounting.journal import Plan
from llm_connect.budget.accounting.ledger import By, Ended, Kind, Ledger, LedgerEntry, Run, Total
from llm_connect.budget.admission.booking import Books, Sink
from llm_connect.budget.admission.callbacks import Outbox, Threshold
from llm_connect.budget.admission.holds import Ending, Hold
from llm_connect.errors import LLMConfigurationError
from llm_connect.stores.parts import StoreParts, rebuilt
from llm_connect.types.amounts import NOTHING, Amount

if TYPE_CHECKING:
    from llm_connect.budget.accounting.accounts import Scope


class StoredLedger(Ledger, ABC):
    """Like `Ledger`. It shows the last `keep` entries of all processes, which the store keeps."""

    #: The books, which write the entries.
    books: StoredBooks

    def __init__(self, keep: int, run: Run) -> None:
        super().__init__(0, run)
        self._keep = keep

    def posting(self, kind: Kind, labels: Mapping[str, str], amount: Amount) -> Any:
        """Plain arguments: the store updates its sums itself, if it has any."""
        return kind, labels, amount

    def post(self, line: LedgerEntry | Ended, posting: Any) -> None:
        self.books.add(line, *posting)

    def post_expiry(self, entry: LedgerEntry) -> None:
        self.books.add_expiry(entry)

    def totals(self, by: By) -> dict[str, Total]:
        """Like `Ledger.totals`, of all entries in the store."""
        if by not in get_args(By):
            raise LLMConfigurationError(f"totals() accepts tracker, adapter, model or label, not {by!r}.")
        return self._totals_by(by)

    @abstractmethod
    def _totals_by(self, by: By) -> dict[str, Total]: ...


class StoredBooks(Books, ABC):
    """Like `Books`. The store keeps the ids of entries and the open presumptions."""

    def __init__(self, session: StoreParts, ledger: StoredLedger, outbox: Outbox, sink: Sink | None) -> None:
        super().__init__(ledger, outbox, sink)
        ledger.books = self
        self._session = session
        self._presumed = Presumptions(self._presumption)
        #: Always True: other processes may have booked an overrun.
        self.surprised = True
        #: The thresholds, and how the last step has left them, with the times until which they have fired.
        self.thresholds: list[Threshold] = self._thresholds
        self.thresholds_before: list[tuple[Threshold, float]] = []

    def commit(self) -> None:
        """Keep the changes: the step was committed."""
        self.thresholds_before = [(threshold, threshold.told_until) for threshold in self.thresholds]

    def undo(self) -> None:
        """Undo a step: restore the thresholds."""
        self.thresholds[:] = [threshold for threshold, _ in self.thresholds_before]
        for threshold, told_until in self.thresholds_before:
            threshold.told_until = told_until

    @abstractmethod
    def add(self, line: LedgerEntry | Ended, kind: Any, labels: Any, amount: Amount) -> None:
        """Add an entry to the step."""

    @abstractmethod
    def add_expiry(self, entry: LedgerEntry) -> None:
        """Add an entry about spend that has left its window."""

    @abstractmethod
    def _presumption(self, entry_id: int) -> Hold | None:
        """Return the hold that this entry presumed, and mark the entry corrected. None if it was corrected before."""

    @abstractmethod
    def open_presumptions(self) -> list[int]:
        """The ids of the presumed entries that are not corrected yet."""

    def _carry_out(self, plan: Plan, tracker: Scope, entry: LedgerEntry, presumed: Amount = NOTHING) -> LedgerEntry:
        self._session.changes.note_trackers(tracker.lineage)
        return super()._carry_out(plan, tracker, entry, presumed)

    def expire(self, plan: Plan, tracker: Scope, spent: Amount, presumed: Amount) -> None:
        self._session.changes.note_trackers((tracker,))
        super().expire(plan, tracker, spent, presumed)

    def _ended_hold(self, tracker: int, entry: LedgerEntry) -> Hold:
        """Rebuild the ended hold of an entry that will be corrected, on the tracker with this number."""
        facts = CallFacts(adapter=entry.adapter, model=entry.model, labels=entry.labels, grade=entry.grade)
        hold = rebuilt(self._session, tracker, entry.bound, facts)
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

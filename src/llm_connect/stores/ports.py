"""The interfaces between the parts of a store."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from llm_connect.budget.accounting.arguments import Limits
    from llm_connect.budget.accounting.demands import CallFacts
    from llm_connect.budget.accounting.ledger import LedgerEntry
    from llm_connect.budget.accounting.scope import Scope
    from llm_connect.budget.admission.holds import Ending, Hold
    from llm_connect.budget.admission.session import Controller
    from llm_connect.budget.tracker import BudgetTracker
    from llm_connect.stores.lease import Lease
    from llm_connect.stores.worker import StoreWorker
    from llm_connect.types.amounts import Amount


class Noting(Protocol):
    """The changes of the current step in memory."""

    def note(self, hold: Any) -> None: ...
    def note_trackers(self, trackers: Iterable[Scope]) -> None: ...
    def note_allotment(self, share: Scope, lease: Any) -> None: ...


class Finding(Protocol):
    """The trackers that this process has loaded."""

    def find(self, number: int) -> BudgetTracker: ...
    def number_of(self, tracker: Scope, *, joined: bool = False) -> int: ...
    def open_allotments(self, *, at: Scope | None = None, lease: object = None) -> list[BudgetTracker]: ...
    def keeps_allotments(self, lease: object) -> bool: ...


class Leasing(Protocol):
    """The lease of this process."""

    open_holds: int

    @property
    def own(self) -> Lease | None: ...
    def have(self) -> Lease: ...
    def give_up(self) -> None: ...


class Booking(Protocol):
    """The books, for holds whose lease was lost."""

    def end(self, hold: Hold, ending: Ending) -> bool: ...
    def record(self, tracker: Scope, amount: Amount, facts: CallFacts) -> LedgerEntry: ...
    def correct(self, entry_id: int, figures: Limits) -> LedgerEntry | None: ...


class Returning(Protocol):
    """The open allotments."""

    def close_of(self, lease: object) -> None: ...


class StoreParts(Protocol):
    """The parts of one budget in a store, in one process."""

    @property
    def gate(self) -> Controller: ...
    @property
    def worker(self) -> StoreWorker: ...
    @property
    def changes(self) -> Noting: ...
    @property
    def trackers(self) -> Finding: ...
    @property
    def leases(self) -> Leasing: ...
    @property
    def books(self) -> Booking: ...
    @property
    def allotments(self) -> Returning: ...

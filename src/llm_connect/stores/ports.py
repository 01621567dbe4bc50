"""What the parts of a store ask of the gate that brings them together, so that none of them has to know it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Protocol

from llm_connect.budget.admission.backend import BudgetGate

if TYPE_CHECKING:
    from llm_connect.budget.accounting.arguments import Limits
    from llm_connect.budget.accounting.demands import CallFacts
    from llm_connect.budget.accounting.ledger import LedgerEntry, Run
    from llm_connect.budget.accounting.scope import Scope
    from llm_connect.budget.admission.holds import Ending, Hold
    from llm_connect.budget.tracker import BudgetTracker
    from llm_connect.stores.lease import Lease
    from llm_connect.stores.worker import StoreWorker
    from llm_connect.types.amounts import Amount


class Noting(Protocol):
    """What the transaction at hand changes in memory."""

    def note(self, hold: Any) -> None: ...
    def note_trackers(self, trackers: Iterable[Scope]) -> None: ...


class Finding(Protocol):
    """The trackers that this process knows, and which lease keeps a slice open."""

    @property
    def slices(self) -> dict[int, Any]: ...
    def find(self, number: int) -> BudgetTracker: ...
    def number_of(self, tracker: Scope, *, joined: bool = False) -> int: ...


class Leasing(Protocol):
    """The lease of this process."""

    open_holds: int

    @property
    def own(self) -> Lease | None: ...


class Booking(Protocol):
    """The books, for what became of holds whose lease was lost."""

    def end(self, hold: Hold, ending: Ending) -> bool: ...
    def record(self, tracker: Scope, amount: Amount, facts: CallFacts) -> LedgerEntry: ...
    def correct(self, entry_id: int, figures: Limits) -> LedgerEntry | None: ...


class StoreSession(BudgetGate, Protocol):
    """The use of one budget in a store by one process."""

    @property
    def _run(self) -> Run: ...
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
    def roll(self) -> None: ...
    def close_slices_of(self, lease: object) -> None: ...

"""The interfaces between the parts of a budget in a server."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sized
from typing import TYPE_CHECKING, Any, Protocol

from llm_connect.budget.accounting.ledger import Ended, LedgerEntry
from llm_connect.budget.admission.holds import Hold
from llm_connect.stores.holds import StoredHold
from llm_connect.stores.ports import Booking, Finding, Leasing, Noting, StoreParts
from llm_connect.types.amounts import Amount

if TYPE_CHECKING:
    from llm_connect.budget.accounting.scope import Scope
    from llm_connect.budget.accounting.totals import Kind
    from llm_connect.stores.redis.terms import ServerTerms


class StepNoting(Noting, Protocol):
    """The changes of the current step."""

    @property
    def touched(self) -> list[Scope]: ...
    @property
    def entries(self) -> Sized: ...
    def add(
        self,
        line: LedgerEntry | Hold,
        amounts: tuple[list[str], Amount, Amount],
        texts: tuple[str, str, list[str]],
        end: tuple[bool, str | bool],
    ) -> None: ...
    def say(self, what: str, value: Any) -> None: ...
    def say_once(self, what: str, value: Any) -> bool: ...


class StepFinding(Finding, Protocol):
    """The trackers that this process has loaded, and their form in a step."""

    @property
    def new(self) -> list[tuple[str, str, list[int], str | bool]]: ...
    def path_of(self, tracker: Scope) -> list[str]: ...
    def windows(self, trackers: Iterable[Scope]) -> list[tuple[str, str]]: ...
    def sets(self, tracker: Scope) -> list[tuple[str, int, int]]: ...


class StepLeasing(Leasing, Protocol):
    """The lease of this process, which a new hold joins."""

    def enter(self, hold: StoredHold) -> None: ...


class StepBooking(Booking, Protocol):
    """The books, which add entries to a step."""

    def add(self, line: LedgerEntry | Ended, kind: Kind, labels: Mapping[str, str], amount: Amount) -> None: ...
    def add_expiry(self, entry: LedgerEntry) -> None: ...


class ServerParts(StoreParts, Protocol):
    """The parts of one budget in a server, in one process."""

    @property
    def terms(self) -> ServerTerms: ...
    @property
    def epoch(self) -> int: ...
    @property
    def client(self) -> str: ...
    @property
    def changes(self) -> StepNoting: ...
    @property
    def trackers(self) -> StepFinding: ...
    @property
    def leases(self) -> StepLeasing: ...
    @property
    def books(self) -> StepBooking: ...
    def fetch(self, command: str, key: str, *values: Any) -> Any: ...
    def fetch_after_all(self, command: str, key: str, *values: Any) -> Any: ...
    def stored_holds(self) -> list[tuple[str, list[Any]]]: ...

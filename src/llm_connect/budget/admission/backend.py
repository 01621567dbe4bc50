"""The interface that every budget backend implements, in memory or in a store."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar

from llm_connect.budget.admission.holds import Keeper

if TYPE_CHECKING:
    from llm_connect.budget.accounting.arguments import Limits
    from llm_connect.budget.accounting.demands import CallFacts, Demand
    from llm_connect.budget.accounting.journal import Journal
    from llm_connect.budget.accounting.ledger import Ledger, LedgerEntry
    from llm_connect.budget.accounting.levels import Account
    from llm_connect.budget.accounting.scope import Scope, Tree
    from llm_connect.budget.accounting.snapshot import BudgetSnapshot
    from llm_connect.budget.accounting.windows import Clock
    from llm_connect.budget.admission.alerts import Threshold
    from llm_connect.budget.admission.holds import Hold
    from llm_connect.budget.admission.waiters import Waiter
    from llm_connect.types.amounts import Amount

S = TypeVar("S", bound="Scope")

#: Work that the next operation does: a function to call, or a waiter that leaves.
Note: TypeAlias = "Callable[[], None] | Waiter"


class BudgetGate(Keeper, Protocol):
    """The operations that change or read the figures of a tree of trackers.

    `Gate` decides, in memory and in a store. The accounts of a tracker are the last state that its gate has seen, and
    only the gate changes them. If `worker` is not None, an operation may take as long as I/O, so a coroutine lets the
    worker do it. All operations except `arrive`, `end`, `lose` and `work_off` raise LLMStoreError if the store cannot
    be reached. The gate keeps an `end` of that time, and books it when the store is back.
    """

    @property
    def tree(self) -> Tree:
        """The state that all scopes of the tree share."""
        ...

    @property
    def most_limit(self) -> int:
        """The largest limit that the backend can store."""
        ...

    @property
    def ledger(self) -> Ledger: ...
    @property
    def clock(self) -> Clock:
        """The clock by which windows move."""
        ...

    def raise_owed(self) -> None: ...

    @property
    def notes(self) -> deque[Note]:
        """The work that the next operation does first."""
        ...

    @property
    def journal(self) -> Journal:
        """The journal of the present step."""
        ...

    # Admission: `admit`; if that returns None, `queue`, wait, and `take`. A waiter that gives up leaves by a note and
    # `work_off`. A granted hold gets `dispatch`, and one `end`.
    def arrive(self) -> int: ...
    def admit(self, tracker: Scope, demand: Demand, facts: CallFacts, replaces: Hold | None = None) -> Hold | None: ...
    def queue(self, waiter: Waiter, *, may_wait: bool) -> None: ...
    def take(self, waiter: Waiter) -> Hold | None: ...
    def work_off(self) -> None: ...

    # The books.
    def record(self, tracker: Scope, amount: Amount, facts: CallFacts) -> LedgerEntry: ...
    def correct(self, entry_id: int, figures: Limits) -> LedgerEntry: ...
    def room(self, tracker: Scope, demand: Demand, facts: CallFacts) -> int | None: ...
    def keep_window(self, tracker: Scope) -> None: ...
    def look(self, tracker: Scope) -> float: ...
    def read(self, tracker: Scope) -> BudgetSnapshot: ...
    def tidy(self) -> None: ...
    def watch(self, threshold: Threshold) -> None: ...

    # The tree.
    def join(self, joined: dict[str, S], child: S) -> S: ...
    def change_limits(self, tracker: Scope, limits: dict[Account, int | None]) -> None: ...
    def allot(self, share: Scope, kept: Hold) -> bool: ...
    def close(self, tracker: Scope) -> None: ...
    def handle(self, tracker: Scope) -> Any: ...

"""What a tracker, its holds and the call path ask of whoever keeps the budget: in memory, or in a store."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar

from llm_connect.budget.admission.holds import Keeper

if TYPE_CHECKING:
    from llm_connect.budget.accounting.accounts import Account
    from llm_connect.budget.accounting.arguments import Limits
    from llm_connect.budget.accounting.demands import CallFacts, Demand
    from llm_connect.budget.accounting.journal import Journal
    from llm_connect.budget.accounting.ledger import Ledger, LedgerEntry
    from llm_connect.budget.accounting.scope import Scope, Tree
    from llm_connect.budget.accounting.snapshot import BudgetSnapshot
    from llm_connect.budget.accounting.windows import Clock
    from llm_connect.budget.admission.alerts import Threshold
    from llm_connect.budget.admission.holds import Hold
    from llm_connect.budget.admission.waiters import Waiter
    from llm_connect.types.amounts import Amount

S = TypeVar("S", bound="Scope")

#: What is left to do: by a function, or that a waiter leaves.
Note: TypeAlias = "Callable[[], None] | Waiter"


class BudgetGate(Keeper, Protocol):
    """All that changes or reads what is spent and held in a tree of trackers.

    `Gate` decides in memory; a gate of a store gives the same answers for all processes. A tracker's accounts are what
    its gate knew last; only a gate changes them. Where `worker` is not None, an operation may take as long as I/O
    does: a coroutine lets the worker do it. All but `arrive`, `end`, `lose` and `work_off` raise LLMStoreError when the
    store cannot be reached; what ends then is kept, and done when it can.
    """

    @property
    def tree(self) -> Tree:
        """What all scopes of it share."""
        ...

    @property
    def most_limit(self) -> int:
        """The largest limit that it can count."""
        ...

    @property
    def ledger(self) -> Ledger: ...
    @property
    def clock(self) -> Clock:
        """By which windows move."""
        ...

    def raise_owed(self) -> None: ...

    @property
    def notes(self) -> deque[Note]:
        """What is left to do: a function, or a waiter that leaves. The next operation does it."""
        ...

    @property
    def journal(self) -> Journal:
        """What a step is about to change."""
        ...

    # Admission: `admit`, else `queue`, wait, and `take`, or a note and `work_off`. Then `dispatch`, and one `end`.
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
    def open_slice(self, child: Scope, kept: Hold) -> bool: ...
    def close(self, tracker: Scope) -> None: ...
    def handle(self, tracker: Scope) -> Any: ...

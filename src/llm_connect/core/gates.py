"""What a tracker, its holds and the call path ask of whoever keeps the budget: in memory, or in a store."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar

if TYPE_CHECKING:
    from llm_connect.core.accounts import Account
    from llm_connect.core.budget import BudgetTracker
    from llm_connect.core.demand import CallFacts, Demand
    from llm_connect.core.holds import Ending, Hold
    from llm_connect.core.journal import Journal
    from llm_connect.core.ledger import Ledger, LedgerEntry
    from llm_connect.core.limits import Limits
    from llm_connect.core.snapshot import BudgetSnapshot
    from llm_connect.core.thresholds import Threshold
    from llm_connect.core.units import Amount
    from llm_connect.core.waiters import Waiter
    from llm_connect.core.windows import Clock

T = TypeVar("T")


#: What is left to do: by a function, or that a waiter leaves.
Note: TypeAlias = "Callable[[], None] | Waiter"


class Run(Protocol):
    """Does a thing as an operation: under the lock, after what an interrupted one has left is in order."""

    def __call__(self, operation: Callable[..., T], *args: Any) -> T: ...


class Worker(Protocol):
    """Does the operations of a gate that does I/O, so that no event loop is blocked by them."""

    async def run(self, operation: Callable[..., T], *args: Any) -> T:
        """What `operation` comes to, in order with all others. Cancelled, it is not begun, or its hold given back."""
        ...


class BudgetGate(Protocol):
    """All that changes or reads what is spent and held in a tree of trackers.

    `Gate` decides in memory; a gate of a store gives the same answers for all processes. A tracker's accounts are what
    its gate knew last; only a gate changes them. Where `worker` is not None, an operation may take as long as I/O
    does: a coroutine lets the worker do it. All but `arrive`, `end`, `lose` and `work_off` raise LLMStoreError when the
    store cannot be reached; what ends then is kept, and done when it can.
    """

    #: Whether any tracker of the tree is closed, or was once.
    any_closed: bool

    @property
    def most_limit(self) -> int:
        """The largest limit that it can count."""
        ...

    @property
    def worker(self) -> Worker | None: ...
    @property
    def hold_type(self) -> type[Hold]: ...
    @property
    def on_unknown(self) -> str: ...
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
    def admit(
        self, tracker: BudgetTracker, demand: Demand, facts: CallFacts, replaces: Hold | None = None
    ) -> Hold | None: ...
    def queue(self, waiter: Waiter, *, may_wait: bool) -> None: ...
    def take(self, waiter: Waiter) -> Hold | None: ...
    def work_off(self) -> None: ...
    def dispatch(self, hold: Hold) -> bool: ...
    def end(self, hold: Hold, ending: Ending) -> None: ...
    def lose(self, hold: Hold, ending: Ending) -> None: ...

    # The books.
    def record(self, tracker: BudgetTracker, amount: Amount, facts: CallFacts) -> LedgerEntry: ...
    def correct(self, entry_id: int, figures: Limits) -> LedgerEntry: ...
    def room(self, tracker: BudgetTracker, demand: Demand, facts: CallFacts) -> int | None: ...
    def keep_window(self, tracker: BudgetTracker) -> None: ...
    def look(self, tracker: BudgetTracker) -> float: ...
    def read(self, tracker: BudgetTracker) -> BudgetSnapshot: ...
    def tidy(self) -> None: ...
    def flush(self) -> None: ...
    def watch(self, threshold: Threshold) -> None: ...

    # The tree.
    def join(self, joined: dict[str, BudgetTracker], child: BudgetTracker) -> BudgetTracker: ...
    def change_limits(self, tracker: BudgetTracker, limits: dict[Account, int | None]) -> None: ...
    def open_slice(self, child: BudgetTracker, kept: Hold) -> bool: ...
    def close(self, tracker: BudgetTracker) -> None: ...
    def handle(self, tracker: BudgetTracker) -> Any: ...

"""Scopes: the nodes of a tree of budgets, as the books and the wait queue use them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from llm_connect.budget.accounting.accounts import Path
    from llm_connect.budget.accounting.levels import TrackerAccounts
    from llm_connect.budget.accounting.periods import Period
    from llm_connect.budget.accounting.prices import Price
    from llm_connect.budget.accounting.windows import Window


class Tree:
    """State that all scopes of one tree share."""

    __slots__ = ("any_closed",)

    def __init__(self) -> None:
        #: True if a scope of the tree is or was closed; if not, admission need not check each of them.
        self.any_closed: bool = False


class Scope:
    """The accounts of one tracker, and its position in the tree; it makes no decisions."""

    name: str
    path: str
    #: The number of the tracker in its store; 0 in memory.
    number: int
    #: The number of the store state from which its figures come; 0 in memory.
    as_of: int
    parent: Self | None
    #: This scope and its ancestors, up to the root.
    lineage: tuple[Self, ...]
    own_accounts: TrackerAccounts
    accounts: Path
    window: Window | None
    prices: Mapping[str, Price]
    strict: bool
    tree: Tree
    _closed_itself: bool

    @property
    def period(self) -> Period | None:
        """The interval after which the limits start over; None if they never do."""
        return None if self.window is None else self.window.period

    @property
    def closed(self) -> bool:
        """True if this tracker or one above it is closed."""
        return any(tracker.closed_itself for tracker in self.lineage)

    @property
    def closed_itself(self) -> bool:
        """True if this tracker itself is closed, whatever the state of those above it."""
        return self._closed_itself

    @closed_itself.setter
    def closed_itself(self, closed: bool) -> None:
        self._closed_itself = closed
        self.tree.any_closed = self.tree.any_closed or closed

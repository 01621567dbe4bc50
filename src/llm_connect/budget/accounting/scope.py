"""One node of a tree of budgets, as the books and the line see it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from llm_connect.budget.accounting.accounts import Own, Path
    from llm_connect.budget.accounting.periods import Period
    from llm_connect.budget.accounting.prices import Price
    from llm_connect.budget.accounting.windows import Window


class Tree:
    """What all scopes of one tree share."""

    __slots__ = ("any_closed",)

    def __init__(self) -> None:
        #: Whether any scope of it is closed, or was once: else none has to be asked.
        self.any_closed: bool = False


class Scope:
    """The accounts of one tracker, and its place in the tree; it decides nothing itself."""

    name: str
    path: str
    #: Its number in the store; 0 in memory.
    number: int
    parent: Self | None
    #: Itself and all above it, up to the root.
    lineage: tuple[Self, ...]
    own_accounts: Own
    accounts: Path
    window: Window | None
    prices: Mapping[str, Price]
    strict: bool
    is_slice: bool
    tree: Tree
    _closed_itself: bool

    @property
    def period(self) -> Period | None:
        """How often the limits begin anew; None: they are for good."""
        return None if self.window is None else self.window.period

    @property
    def closed(self) -> bool:
        """Whether this tracker or one above it is closed."""
        return any(tracker.closed_itself for tracker in self.lineage)

    @property
    def closed_itself(self) -> bool:
        """Whether this very tracker is closed."""
        return self._closed_itself

    @closed_itself.setter
    def closed_itself(self, closed: bool) -> None:
        self._closed_itself = closed
        self.tree.any_closed = self.tree.any_closed or closed

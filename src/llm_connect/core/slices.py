"""Slices: children whose limits are set aside from their parent while they are open."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llm_connect.core import accounts
from llm_connect.core.units import Amount

if TYPE_CHECKING:
    from llm_connect.core.budget import BudgetTracker


class Slices:
    """The open slices of a tree of trackers; its caller holds the lock of the tree."""

    def __init__(self) -> None:
        self.opened: list[BudgetTracker] = []

    def open(self, child: BudgetTracker) -> bool:
        """Set the limits of `child` aside above it; False, and nothing has changed, when they do not fit there now."""
        assert child.parent is not None
        size = limits_of(child)
        if not accounts.fits(child.parent.accounts, size):
            return False
        for account, above, limit in zip(child.own_accounts, child.parent.accounts.units, size, strict=True):
            account.slice = account.limit is not None
            accounts.set_aside(above, limit)
        self.opened.append(child)
        return True

    def close(self, tracker: BudgetTracker) -> None:
        """Give back what the slices at `tracker` and below it have not used: the innermost first, to the one around."""
        closed = [child for child in self.opened if tracker in child.lineage]
        for child in sorted(closed, key=lambda child: len(child.lineage), reverse=True):
            self.opened.remove(child)
            for account, path in zip(child.own_accounts, child.accounts.units, strict=True):
                unused, account.slice = account.aside, False
                accounts.set_aside(path[1:], -unused)


def limits_of(child: BudgetTracker) -> Amount:
    """What is set aside for a slice: its limits, and nothing of a unit that it does not limit."""
    return Amount(*(account.limit or 0 for account in child.own_accounts))

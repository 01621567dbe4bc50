"""Slices: children that set their limits aside from their parent while they are open."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from llm_connect.budget.accounting import accounts
from llm_connect.budget.accounting.journal import Plan
from llm_connect.types.amounts import Amount

if TYPE_CHECKING:
    from llm_connect.budget.accounting.scope import Scope


class Earmarks(Protocol):
    """The open slices of a tree, in memory or in a store."""

    def open(self, child: Scope) -> bool: ...
    def close(self, tracker: Scope) -> None: ...


class Slices:
    """The open slices of a tree of trackers; the caller has the lock of the tree."""

    def __init__(self) -> None:
        self.opened: list[Scope] = []

    def open(self, child: Scope) -> bool:
        """Set the limits of `child` aside above it; if they do not fit, change nothing and return False."""
        assert child.parent is not None
        size = limits_of(child)
        if not accounts.fits(child.parent.accounts, size):
            return False
        plan = Plan()
        for account, above, limit in zip(child.own_accounts, child.parent.accounts.units, size, strict=True):
            plan.set(account, "slice", account.limit is not None)
            accounts.set_aside(plan, above, limit)
        plan.set(self, "opened", [*self.opened, child])
        plan.set(child, "closed_itself", False)
        child.accounts.journal.carry_out(plan)
        return True

    def close(self, tracker: Scope) -> None:
        """Close `tracker`, and return the unused rest of its slice and of those below it, the innermost first."""
        plan = Plan()
        plan.set(tracker, "closed_itself", True)
        closed = [child for child in self.opened if tracker in child.lineage]
        plan.set(self, "opened", [child for child in self.opened if child not in closed])
        for child in sorted(closed, key=lambda child: len(child.lineage), reverse=True):
            for account, path in zip(child.own_accounts, child.accounts.units, strict=True):
                unused = accounts.aside(plan, account)
                plan.set(account, "slice", False)
                accounts.set_aside(plan, path[1:], -unused)
        tracker.accounts.journal.carry_out(plan)


def limits_of(child: Scope) -> Amount:
    """The amount to set aside for a slice: its limits, and 0 of each unit without a limit."""
    return Amount(*(account.limit or 0 for account in child.own_accounts))

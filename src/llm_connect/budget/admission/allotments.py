"""Allotments: children that set their limits aside from their parent while they are open."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol

from llm_connect._flows import Flow
from llm_connect.budget.accounting import accounts
from llm_connect.budget.accounting.demands import CallFacts, PlainDemand
from llm_connect.budget.accounting.journal import Plan
from llm_connect.budget.admission.acquire import Operation, acquire
from llm_connect.budget.admission.tracebacks import clear_left_frames
from llm_connect.types.amounts import Amount

if TYPE_CHECKING:
    from llm_connect.budget.accounting.scope import Scope
    from llm_connect.budget.admission.figures import BudgetFigures

_ALLOTMENT = CallFacts(asker="allotment")


def draw(share: BudgetFigures, max_wait_seconds: float) -> Flow[None]:
    """Open the allotment `share` as soon as its limits fit, in line with calls.

    Raises LLMBudgetExceededError like `acquire`.
    """
    assert share.parent is not None
    size, deadline, opened = PlainDemand(*limits_of(share)), time.monotonic() + max_wait_seconds, False
    while not opened:
        # If an overrun takes the room between the two steps, it waits again, or is refused.
        try:
            kept = yield from acquire(share.parent, size, _ALLOTMENT, deadline=deadline)
        except BaseException as error:
            clear_left_frames(error)
            raise
        with kept:
            opened = yield Operation(share.gate, share.gate.allot, (share, kept))


class Allotting(Protocol):
    """The open allotments of a tree, in memory or in a store."""

    def open(self, share: Scope) -> bool: ...
    def close(self, tracker: Scope) -> None: ...


class Allotments:
    """The open allotments of a tree of trackers; the caller has the lock of the tree."""

    def __init__(self) -> None:
        self.opened: list[Scope] = []

    def open(self, share: Scope) -> bool:
        """Set the limits of `share` aside above it; if they do not fit, change nothing and return False."""
        assert share.parent is not None
        size = limits_of(share)
        if not accounts.fits(share.parent.accounts, size):
            return False
        plan = Plan()
        for account, above, limit in zip(share.own_accounts, share.parent.accounts.units, size, strict=True):
            plan.set(account, "allotment", account.limit is not None)
            accounts.set_aside(plan, above, limit)
        plan.set(self, "opened", [*self.opened, share])
        share.accounts.journal.carry_out(plan)
        return True

    def close(self, tracker: Scope) -> None:
        """Close `tracker`, and return the unused rest of its allotment and of those below it, the innermost first."""
        plan = Plan()
        plan.set(tracker, "closed_itself", True)
        closed = [share for share in self.opened if tracker in share.lineage]
        plan.set(self, "opened", [share for share in self.opened if share not in closed])
        for share in sorted(closed, key=lambda share: len(share.lineage), reverse=True):
            for account, path in zip(share.own_accounts, share.accounts.units, strict=True):
                unused = accounts.aside(plan, account)
                plan.set(account, "allotment", False)
                accounts.set_aside(plan, path[1:], -unused)
        tracker.accounts.journal.carry_out(plan)


def limits_of(share: Scope) -> Amount:
    """The amount to set aside for an allotment: its limits, and 0 of each unit without a limit."""
    return Amount(*(account.limit or 0 for account in share.own_accounts))

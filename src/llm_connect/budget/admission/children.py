"""Children of a tracker: their names, and allotments, which set limits aside from their parent while they are open."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from llm_connect.budget.accounting import accounts
from llm_connect.budget.accounting.journal import Plan
from llm_connect.budget.admission.log import NAME_SHARED, log_event
from llm_connect.types.amounts import Amount

if TYPE_CHECKING:
    from llm_connect.budget.accounting.accounts import Scope

#: The number of names that are remembered, for children that are never closed.
_MOST = 1_000


@dataclass(slots=True)
class ChildNames:
    """The names of open children. A name in use gets a number, and a warning is logged once for each tracker."""

    #: For each name, an object that only its taker has. Single operations change the dict, so it needs no lock.
    _taken: dict[str, object] = field(default_factory=dict)
    _warned: bool = False

    def take(self, name: str, above: str, *, shared: bool, quiet: bool = False) -> str:
        """Choose the name of a new child of the tracker at the path `above`; a shared child keeps its name.

        quiet: True for a name that several open children are expected to have.
        """
        mine = object()
        if self._taken.setdefault(name, mine) is mine or shared:
            self._forget_oldest()
            return name
        if not quiet:
            self._warn(name, above)
        numbered = (f"{name}#{number}" for number in itertools.count(2))
        free = next(other for other in numbered if self._taken.setdefault(other, mine) is mine)
        self._forget_oldest()
        return free

    def give_back(self, name: str) -> None:
        """Free the name of a closed child."""
        self._taken.pop(name, None)

    def _forget_oldest(self) -> None:
        if len(self._taken) > _MOST:
            with suppress(KeyError, RuntimeError, StopIteration):
                del self._taken[next(iter(self._taken))]

    def _warn(self, name: str, above: str) -> None:
        if not self._warned:
            self._warned = True
            log_event(NAME_SHARED, path=above, child=name)


class Allotting(Protocol):
    """The open allotments of a tree, in memory or in a store."""

    def open(self, share: Scope) -> bool: ...
    def close(self, tracker: Scope) -> None: ...


class Allotments:
    """The open allotments of a tree of trackers; the caller has the lock of the tree."""

    opened: Sequence[Scope] = ()

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

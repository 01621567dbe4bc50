"""Read-only figures of a budget: spent, held, remaining."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

from llm_connect.budget.accounting.accounts import Scope, TrackerAccounts, figures_of, left_on
from llm_connect.types.amounts import CALLS, TOKENS, USD, usd_of

if TYPE_CHECKING:
    from llm_connect.budget.admission.controller import Gate


class BudgetFigures(Scope):
    """A scope with its gate and its figures.

    Each property is read at its own moment; `BudgetTracker.snapshot` reads all figures at one moment.
    """

    gate: Gate

    @property
    def total(self) -> int | None:
        """The limit in tokens."""
        return self._own[TOKENS].limit

    @property
    def spent(self) -> int:
        """The tokens spent on this tracker and below it."""
        return self._own[TOKENS].spent

    @property
    def held(self) -> int:
        """The tokens of open holds on this tracker and below it."""
        return self._own[TOKENS].held

    @property
    def allotted(self) -> int:
        """The tokens that open allotments below have set aside and neither spent nor held."""
        return self._own[TOKENS].allotted

    @property
    def sliced(self) -> int:
        """Deprecated: `allotted`."""
        return self.allotted

    def remaining(self) -> int | None:
        """The tokens that are still free: the smallest remainder up to the root, never below 0; None without a limit.

        `spent`, `held` and allotments reduce the remainder.
        """
        return self._remaining(TOKENS)

    @property
    def total_calls(self) -> int | None:
        """The limit in calls."""
        return self._own[CALLS].limit

    @property
    def spent_calls(self) -> int:
        """The requests sent to providers, except those whose holds were released."""
        return self._own[CALLS].spent

    @property
    def held_calls(self) -> int:
        """The calls of open holds on this tracker and below it."""
        return self._own[CALLS].held

    def remaining_calls(self) -> int | None:
        """Like `remaining`, in calls."""
        return self._remaining(CALLS)

    @property
    def total_usd(self) -> Decimal | None:
        """The limit in USD."""
        limit = self._own[USD].limit
        return None if limit is None else usd_of(limit)

    @property
    def spent_usd(self) -> Decimal:
        """The USD spent on this tracker and below it; for a call of unknown cost, the USD that were held."""
        return usd_of(self._own[USD].spent)

    @property
    def held_usd(self) -> Decimal:
        """The USD of open holds on this tracker and below it."""
        return usd_of(self._own[USD].held)

    def remaining_usd(self) -> Decimal | None:
        """Like `remaining`, in USD."""
        remaining = self._remaining(USD)
        return None if remaining is None else usd_of(remaining)

    @property
    def breached(self) -> bool:
        """True if the spend of this tracker exceeds one of its limits; the tracker then refuses calls."""
        return any(account.breached for account in self._own)

    def __str__(self) -> str:
        own = self._own
        limited = [account for account in own if account.limit is not None]
        return f"{self.path}: {'; '.join(map(figures_of, limited or own[:USD]))}"

    def __repr__(self) -> str:
        return f"<BudgetTracker {self}>"

    @property
    def _own(self) -> TrackerAccounts:
        """The accounts, without lost holds and expired spend."""
        self.gate.tidy()
        return self.own_accounts

    def _remaining(self, unit: int) -> int | None:
        self.gate.tidy()
        return left_on(self.accounts.units[unit])

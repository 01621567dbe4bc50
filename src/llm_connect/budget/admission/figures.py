"""Read-only figures of a budget: spent, held, remaining."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

from llm_connect.budget.accounting.accounts import figures_of, left_on
from llm_connect.budget.accounting.levels import Account
from llm_connect.budget.accounting.scope import Scope
from llm_connect.types.amounts import usd_of

if TYPE_CHECKING:
    from llm_connect.budget.admission.backend import BudgetGate


class BudgetFigures(Scope):
    """A scope with its gate and its figures.

    Each property is read at its own moment; `BudgetTracker.snapshot` reads all figures at one moment.
    """

    gate: BudgetGate

    @property
    def total(self) -> int | None:
        """The limit in tokens."""
        return self._tokens.limit

    @property
    def spent(self) -> int:
        """The tokens spent on this tracker and below it."""
        return self._tokens.spent

    @property
    def held(self) -> int:
        """The tokens of open holds on this tracker and below it."""
        return self._tokens.held

    @property
    def allotted(self) -> int:
        """The tokens that open allotments below have set aside and neither spent nor held."""
        return self._tokens.allotted

    @property
    def sliced(self) -> int:
        """Deprecated: `allotted`."""
        return self.allotted

    def remaining(self) -> int | None:
        """The tokens that are still free: the smallest remainder up to the root, never below 0; None without a limit.

        `spent`, `held` and allotments reduce the remainder.
        """
        return self._remaining(0)

    @property
    def total_calls(self) -> int | None:
        """The limit in calls."""
        return self._calls.limit

    @property
    def spent_calls(self) -> int:
        """The requests sent to providers, except those whose holds were released."""
        return self._calls.spent

    @property
    def held_calls(self) -> int:
        """The calls of open holds on this tracker and below it."""
        return self._calls.held

    def remaining_calls(self) -> int | None:
        """Like `remaining`, in calls."""
        return self._remaining(1)

    @property
    def total_usd(self) -> Decimal | None:
        """The limit in USD."""
        return None if self._usd.limit is None else usd_of(self._usd.limit)

    @property
    def spent_usd(self) -> Decimal:
        """The USD spent on this tracker and below it; for a call of unknown cost, the USD that were held."""
        return usd_of(self._usd.spent)

    @property
    def held_usd(self) -> Decimal:
        """The USD of open holds on this tracker and below it."""
        return usd_of(self._usd.held)

    def remaining_usd(self) -> Decimal | None:
        """Like `remaining`, in USD."""
        remaining = self._remaining(2)
        return None if remaining is None else usd_of(remaining)

    @property
    def breached(self) -> bool:
        """True if the spend of this tracker exceeds one of its limits; the tracker then refuses calls."""
        self.gate.tidy()
        return any(account.breached for account in self.own_accounts)

    def __str__(self) -> str:
        self.gate.tidy()
        parts = [figures_of(account) for account in self.own_accounts if account.limit is not None]
        return f"{self.path}: {'; '.join(parts or [figures_of(self._tokens), figures_of(self._calls)])}"

    def __repr__(self) -> str:
        return f"<BudgetTracker {self}>"

    @property
    def _tokens(self) -> Account:
        return self._account(0)

    @property
    def _calls(self) -> Account:
        return self._account(1)

    @property
    def _usd(self) -> Account:
        return self._account(2)

    def _account(self, unit: int) -> Account:
        self.gate.tidy()
        return self.own_accounts[unit]

    def _remaining(self, unit: int) -> int | None:
        self.gate.tidy()
        return left_on(self.accounts.units[unit])

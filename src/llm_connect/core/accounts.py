"""One account for each unit of each tracker, and the question whether an amount fits on a path of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeAlias

from llm_connect.core.units import Amount, Unit


class Account:
    """What one tracker has spent and held of one unit, against its limit (None: no limit)."""

    __slots__ = ("held", "limit", "path", "presumed", "spent", "unit")

    def __init__(self, path: str, unit: Unit, limit: int | None) -> None:
        self.path: str = path
        self.unit: Unit = unit
        self.limit: int | None = limit
        self.spent: int = 0
        self.held: int = 0
        #: The part of `spent` that was booked without knowing.
        self.presumed: int = 0

    @property
    def left(self) -> int | None:
        """What is neither spent nor held, never below 0; None without a limit."""
        return None if self.limit is None else max(0, self.limit - self.spent - self.held)

    @property
    def breached(self) -> bool:
        return self.limit is not None and self.spent > self.limit


#: The accounts of a tracker and its ancestors, each with the place of its unit in an `Amount`.
Path: TypeAlias = tuple[tuple[Account, int], ...]


def short(path: Path, amount: Amount) -> list[Account]:
    """The accounts on which `amount` does not fit now."""
    return [
        account
        for account, unit in path
        if account.limit is not None
        and (amount[unit] or account.spent > account.limit)
        and account.spent + account.held + amount[unit] > account.limit
    ]


def fits(path: Path, amount: Amount) -> bool:
    """Whether `short` is empty."""
    for account, unit in path:
        limit = account.limit
        if limit is not None:
            need = amount[unit]
            if account.spent + account.held + need > limit and (need or account.spent > limit):
                return False
    return True


def hopeless(path: Path, amount: Amount, own: Callable[[Account], int] = lambda _: 0) -> Account | None:
    """The first account on which `amount` would not fit even with no hold open but the caller's `own`."""
    for account, unit in path:
        limit, need = account.limit, amount[unit]
        if limit is not None and account.spent + own(account) + need > limit and (need or account.breached):
            return account
    return None


def hold(path: Path, amount: Amount) -> None:
    for account, unit in path:
        account.held += amount[unit]


def unhold(path: Path, amount: Amount) -> None:
    for account, unit in path:
        account.held -= amount[unit]


def book(path: Path, amount: Amount) -> None:
    for account, unit in path:
        account.spent += amount[unit]


def presume(path: Path, amount: Amount) -> None:
    """Count `amount` of what is spent as presumed (less of it, when negative)."""
    for account, unit in path:
        account.presumed += amount[unit]


def amount_of(accounts: Iterable[Account], field: str) -> Amount:
    """One field of a tracker's own accounts, as an `Amount`."""
    return Amount(*(getattr(account, field) for account in accounts))

"""The units of a budget: tokens, calls, and money in nano-USD, all as integers."""

from __future__ import annotations

from decimal import ROUND_CEILING, Context, Decimal, InvalidOperation, Overflow
from typing import Literal, NamedTuple, TypeAlias

Unit: TypeAlias = Literal["tokens", "calls", "usd"]
UNITS: tuple[Unit, ...] = ("tokens", "calls", "usd")
#: The index of each unit in an `Amount`.
TOKENS, CALLS, USD = range(3)
NANO = 1_000_000_000
#: The highest accepted figure of one call: 10^15 tokens, or a million USD. Every store can add up nine of them.
MOST = 10**15
#: The highest limit: the largest integer of 64 bits, which a file can hold. In USD it is nine thousand million.
MOST_LIMIT = 2**63 - 1
#: The decimal context of all arithmetic with money; the context of the thread has no effect.
MONEY = Context(prec=60, rounding=ROUND_CEILING, Emin=-60, Emax=60, traps=[InvalidOperation, Overflow])


class Amount(NamedTuple):
    """An amount of each unit: whole tokens, whole calls, whole nano-USD.

    Amount(tokens=1_200, calls=1, nano_usd=480_000).usd == Decimal("0.00048")
    """

    tokens: int = 0
    calls: int = 0
    nano_usd: int = 0

    @property
    def usd(self) -> Decimal:
        return usd_of(self.nano_usd)

    def plus(self, other: Amount) -> Amount:
        return amount_of(self[0] + other[0], self[1] + other[1], self[2] + other[2])

    def minus(self, other: Amount) -> Amount:
        return amount_of(self[0] - other[0], self[1] - other[1], self[2] - other[2])

    def but(self, tokens: int | None, calls: int | None, nano_usd: int | None) -> Amount:
        """A copy with these figures replaced; None keeps a figure."""
        return amount_of(
            self[0] if tokens is None else tokens,
            self[1] if calls is None else calls,
            self[2] if nano_usd is None else nano_usd,
        )


NOTHING = Amount()
_tuple = tuple.__new__


def amount_of(tokens: int, calls: int, nano_usd: int) -> Amount:
    """The same as `Amount(tokens, calls, nano_usd)`, in half the time; every call makes several."""
    return _tuple(Amount, (tokens, calls, nano_usd))


def usd_of(nano_usd: int) -> Decimal:
    """Nano-USD as USD, exact and without trailing zeros, in any decimal context of the thread."""
    whole, part = divmod(nano_usd, NANO)
    return Decimal(whole) if part == 0 else Decimal(f"{nano_usd}E-9").normalize(MONEY)


def shown(unit: Unit, value: int) -> str:
    """A figure as text for people: `1,200 tokens`, `3 calls`, `0.0021 USD`."""
    if unit == "usd":
        return f"{plain(usd_of(value))} USD"
    return f"{value:,} {unit if value != 1 else unit[:-1]}"


def plain(amount: Decimal) -> str:
    """A decimal without an exponent and without trailing zeros."""
    whole, _, part = f"{amount:f}".partition(".")
    return f"{whole}.{part}".rstrip("0").rstrip(".")

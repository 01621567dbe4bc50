"""What a budget counts: tokens, calls, and money in nano-USD, as integers."""

from __future__ import annotations

from decimal import ROUND_CEILING, Context, Decimal, DecimalException, InvalidOperation, Overflow
from typing import Literal, NamedTuple, TypeAlias

from llm_connect.core.checks import shown_value
from llm_connect.core.exceptions import LLMConfigurationError

Unit: TypeAlias = Literal["tokens", "calls", "usd"]
UNITS: tuple[Unit, ...] = ("tokens", "calls", "usd")
NANO = 1_000_000_000
#: No figure of one call is believed above it: 10^15 tokens, or a million USD. Every store counts sums of nine of them.
MOST = 10**15
#: No limit is above it: it has 64 bits in a file. In USD it is nine thousand million.
MOST_LIMIT = 2**63 - 1
#: Money is counted in it, whatever the decimal context of the thread is.
_MONEY = Context(prec=60, rounding=ROUND_CEILING, Emin=-60, Emax=60, traps=[InvalidOperation, Overflow])


class Amount(NamedTuple):
    """How much of each unit: whole tokens, whole calls, whole nano-USD.

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
        """The same, with the figures that are given (None: not given) in place of its own."""
        return amount_of(
            self[0] if tokens is None else tokens,
            self[1] if calls is None else calls,
            self[2] if nano_usd is None else nano_usd,
        )


NOTHING = Amount()
_tuple = tuple.__new__


def amount_of(tokens: int, calls: int, nano_usd: int) -> Amount:
    """The same as `Amount(tokens, calls, nano_usd)`, in half the time: every call makes some."""
    return _tuple(Amount, (tokens, calls, nano_usd))


def usd_of(nano_usd: int) -> Decimal:
    """Nano-USD as USD, exactly and without zeros at the end, whatever the decimal context of the thread is."""
    whole, part = divmod(nano_usd, NANO)
    return Decimal(whole) if part == 0 else Decimal(f"{nano_usd}E-9").normalize(_MONEY)


def nano_usd_of(name: str, value: object) -> int:
    """USD as nano-USD, rounded up; a float counts as what its repr shows.

    Raises LLMConfigurationError for what is no finite amount of at least 0.
    """
    return scaled_usd(name, value, 9)


def checked_usd(name: str, value: object, most: int = MOST) -> int:
    """Like `nano_usd_of`, of an amount that a budget can count: at most so many nano-USD."""
    return scaled_usd(name, value, 9, most)


def scaled_usd(name: str, value: object, digits: int, most: int | None = None) -> int:
    """Like `nano_usd_of`, with another number of digits behind the point, and at most so much."""
    wrong = LLMConfigurationError(f"{name} must be an amount of USD of at least 0, not {shown_value(value)}.")
    if isinstance(value, bool) or not isinstance(value, int | float | str | Decimal):
        raise wrong
    try:
        amount = Decimal(float.__repr__(value) if isinstance(value, float) else value)
        if not amount.is_finite() or amount < 0:
            raise wrong
        scaled = int(amount.scaleb(digits, _MONEY).to_integral_value(ROUND_CEILING))
    except Overflow:
        raise _too_large(name, value, MOST // NANO if most is None else most // 10**digits) from None
    except DecimalException:
        raise wrong from None
    if most is not None and scaled > most:
        raise _too_large(name, value, most // 10**digits)
    return scaled


def _too_large(name: str, value: object, most: int) -> LLMConfigurationError:
    return LLMConfigurationError(f"{name} must be at most {most:,} USD, not {shown_value(value)}.")


def shown(unit: Unit, value: int) -> str:
    """A figure as a person reads it: `1,200 tokens`, `3 calls`, `0.0021 USD`."""
    if unit == "usd":
        return f"{plain(usd_of(value))} USD"
    return f"{value:,} {unit if value != 1 else unit[:-1]}"


def plain(amount: Decimal) -> str:
    """All its digits but the zeros at the end."""
    whole, _, part = f"{amount:f}".partition(".")
    return f"{whole}.{part}".rstrip("0").rstrip(".")

"""Parsing of money as users and providers write it, without rounding errors."""

from __future__ import annotations

from decimal import ROUND_CEILING, Decimal, DecimalException, Overflow

from llm_connect._validation import shown_value
from llm_connect.errors import LLMConfigurationError
from llm_connect.types.amounts import MONEY, MOST, NANO


def nano_usd_of(name: str, value: object) -> int:
    """USD as nano-USD, rounded up; a float has the value that its repr shows.

    Raises LLMConfigurationError unless `value` is a finite amount of at least 0.
    """
    return scaled_usd(name, value, 9)


def checked_usd(name: str, value: object, most: int = MOST) -> int:
    """Like `nano_usd_of`, for at most `most` nano-USD."""
    return scaled_usd(name, value, 9, most)


def scaled_usd(name: str, value: object, digits: int, most: int | None = None) -> int:
    """Like `nano_usd_of`, in units of 10^-digits USD, and for at most `most` of them."""
    wrong = LLMConfigurationError(f"{name} must be an amount of USD of at least 0, not {shown_value(value)}.")
    if isinstance(value, bool) or not isinstance(value, int | float | str | Decimal):
        raise wrong
    try:
        amount = Decimal(float.__repr__(value) if isinstance(value, float) else value)
        if not amount.is_finite() or amount < 0:
            raise wrong
        scaled = int(amount.scaleb(digits, MONEY).to_integral_value(ROUND_CEILING))
    except Overflow:
        raise _too_large(name, value, MOST // NANO if most is None else most // 10**digits) from None
    except DecimalException:
        raise wrong from None
    if most is not None and scaled > most:
        raise _too_large(name, value, most // 10**digits)
    return scaled


def _too_large(name: str, value: object, most: int) -> LLMConfigurationError:
    return LLMConfigurationError(f"{name} must be at most {most:,} USD, not {shown_value(value)}.")

"""Validation of what users pass to a budget: money, limits, periods and figures."""

from __future__ import annotations

from datetime import timedelta
from decimal import ROUND_CEILING, Decimal, DecimalException, Overflow
from typing import TypeAlias

from llm_connect._validation import check_count, shown_value
from llm_connect.budget.accounting.windows import PHRASES, Period
from llm_connect.errors import LLMConfigurationError
from llm_connect.types.amounts import MONEY, MOST, MOST_LIMIT, NANO
from llm_connect.types.usage import Usage


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


#: Limits in tokens, calls and nano-USD; None for no limit.
Limits: TypeAlias = tuple[int | None, int | None, int | None]
_LONGEST = timedelta(days=3_660)
#: The fields of a `Usage` that count tokens.
_PARTS = ("prompt_tokens", "completion_tokens", "cached_tokens", "cache_write_tokens", "reasoning_tokens")


def checked_limits(total: object, total_calls: object, total_usd: object, most: int = MOST_LIMIT) -> Limits:
    """Validate the limits of a tracker. Raises LLMConfigurationError for one that is invalid or too large."""
    check_count("total", total, least=1, most=most, optional=True)
    check_count("total_calls", total_calls, least=1, most=most, optional=True)
    nano_usd = None if total_usd is None else checked_usd("total_usd", total_usd, most)
    if nano_usd == 0:
        raise LLMConfigurationError(f"total_usd must be above 0, not {total_usd!r}.")
    return total, total_calls, nano_usd  # type: ignore[return-value]


def checked_period(period: object) -> Period | None:
    """Validate a period. Raises LLMConfigurationError for an invalid one."""
    if period is None or (isinstance(period, str) and period in PHRASES):
        return period  # type: ignore[return-value]
    if isinstance(period, timedelta) and timedelta() < period <= _LONGEST:
        return period
    raise LLMConfigurationError(
        f"period must be 'hour', 'day', 'month' or a timedelta above 0 and of at most ten years, not {period!r}."
    )


def checked_correction(tokens: object, calls: object, usd: object) -> Limits:
    """Like `checked_figures`, and refuses amounts that are too large for a budget."""
    for name, value in (("tokens", tokens), ("calls", calls)):
        check_count(name, value, least=0, most=MOST, optional=True)
    return tokens, calls, None if usd is None else checked_usd("usd", usd)  # type: ignore[return-value]


def check_usage(usage: object) -> None:
    """Raise LLMConfigurationError for a usage of another type, or with an invalid figure."""
    if not isinstance(usage, Usage):
        raise LLMConfigurationError(
            f"usage must be a Usage, not {type(usage).__name__}: make one, or pass the tokens alone."
        )
    for name in _PARTS:
        check_count(f"usage.{name}", getattr(usage, name), least=0)


def checked_figures(tokens: object, calls: object, usd: object) -> Limits:
    """Validate the actual figures of a call, without an upper limit; None means not given.

    Raises LLMConfigurationError for an invalid figure.
    """
    check_count("tokens", tokens, least=0, optional=True)
    check_count("calls", calls, least=0, optional=True)
    return tokens, calls, None if usd is None else nano_usd_of("usd", usd)  # type: ignore[return-value]

"""Periods: the time for which spend counts against a limit."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Literal, TypeAlias

from llm_connect.errors import LLMConfigurationError

#: A calendar period starts over at its boundary in UTC; a `timedelta` means every span of that length.
Period: TypeAlias = Literal["hour", "day", "month"] | timedelta

#: The number of parts in a `timedelta`; each part leaves the window as a whole.
PARTS = 60
_LONGEST = timedelta(days=3_660)
_SECONDS = {"hour": 3_600, "day": 86_400}
_PHRASES = {"hour": "an hour", "day": "a day", "month": "a month"}
_MICROSECOND = timedelta(microseconds=1)


def checked_period(period: object) -> Period | None:
    """Validate a period. Raises LLMConfigurationError for an invalid one."""
    if period is None or (isinstance(period, str) and period in _PHRASES):
        return period  # type: ignore[return-value]
    if isinstance(period, timedelta) and timedelta() < period <= _LONGEST:
        return period
    raise LLMConfigurationError(
        f"period must be 'hour', 'day', 'month' or a timedelta above 0 and of at most ten years, not {period!r}."
    )


def part_end(period: Period, now: float) -> float:
    """The end of the part that contains `now`, always after `now`; a calendar period is a single part."""
    if isinstance(period, timedelta):
        step = -(-(period // _MICROSECOND) // PARTS)
        return (math.floor(now * 1e6) // step + 1) * step / 1e6
    if period == "month":
        day = datetime.fromtimestamp(now, UTC)
        return datetime(day.year + day.month // 12, day.month % 12 + 1, 1, tzinfo=UTC).timestamp()
    seconds = _SECONDS[period]
    return (now // seconds + 1) * seconds


def kept_seconds(period: Period) -> float:
    """The seconds that a part counts after its end, so that a limit holds for every span of the period's length."""
    return period.total_seconds() if isinstance(period, timedelta) else 0.0


def describe_period(period: Period) -> str:
    """A period as text after a limit: `a day`, `in any 24 hours`."""
    if not isinstance(period, timedelta):
        return _PHRASES[period]
    for unit in ("days", "hours", "minutes"):
        number, rest = divmod(period, timedelta(**{unit: 1}))
        if number > 1 and not rest:
            return f"in any {number} {unit}"
    seconds = period.total_seconds()
    return "in any second" if seconds == 1 else f"in any {seconds:g} seconds"


def period_text(period: Period) -> str:
    """A period in the format of the stores: `day`, or `86400000000 us`."""
    return f"{period // _MICROSECOND} us" if isinstance(period, timedelta) else period


def period_of(text: str) -> Period:
    """The inverse of `period_text`."""
    number, _, unit = text.partition(" ")
    return timedelta(microseconds=int(number)) if unit else text  # type: ignore[return-value]


def describe_moment(moment: float) -> str:
    """A time as text, rounded up to a second: `2026-11-25 00:00:00 UTC`."""
    return f"{datetime.fromtimestamp(math.ceil(moment), UTC):%Y-%m-%d %H:%M:%S} UTC"

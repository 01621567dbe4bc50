"""The rules, in the order of checking."""

from __future__ import annotations

from typing import Final

from .._rule import ConformanceRule
from . import answers, bookings, failures, sharing, streamed_answers, unanswered, unsendable

RULES: Final[tuple[ConformanceRule, ...]] = tuple(
    found
    for module in (answers, unsendable, bookings, streamed_answers, sharing, unanswered, failures)
    for found in vars(module).values()
    if isinstance(found, ConformanceRule) and found.check.__module__ == module.__name__
)

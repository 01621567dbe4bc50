"""The rules, in the order of checking."""

from __future__ import annotations

from typing import Final

from ..rule import ConformanceRule
from . import answers, budget, deadline, errors, refusals, sharing, streams

RULES: Final[tuple[ConformanceRule, ...]] = tuple(
    found
    for module in (answers, refusals, budget, streams, sharing, deadline, errors)
    for found in vars(module).values()
    if isinstance(found, ConformanceRule) and found.check.__module__ == module.__name__
)

"""All adapters that break one rule each, in the way that adapters do: a module for each family of rules."""

from __future__ import annotations

from tests.testing import broken_answers, broken_budget, broken_concurrency, broken_errors  # noqa: F401 - add to BROKEN
from tests.testing.breaking import BROKEN

__all__ = ["BROKEN"]

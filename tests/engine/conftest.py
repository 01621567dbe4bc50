"""The tests of the call path, too, run against every store."""

from __future__ import annotations

from tests.budget.conftest import pytest_generate_tests, store

__all__ = ["pytest_generate_tests", "store"]

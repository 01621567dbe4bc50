"""Real parts that several files share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from examples.chain.local_engine import LocalEngine
from llm_connect import LLMConfigurationError


@pytest.fixture(scope="session")
def engine() -> Iterator[LocalEngine]:
    """A real language model on loopback, that of the example; tests of the xdist group `engine` share one."""
    try:
        local = LocalEngine()
    except LLMConfigurationError as missing:
        pytest.skip(str(missing))
    with local as running:
        yield running

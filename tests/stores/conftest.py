"""What tests of stores need."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.core.conftest import fast_folder


@pytest.fixture
def folder() -> Iterator[Path]:
    """An empty folder, in memory where there is one: what is tested here is not the disk."""
    path = Path(tempfile.mkdtemp(prefix="llm-connect-", dir=fast_folder()))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def url(folder: Path) -> str:
    """The URL of a budget file that is not there yet."""
    return f"sqlite:///{folder}/budget.db"

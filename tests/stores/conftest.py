"""Fixtures for the tests of stores."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.budget.stores import STORES, new_url, temporary_folder
from tests.stores.losing import FOR_ALL, FOR_ONE, Store

#: Files whose tests run with every store, except for those that look into a budget file.
OF_EACH_STORE = {
    "test_closing",
    "test_command",
    "test_leases",
    "test_opening",
    "test_paths",
    "test_order",
    "test_processes",
    "test_sharing",
    "test_windows",
    "test_worker",
}
ABOUT_FILES = {
    "test_a_file_that_is_none_of_ours",
    "test_a_lost_hold_is_not_the_hold_that_has_its_number_now",
    "test_what_is_not_there_is_not_made",
    "test_an_adapter_in_a_coroutine_waits_in_the_worker",
    "test_no_operation_of_a_coroutine_blocks_its_loop",
    "test_what_a_cancelled_call_comes_to_is_not_lost",
    "test_a_file_of_the_first_version_gets_windows",
    "test_a_window_is_as_before_when_a_transaction_fails",
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    name = metafunc.module.__name__.rpartition(".")[2]
    if "url" in metafunc.fixturenames:
        each = name in OF_EACH_STORE and metafunc.function.__name__ not in ABOUT_FILES
        metafunc.parametrize(
            "url", [store for store in STORES if store == "sqlite" or (each and store != "memory")], indirect=True
        )


@pytest.fixture
def folder() -> Iterator[Path]:
    """An empty folder."""
    with temporary_folder() as path:
        yield Path(path)


@pytest.fixture
def url(request: pytest.FixtureRequest, folder: Path) -> str:
    """The URL of a store without budgets; a file does not exist yet."""
    store: str = request.param
    return f"sqlite:///{folder}/budget.db" if store == "sqlite" else new_url(store, folder)


@pytest.fixture
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """Silence the log of outages."""
    caplog.set_level(logging.CRITICAL, "llm_connect")


@pytest.fixture(params=[*FOR_ALL, *FOR_ONE])
def store(request: pytest.FixtureRequest, folder: Path) -> Iterator[Store]:
    """A store that the test can lose."""
    found = {**FOR_ALL, **FOR_ONE}[request.param](folder)
    yield found
    found.stop()

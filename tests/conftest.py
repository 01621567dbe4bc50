"""Rules for all tests.

- No test meets a paid provider: keys and endpoints of the developer's environment are not seen.
- The tests of the tracker run against a budget in memory, those of stores against a file. --stores=others runs
  what is about other stores than these, --stores=all both. --rest runs those of other stores, and all slow tests.
- --sample runs every test function, but of its parameters only a third of the combinations: always the same third.
- With LLM_CONNECT_REQUIRE_ALL=1 a skipped test fails, unless it is marked `allow_skip`.
- After each operation of a budget its promise is asserted (tests/promise.py).
- A test marked `scales` asks the fixture `nightly` how much to do: `tasks.py nightly` runs those tests at full length,
  and those marked `at_night`, which no other run chooses.
"""

from __future__ import annotations

import gc
import os
import re
from collections import defaultdict
from collections.abc import Generator, Iterable, Iterator
from zlib import crc32

import hypothesis
import pytest

from tests import promise

REQUIRE_ALL = "LLM_CONNECT_REQUIRE_ALL"
OF_SERVERS = re.compile(r"test_redis|Redis|\[[^]]*(redis|server)")
#: The folders whose tests are slow. `tasks.py test` leaves them out, and `tasks.py check` runs them without coverage.
SLOW = frozenset({"benchmarks", "e2e", "faults", "simulation", "spec", "testing", "typing"})
PROVIDERS = ("ANTHROPIC_", "CLAUDE_", "GEMINI_", "GOOGLE_", "OPENAI_", "OPENROUTER_")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--stores", choices=["default", "others", "all"], default="default", help="where budgets are kept")
    parser.addoption("--seed", type=int, help="the only seed that the simulation runs")
    parser.addoption("--rest", action="store_true", help="run what a run without slow tests and other stores left out")
    parser.addoption("--sample", action="store_true", help="run a third of the parameters of each test function")
    parser.addoption("--nightly", action="store_true", help="run tests that are marked `scales` at full length")


def pytest_configure(config: pytest.Config) -> None:
    hypothesis.settings.register_profile("patient", deadline=None)
    hypothesis.settings.load_profile("patient")
    config.addinivalue_line("markers", f"allow_skip: this test may be skipped although {REQUIRE_ALL} is set")
    config.addinivalue_line("markers", "at_night: this test is run with --nightly only: others are much like it")
    config.addinivalue_line("markers", "in_memory_only: this test is not run against stores")
    config.addinivalue_line("markers", "scales: this test does more with --nightly")
    config.addinivalue_line("markers", "slow: this test takes long, and covers no line that others do not")
    for name in [name for name in os.environ if name.startswith(PROVIDERS)]:
        del os.environ[name]


@pytest.fixture(scope="session")
def nightly(pytestconfig: pytest.Config) -> bool:
    """Whether tests that scale run at full length."""
    return bool(pytestconfig.getoption("nightly"))


@pytest.fixture(scope="session", autouse=True)
def watched_budgets() -> Iterator[None]:
    """Every budget of this process is looked at after each operation."""
    with promise.installed():
        yield


@pytest.fixture(scope="module", autouse=True)
def short_collections() -> None:
    """Keep what stands already out of garbage collections: tests make thousands of them."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def kept_promise(watched_budgets: None, request: pytest.FixtureRequest) -> Iterator[None]:
    """No budget was over its limit by a grant, and no figure was negative."""
    promise.watching = request.path.parent.name not in ("faults", "simulation")
    promise.violations.clear()
    yield
    assert promise.violations == [], "".join(promise.violations)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent.name in SLOW:
            item.add_marker("slow")
    kept = {item for item in items if is_chosen(item, config)}
    if config.getoption("sample"):
        kept &= set(sample(items))
    if left_out := [item for item in items if item not in kept]:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item in kept]


def sample(items: Iterable[pytest.Item]) -> Iterator[pytest.Item]:
    """A third of the items of each function, at least one. Names draw it, so that no parameter repeats with it."""
    functions = defaultdict(list)
    for item in items:
        functions[item.nodeid.partition("[")[0]].append(item)
    for each in functions.values():
        yield from [item for item in each if crc32(item.nodeid.encode()) % 3 == 0] or each[:1]


def is_chosen(item: pytest.Item, config: pytest.Config) -> bool:
    """Whether the options --stores, --rest and --nightly choose a test."""
    if item.get_closest_marker("at_night") is not None and not config.getoption("nightly"):
        return False
    if config.getoption("rest"):
        return of_others(item) or item.get_closest_marker("slow") is not None
    chosen = config.getoption("stores")
    return chosen == "all" or of_others(item) == (chosen == "others")


def of_others(item: pytest.Item) -> bool:
    """Whether a test is about another store than those of its kind are: a server, or for the tracker a file."""
    if item.path.parent.name == "stores":
        return OF_SERVERS.search(item.nodeid) is not None
    callspec = getattr(item, "callspec", None)
    return callspec is not None and callspec.params.get("store") in ("sqlite", "redis")


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    if report.skipped:
        refuse_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and item.get_closest_marker("allow_skip") is None:
        refuse_skip(report)
    return report


def refuse_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Turn a skip into a failure when every part is required."""
    if os.environ.get(REQUIRE_ALL) not in (None, "", "0"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{reason}, but {REQUIRE_ALL} is set"

"""A call does not quietly come to do more: counted, not timed. What a call costs in time is measured in benchmarks/."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import llm_connect
from llm_connect import BudgetTracker, RunConfig
from llm_connect.testing import EmbeddedProvider
from tests.providers.conftest import Make

PACKAGE = str(Path(llm_connect.__file__).parent)
#: Functions that our code calls for one call, its own and built-in ones, without a budget and with one. It is a
#: twentieth above what the dearest adapter takes on Python 3.11, which counts comprehensions, too.
MOST = {"sync": {False: 389, True: 656}, "async": {False: 407, True: 675}}
CALLS = 10


class Profile:
    """Counts the functions that our code calls while it is on."""

    def __init__(self) -> None:
        self.count = 0
        self.where: Counter[str] = Counter()

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        caller = frame if event == "c_call" else frame.f_back
        if event in ("call", "c_call") and caller is not None and caller.f_code.co_filename.startswith(PACKAGE):
            self.count += 1
            self.where[Path(caller.f_code.co_filename).name] += 1

    def __enter__(self) -> Profile:
        sys.setprofile(self)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)


def config(*, budget: bool) -> RunConfig:
    return RunConfig(max_tokens=50, budget_tracker=BudgetTracker(total=10**9) if budget else None)


@pytest.mark.parametrize("budget", [False, True], ids=["without a budget", "with one"])
def test_a_sync_call_does_no_more_than_it_did(make: Make, provider: EmbeddedProvider, budget: bool) -> None:
    """One request, and no more functions than the ceiling, with a budget and without."""
    adapter, asked = make(), config(budget=budget)
    adapter.execute_prompt("hello", asked)
    with Profile() as profile:
        for _ in range(CALLS):
            adapter.execute_prompt("hello", asked)
    assert len(provider.requests) == CALLS + 1
    assert profile.count / CALLS <= MOST["sync"][budget], profile.where.most_common(8)


@pytest.mark.parametrize("budget", [False, True], ids=["without a budget", "with one"])
@pytest.mark.usefixtures("transport")
def test_an_async_call_does_no_more_than_it_did(make: Make, provider: EmbeddedProvider, budget: bool) -> None:
    """The same for the async form, over each transport."""
    adapter, asked = make(), config(budget=budget)

    async def run() -> Profile:
        async with adapter:
            await adapter.async_execute_prompt("hello", asked)
            with Profile() as profile:
                for _ in range(CALLS):
                    await adapter.async_execute_prompt("hello", asked)
        return profile

    profile = asyncio.run(run())
    assert len(provider.requests) == CALLS + 1
    assert profile.count / CALLS <= MOST["async"][budget], profile.where.most_common(8)


def test_the_profile_sees_what_is_done_more(make: Make) -> None:
    """A call that does twice as much is counted as twice as much."""
    adapter, asked = make(), config(budget=False)
    adapter.execute_prompt("hello", asked)
    counts = []
    for times in (1, 2):
        with Profile() as profile:
            for _ in range(times):
                adapter.execute_prompt("hello", asked)
        counts.append(profile.count)
    assert counts[0] > 100
    assert 1.9 <= counts[1] / counts[0] <= 2.1

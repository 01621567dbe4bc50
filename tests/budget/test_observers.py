"""Observers are told what happens to calls, outside of locks and in the context of the caller."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest

from llm_connect import (
    BudgetTracker,
    CallEvent,
    LLMBudgetExceededError,
    LLMStoreError,
    Observer,
    RunConfig,
    add_observer,
    open_budget,
    remove_observer,
)
from llm_connect.budget.admission import log
from llm_connect.testing import Behaviour, EmbeddedProvider
from llm_connect.testing.mock import MockLLMAdapter
from tests.budget.budget_helpers import in_thread, until, waits
from tests.providers.test_output_limits import ADAPTERS, in_loop, streamed, streamed_in_loop, sync

NAMES = ["reserve", "wait", "grant", "refuse", "clamp", "dispatch", "retry", "settle", "presume", "overrun", "outage"]
MODES = [sync, in_loop, streamed, streamed_in_loop]
caller: ContextVar[str] = ContextVar("caller", default="nobody")
Make = Callable[..., BudgetTracker]


class Noted(Observer):
    """Keeps what it is told, and the caller in whose context it is."""

    def __init__(self) -> None:
        self.events: list[tuple[str, CallEvent]] = []
        self.callers: set[str] = set()

    def note(self, name: str, event: CallEvent) -> None:
        self.events.append((name, event))
        self.callers.add(caller.get())

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.events]

    def of(self, name: str) -> CallEvent:
        """The one event of this name."""
        (event,) = [event for known, event in self.events if known == name]
        return event


def _noting(name: str) -> Any:
    return lambda self, event: self.note(name, event)


for _name in NAMES:
    setattr(Noted, _name, _noting(_name))


@pytest.fixture
def noted() -> Iterator[Noted]:
    """An observer that keeps what it is told."""
    observer = Noted()
    add_observer(observer)
    yield observer
    remove_observer(observer)


@pytest.fixture(params=["memory", "file"])
def budget(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Make]:
    """Makes a budget in memory, and one in a file."""
    made = []

    def make(**limits: Any) -> BudgetTracker:
        in_memory = request.param == "memory"
        made.append(BudgetTracker(**limits) if in_memory else open_budget(f"sqlite:///{tmp_path}/b.db", **limits))
        return made[-1]

    yield make
    for tracker in made:
        tracker.close()


@pytest.mark.parametrize("how", MODES)
@pytest.mark.parametrize("name", ADAPTERS)
def test_a_call_is_told_from_its_reservation_to_its_end(name: str, how: Any, budget: Make, noted: Noted) -> None:
    """In every format and mode, in the context of the caller, with the figures of the ledger. (BUDGET-75)"""
    tracker = budget(total=100_000)
    caller.set("me")
    with EmbeddedProvider() as provider, ADAPTERS[name](provider.url) as adapter:  # type: ignore[attr-defined]
        how(adapter, RunConfig(budget_tracker=tracker, max_tokens=50, labels={"team": "a"}))
    (entry,) = tracker.ledger
    assert noted.names == ["reserve", "grant", "dispatch", "settle"]
    assert noted.callers == {"me"}
    for _, event in noted.events:
        assert (event.path, event.provider, event.labels) == ("budget", entry.adapter, {"team": "a"})
    assert noted.of("reserve").tokens == noted.of("dispatch").tokens == entry.bound.tokens
    assert noted.of("grant").seconds == 0
    end = noted.of("settle")
    assert (end.tokens, end.held_tokens, end.outcome) == (entry.amount.tokens, entry.bound.tokens, "settled")
    assert (end.model, end.request_id) == (entry.model, entry.request_id)


@pytest.mark.parametrize("how", MODES)
def test_the_method_of_a_foreign_adapter_is_told_alike(how: Any, noted: Noted) -> None:
    """Metering runs the same attempt. (BUDGET-75)"""

    class Closing(MockLLMAdapter):
        async def aclose(self) -> None:
            """For the modes that close adapters in their loop."""

    how(Closing(), RunConfig(budget_tracker=BudgetTracker(100_000)))
    assert noted.names == ["reserve", "grant", "dispatch", "settle"]


@pytest.mark.parametrize("how", MODES)
def test_retries_and_releases_are_told(how: Any, budget: Make, noted: Noted) -> None:
    """A failure that is not billed releases its hold, and the next attempt has a hold of its own. (BUDGET-75)"""
    with EmbeddedProvider() as provider, ADAPTERS["openrouter"](provider.url) as adapter:  # type: ignore[attr-defined]
        provider.script(Behaviour(status=429, retry_after=0), times=1)
        how(adapter, RunConfig(budget_tracker=budget(total=100_000), max_tokens=50))
    attempt = ["reserve", "grant", "dispatch", "settle"]
    assert noted.names == [*attempt, "retry", *attempt]
    retry = noted.of("retry")
    assert (retry.attempt, retry.error, retry.status) == (1, "LLMRateLimitError", 429)
    assert [event.outcome for name, event in noted.events if name == "settle"] == ["released", "settled"]


@pytest.mark.parametrize("how", MODES)
def test_an_overrun_a_presumption_and_a_clamp_are_told(how: Any, budget: Make, noted: Noted) -> None:
    """Each once, with the bound beside the amount that is booked. (BUDGET-75)"""
    with EmbeddedProvider() as provider, ADAPTERS["openrouter"](provider.url) as adapter:  # type: ignore[attr-defined]
        tracker = budget(total=40_000)
        provider.script(Behaviour(hidden_prompt_tokens=8_000), times=1)
        how(adapter, RunConfig(budget_tracker=tracker, max_tokens=50))
        assert noted.names[-2:] == ["settle", "overrun"]
        overrun = noted.of("overrun")
        assert overrun.tokens == tracker.spent > 8_000 > (overrun.held_tokens or 0)
        noted.events.clear()
        provider.script(Behaviour(usage="zero"), times=1)
        how(adapter, RunConfig(budget_tracker=tracker, max_tokens=50_000, when_short="clamp"))
        assert noted.names == ["reserve", "grant", "clamp", "dispatch", "presume"]
        clamp, presumed = noted.of("clamp"), noted.of("presume")
        assert (clamp.asked, clamp.max_tokens) == (50_000, provider.requests[-1].output_limit)
        assert presumed.tokens == presumed.held_tokens == list(tracker.ledger)[-1].amount.tokens


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_wait_and_a_refusal_are_told(mode: str, budget: Make, noted: Noted) -> None:
    """The wait at its beginning; the grant, or the refusal, at its end. (BUDGET-75)"""
    tracker = budget(total=100)
    filler = tracker.reserve(80)
    noted.events.clear()

    def wait() -> None:
        if mode == "sync":
            tracker.reserve(50, max_wait_seconds=60).release()
        else:
            asyncio.run(_reserved(tracker))

    waiting = in_thread(wait)
    waits(tracker, 1)
    until(lambda: noted.names == ["reserve", "wait"])
    filler.release()
    waiting.result(60)
    assert (noted.of("grant").seconds or 0) > 0
    with pytest.raises(LLMBudgetExceededError) as caught:
        tracker.reserve(101)
    assert noted.of("refuse").refusal is caught.value


async def _reserved(tracker: BudgetTracker) -> None:
    hold = await tracker.areserve(50, max_wait_seconds=60)
    hold.release()
    await hold.abooked()


def test_a_refusal_for_want_of_a_price_is_told(noted: Noted) -> None:
    """A reservation that is refused before it asks for budget is told as well. (BUDGET-75)"""
    with pytest.raises(LLMBudgetExceededError):
        BudgetTracker(total_usd=5).reserve(10, model="no-such-model")
    assert noted.names == ["refuse"]


def test_reservations_by_hand_are_told(budget: Make, noted: Noted) -> None:
    """Whoever ends the hold, and however. (BUDGET-75)"""
    tracker = budget(total=1_000)
    with tracker.reserve(10) as hold:
        hold.dispatch()
        hold.settle(5)
        hold.settle(6)
        hold.release()
    with tracker.reserve(10) as hold:
        hold.dispatch()
    tracker.reserve(10).release()
    tracker.consume(10)

    async def areserve() -> None:
        with await tracker.areserve(10) as hold:
            await hold.adispatch()
            hold.settle(5)
        await hold.abooked()

    asyncio.run(areserve())
    settled = ["reserve", "grant", "dispatch", "settle"]
    presumed = ["reserve", "grant", "dispatch", "presume"]
    assert noted.names == [*settled, *presumed, *["reserve", "grant", "settle"] * 2, *settled]


def test_an_outage_is_told_at_its_beginning_and_its_end(tmp_path: Path, noted: Noted) -> None:
    """The second event has the seconds that it took. (BUDGET-75)"""
    tracker = open_budget(f"sqlite:///{tmp_path}/budget.db", total=1_000, lease_seconds=2.4)
    with closing(sqlite3.connect(tmp_path / "budget.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(LLMStoreError):
            tracker.reserve(10)
        other.execute("ROLLBACK")
    tracker.reserve(10).release()
    tracker.close()
    lost, back = (event for name, event in noted.events if name == "outage")
    assert lost.seconds is None
    assert lost.store == back.store
    assert back.seconds is not None


def test_an_observer_may_use_the_budget(budget: Make) -> None:
    """No lock is held: it reads the figures in its own thread, and lets another one reserve. (BUDGET-75)"""
    tracker, seen = budget(total=1_000), []

    class Reads(Observer):
        def grant(self, event: CallEvent) -> None:
            seen.append(tracker.held)
            remove_observer(self)
            in_thread(lambda: tracker.reserve(10).release()).result(60)

    add_observer(Reads())
    tracker.reserve(100).release()
    assert seen == [100]


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("how", MODES)
def test_an_observer_that_fails_disturbs_no_call(
    how: Any, kind: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    """The failure is logged, others are told, and a wish to end the program waits for the next call. (BUDGET-75)"""

    class Fails(Observer):
        def grant(self, event: CallEvent) -> None:
            raise kind("the observer")

        settle = dispatch = reserve = grant

    fails, other, tracker = Fails(), Noted(), BudgetTracker(100_000)
    add_observer(fails)
    add_observer(other)
    config = RunConfig(budget_tracker=tracker, max_tokens=50)
    with EmbeddedProvider() as provider, ADAPTERS["openrouter"](provider.url) as adapter:  # type: ignore[attr-defined]
        assert how(adapter, config).content
        remove_observer(fails)
        remove_observer(other)
        assert other.names == ["reserve", "grant", "dispatch", "settle"]
        assert [record.message for record in caplog.records].count(log.OBSERVER_FAILED.line) == 4
        if kind is ValueError:
            assert how(adapter, config).content
        else:
            with pytest.raises(kind):
                how(adapter, config)
            assert how(adapter, config).content
    assert tracker.held == 0


def test_without_an_observer_nothing_is_called() -> None:
    """A call and a reservation by hand run no function of the observers or the log. (BUDGET-75)"""
    called: list[str] = []
    files = {log.__file__}

    def note(frame: Any, event: str, _: Any) -> None:
        if event == "call" and frame.f_code.co_filename in files:
            called.append(frame.f_code.co_name)

    tracker = BudgetTracker(100_000)
    with EmbeddedProvider() as provider, ADAPTERS["openrouter"](provider.url) as adapter:  # type: ignore[attr-defined]
        config = RunConfig(budget_tracker=tracker, max_tokens=50)
        adapter.execute_prompt("hello", config)
        sys.setprofile(note)
        try:
            adapter.execute_prompt("hello", config)
            with tracker.reserve(10) as hold:
                hold.dispatch()
                hold.settle(5)
        finally:
            sys.setprofile(None)
    assert called == []


def test_an_observer_defines_the_methods_that_it_needs() -> None:
    """All others do nothing, and one that is not told can be removed. (BUDGET-75)"""
    observer = type("Nothing", (Observer,), {})()
    for name in NAMES:
        assert getattr(observer, name)(CallEvent()) is None
    remove_observer(observer)
    assert sorted(NAMES) == sorted(name for name in vars(Observer) if not name.startswith("_"))

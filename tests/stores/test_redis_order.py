"""The lists of waiting callers that processes share through a server, and their cost."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from llm_connect.budget.accounting.bounds import NO_FACTS, PlainDemand
from llm_connect.budget.admission import booking
from llm_connect.budget.admission.wait_queue import Waiter
from llm_connect.budget.tracker import BudgetTracker
from llm_connect.stores.opening import open_budget
from tests.budget.budget_helpers import at_rest, refused, until
from tests.budget.stores import new_url
from tests.stores.looking import second, session_of, told
from tests.stores.servers import new_server
from tests.stores.test_order import reserve, waiting


@pytest.fixture
def redis_url(folder: Path) -> str:
    """The URL of a server without budgets."""
    return new_url("redis", folder)


def test_once_nobody_waits_any_more_a_step_costs_what_it_did() -> None:
    """Callers that no longer wait cause no command in the server (STORE-14)."""
    server = new_server()
    try:
        budget = open_budget(server.url, total=100)
        commands(server.url, budget)
        before = commands(server.url, budget)
        other = second(budget)
        held = reserve(budget, 50)
        large = waiting(other, 80)
        assert commands(server.url, budget)["hgetall"] > 0
        held.release()
        large.result(10).release()
        session_of(other).shut()
        assert told(budget) == []
        assert commands(server.url, budget) == before
        at_rest(budget)
        session_of(budget).shut()
    finally:
        server.stop()


def commands(redis_url: str, budget: BudgetTracker) -> dict[str, int]:
    """The number of each command in the three steps of a call and a reading of the figures."""
    import redis

    budget.snapshot()
    with redis.Redis.from_url(redis_url) as client:
        client.config_resetstat()
        with budget.child("small", 5).reserve(0) as hold:
            hold.dispatch()
        budget.snapshot()
        stats = client.info("commandstats")
    return {"hgetall": 0, **{name.removeprefix("cmdstat_"): figures["calls"] for name, figures in stats.items()}}


def test_what_a_step_of_unknown_fate_has_told_does_not_block_its_own_process(redis_url: str) -> None:
    """The row may stay in the server until it expires; only other processes give the caller its place (STORE-14)."""
    budget = open_budget(redis_url, total=100)
    other = second(budget)
    session = session_of(budget)
    unknown = Waiter(budget, PlainDemand(80, 1), NO_FACTS, arrival=0, deadline=0, own=())
    session.gate.run(lambda: session.waiters._write(None, unknown, 60))
    assert told(budget) == [(80,)]
    reserve(budget, 50).release()
    assert refused(lambda: other.reserve(50)).reason == "refused"
    session_of(other).shut()


def test_callers_are_in_the_order_of_the_clock_of_the_server(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Callers are in the order of their arrival, even if the clock of a machine is wrong (STORE-14)."""
    budget = open_budget(redis_url, total=100)
    held = reserve(budget, 100)
    first = waiting(budget, 80)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() - 86_400)
    monkeypatch.setattr(booking, "now", time.time)
    other = second(budget)
    second_one = waiting(other, 81)
    assert told(other) == [(80,), (81,)]
    held.release()
    first.result(10).release()
    second_one.result(10).release()
    assert told(budget) == []
    session_of(other).shut()


def test_a_grant_that_was_decided_before_somebody_waited_is_decided_anew(redis_url: str) -> None:
    """A grant is decided again even if the waiting caller has changed no figure, and the grant would fit (STORE-14)."""
    budget = open_budget(redis_url, total=100)
    other = second(budget)
    held = reserve(budget, 50)
    session: Any = session_of(budget)
    step = session._step
    large: list[Any] = []

    def be_overtaken() -> Any:
        session._step = step
        large.append(waiting(other, 80))
        return step()

    session._step = be_overtaken
    assert refused(lambda: reserve(budget, 10)).reason == "refused"
    held.release()
    large[0].result(10).release()
    until(lambda: told(budget) == [])
    at_rest(budget)
    session_of(other).shut()


def test_who_has_just_asked_is_not_put_off_again(redis_url: str) -> None:
    """A caller that has asked the server is admitted, however many later ones begin to wait (STORE-14)."""
    budget = open_budget(redis_url, total=100)
    other = second(budget)
    held = reserve(budget, 50)
    session: Any = session_of(budget)
    step = session._step
    large: list[Any] = []

    def be_overtaken() -> Any:
        large.append(waiting(other, 80 + len(large)))
        return step()

    session._step = be_overtaken
    budget.snapshot()
    session.stale = True
    hold = reserve(budget, 10)
    session._step = step
    assert len(large) == 1
    hold.release()
    held.release()
    large[0].result(10).release()
    at_rest(budget)
    session_of(other).shut()

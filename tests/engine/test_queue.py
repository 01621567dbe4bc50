"""The queue before an adapter's places: its own clock, no idle holds, and nobody who waits for ever."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from llm_connect import BudgetTracker, LLMBudgetExceededError, LLMTimeoutError, OpenRouterAdapter, RunConfig
from llm_connect.engine import concurrency_limit
from llm_connect.engine.concurrency_limit import Turn
from llm_connect.testing import Behaviour, EmbeddedProvider

CALLS = 12


@pytest.fixture
def provider() -> Iterator[EmbeddedProvider]:
    """A running provider."""
    with EmbeddedProvider() as running:
        yield running


def adapter_at(provider: EmbeddedProvider, places: int) -> OpenRouterAdapter:
    adapter = OpenRouterAdapter(
        api_key="sk-or-0123456789", model="m", base_url=provider.openrouter_url, max_concurrency=places
    )
    adapter.warm_up()
    return adapter


def config_of(tracker: BudgetTracker | None = None, **fields: object) -> RunConfig:
    defaults = {"budget_tracker": tracker, "max_tokens": 20, "max_retries": 0, "timeout_seconds": 2.0}
    return RunConfig(**{**defaults, **fields})  # type: ignore[arg-type]


@pytest.mark.parametrize("budget", [False, True])
async def test_time_in_the_queue_is_no_time_of_the_call(provider: EmbeddedProvider, budget: bool) -> None:
    """Calls whose queue takes longer than their deadline all get their answers, in a loop. (CALL-36)"""
    provider.script(Behaviour(delay=0.3))
    tracker = BudgetTracker(total=100_000) if budget else None
    async with adapter_at(provider, 1) as adapter:
        started = time.monotonic()
        calls = [adapter.async_execute_prompt("x", config_of(tracker)) for _ in range(CALLS)]
        assert len(await asyncio.gather(*calls)) == CALLS
    assert time.monotonic() - started >= CALLS * 0.3 > 2.0
    assert tracker is None or tracker.held == 0


def test_time_in_the_queue_is_no_time_of_a_call_in_a_thread(provider: EmbeddedProvider) -> None:
    """As in a loop; streams too. (CALL-36)"""
    provider.script(Behaviour(delay=0.3))
    tracker = BudgetTracker(total=100_000)

    def stream(number: int) -> str:
        if number % 2:
            return adapter.execute_prompt("x", config_of(tracker)).content
        with adapter.stream_prompt("x", config_of(tracker)) as chunks:
            return "".join(chunk.text for chunk in chunks)

    with adapter_at(provider, 1) as adapter, ThreadPoolExecutor(CALLS) as pool:
        assert all(pool.map(stream, range(CALLS)))
    assert tracker.held == 0


async def test_who_waits_for_a_place_holds_no_budget(provider: EmbeddedProvider) -> None:
    """A budget for the calls that are under way is enough, however many are in the queue. (CALL-36)"""
    async with adapter_at(provider, 2) as adapter:
        bound = adapter.bound("x", config_of()).amount_at(20).tokens
        tracker = BudgetTracker(total=2 * bound + CALLS * 40)
        config = config_of(tracker, max_wait_seconds=0)
        calls = [adapter.async_execute_prompt("x", config) for _ in range(CALLS)]
        responses = await asyncio.gather(*calls)
    assert len(responses) == CALLS


async def test_who_waits_for_budget_holds_no_place(provider: EmbeddedProvider) -> None:
    """A call under another budget goes through meanwhile; with its budget the one that waited comes first. (CALL-36)"""
    tracker = BudgetTracker(total=10_000)
    async with adapter_at(provider, 1) as adapter:
        rest = tracker.reserve(10_000)
        waiting = asyncio.ensure_future(adapter.async_execute_prompt("short of budget", config_of(tracker)))
        while not tracker.snapshot().waiting:
            await asyncio.sleep(0)
        await adapter.async_execute_prompt("another", config_of(BudgetTracker(total=10_000)))
        provider.script(Behaviour(delay=0.2))
        running = asyncio.ensure_future(adapter.async_execute_prompt("running", config_of()))
        while len(provider.requests) < 2:
            await asyncio.sleep(0.001)
        queued = [asyncio.ensure_future(adapter.async_execute_prompt("queued", config_of())) for _ in range(3)]
        await asyncio.sleep(0)
        rest.release()
        await asyncio.gather(waiting, running, *queued)
    asked = [request.prompt for request in provider.requests]
    assert asked == ["another", "running", "short of budget", "queued", "queued", "queued"]


async def test_no_place_after_the_budget_releases_the_hold(provider: EmbeddedProvider) -> None:
    """A call that got its budget, and then no place in time, has sent nothing. (CALL-36, CALL-33)"""
    tracker = BudgetTracker(total=10_000)
    async with adapter_at(provider, 1) as adapter:
        rest = tracker.reserve(10_000)
        config = config_of(tracker, max_queue_seconds=0.05)
        waiting = asyncio.ensure_future(adapter.async_execute_prompt("x", config))
        while not tracker.snapshot().waiting:
            await asyncio.sleep(0)
        place = await adapter.slots.atake(Turn(20))
        assert place is not None
        rest.release()
        with pytest.raises(LLMTimeoutError, match="max_queue_seconds is over: no concurrency slot"):
            await waiting
    assert [entry.outcome for entry in tracker.ledger] == ["released", "released"]
    assert tracker.held == 0


def test_a_call_inside_of_its_own_stream_does_not_wait_for_ever(
    provider: EmbeddedProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The only place is held by a stream that nobody reads on: once that should be over, the queue ends. (CALL-36)"""
    monkeypatch.setattr(concurrency_limit, "_TO_GIVE_BACK_SECONDS", 0.1)
    with adapter_at(provider, 1) as adapter, adapter.stream_prompt("x", config_of(timeout_seconds=0.5)) as chunks:
        next(chunks)
        with pytest.raises(LLMTimeoutError, match="raise max_concurrency"):
            adapter.execute_prompt("x", config_of())


async def test_a_coroutine_inside_of_its_own_stream_does_not_wait_for_ever(
    provider: EmbeddedProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a thread. (CALL-36)"""
    monkeypatch.setattr(concurrency_limit, "_TO_GIVE_BACK_SECONDS", 0.1)
    async with adapter_at(provider, 1) as adapter:
        async with adapter.async_stream_prompt("x", config_of(timeout_seconds=0.5)) as chunks:
            await anext(chunks)
            with pytest.raises(LLMTimeoutError, match="raise max_concurrency"):
                await adapter.async_execute_prompt("x", config_of())


def test_a_call_that_can_no_longer_be_answered_is_not_sent(provider: EmbeddedProvider) -> None:
    """Its budget comes after its deadline has passed, however busy the machine is. (CALL-36, CALL-33)"""
    tracker = BudgetTracker(total=10_000)
    with adapter_at(provider, 1) as adapter:
        rest = tracker.reserve(10_000)
        config = config_of(tracker, timeout_seconds=0.3, max_wait_seconds=30)
        timer = threading.Timer(1, rest.release)
        timer.start()
        with pytest.raises((LLMTimeoutError, LLMBudgetExceededError)):
            adapter.execute_prompt("x", config)
        timer.join()
    assert len(provider.requests) == 0
    assert (tracker.held, tracker.spent) == (0, 0)


def test_a_wait_that_is_broken_off_takes_no_place_along() -> None:
    """Interrupted just as its place comes, a thread leaves it to others. (CALL-36)"""
    two = concurrency_limit.Slots(1)
    place = two.take(Turn(20))
    assert place is not None

    class Interrupted(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            place.give_back()
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threading, "Event", Interrupted)
        with pytest.raises(KeyboardInterrupt):
            two.take(Turn(20))
    assert two.take(Turn(20)) is not None


def test_a_place_that_comes_free_on_the_way_to_the_queue_is_taken() -> None:
    """Nobody queues before a free place. (CALL-36)"""
    places = concurrency_limit._Places(1)
    turn = Turn(20)
    places.join(turn, lambda: None)
    assert turn.granted
    place = places.leave(turn)
    assert place is not None
    place.give_back()
    place.give_back()
    assert places.take(Turn(20))
    assert not places.take(Turn(20))

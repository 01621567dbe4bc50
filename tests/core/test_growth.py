"""Holds that grow with the text of their streams, under every order of events."""

from __future__ import annotations

import asyncio
import os
import random
import sys
import threading
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_connect.core.bounds import Bound
from llm_connect.core.budget import BudgetTracker
from llm_connect.core.demand import BoundDemand, CallFacts, GrowingDemand
from llm_connect.core.exceptions import LLMBudgetExceededError, LLMConfigurationError
from llm_connect.core.growth import Growth
from llm_connect.core.holds import Hold
from llm_connect.core.learning import LearnedFactor
from llm_connect.core.price import Price
from llm_connect.core.units import Amount
from llm_connect.core.usage import Usage
from tests.core.budget_helpers import at_rest, awaits, outcomes

PRICE = Price(prompt="1", completion="3")


def demand_of(
    prompt: int = 10, most: int = 100, step: int = 20, price: Price | None = None, outputs: int = 1
) -> GrowingDemand:
    return GrowingDemand(Bound(prompt_tokens=prompt, max_tokens=most, outputs=outputs), min(step, most), price)


def opened(tracker: BudgetTracker, demand: GrowingDemand) -> Hold | None:
    """A dispatched hold, when it fits now."""
    hold = tracker.gate.admit(tracker, demand, CallFacts())
    if hold is not None:
        hold.dispatch()
    return hold


def growing(tracker: BudgetTracker, demand: GrowingDemand | None = None) -> tuple[Hold, Growth]:
    hold = opened(tracker, demand or demand_of())
    assert hold is not None
    growth = Growth.of(hold)
    assert growth is not None
    return hold, growth


def test_it_begins_with_the_input_and_a_step() -> None:
    """More is held when more text has come than is covered, a step at a time, and never more than the bound.

    (STREAM-12)
    """
    tracker = BudgetTracker(1_000)
    hold, growth = growing(tracker)
    held = [tracker.held]
    for _ in range(12):
        assert growth.covers("0123456789")
        held.append(tracker.held)
    assert held == [30, 30, 30, 50, 50, 70, 70, 90, 90, 110, 110, 110, 110]
    assert hold.bound == Amount(110, 1, 0)
    hold.settle(70)
    at_rest(tracker)


def test_text_counts_by_its_bytes() -> None:
    """A token has one byte at least, so no text has more tokens than bytes. (STREAM-12)"""
    tracker = BudgetTracker(1_000)
    hold, growth = growing(tracker)
    assert growth.covers("é" * 10)
    assert hold.bound.tokens == 30
    assert growth.covers("😀")
    assert hold.bound.tokens == 50


def test_several_outputs_are_as_long_as_the_one_that_is_seen() -> None:
    """Each step counts for each of them. (STREAM-12)"""
    tracker = BudgetTracker(1_000)
    hold, growth = growing(tracker, demand_of(outputs=3))
    assert hold.bound.tokens == 70
    assert growth.covers("x" * 21)
    assert hold.bound.tokens == 130


def test_usd_grow_as_tokens_do() -> None:
    """At the rates of the price. (STREAM-12)"""
    tracker = BudgetTracker(total_usd="0.0002")
    hold, growth = growing(tracker, demand_of(price=PRICE))
    assert hold.bound.nano_usd == 10 * 1_000 + 20 * 3_000
    assert growth.covers("x" * 60)
    assert hold.bound.nano_usd == 10 * 1_000 + 60 * 3_000
    assert not growth.covers("x" * 20)
    assert tracker.held_usd <= tracker.total_usd  # type: ignore[operator]


def test_at_the_edge_what_fits_is_covered() -> None:
    """Where a step does not fit, the text alone may; what does not is not covered, and changes nothing. (STREAM-12)"""
    tracker = BudgetTracker(45)
    hold, growth = growing(tracker)
    assert growth.covers("x" * 35)
    assert (tracker.held, hold.bound.tokens) == (45, 45)
    assert not growth.covers("x")
    assert (tracker.held, hold.bound.tokens) == (45, 45)
    hold.presume()
    assert (tracker.spent, outcomes(tracker)) == (45, ["presumed"])
    at_rest(tracker)


def test_a_child_grows_on_all_above_it() -> None:
    """The nearest edge counts. (STREAM-12, BUDGET-4)"""
    root = BudgetTracker(1_000)
    child = root.child("c", 60)
    _, growth = growing(child)
    assert growth.covers("x" * 50)
    assert (child.held, root.held) == (60, 60)
    assert not growth.covers("x")
    assert (child.held, root.held) == (60, 60)


def test_a_hold_that_has_ended_covers_everything() -> None:
    """What its answer came to is booked. (STREAM-12)"""
    tracker = BudgetTracker(40)
    hold, growth = growing(tracker)
    hold.settle(25)
    assert growth.covers("x" * 1_000)
    assert tracker.spent == 25


def test_only_a_dispatched_hold_of_an_open_budget_is_extended() -> None:
    """Not one that is not sent yet, has ended, or whose budget is closed or over its limit. (STREAM-12)"""
    tracker, more = BudgetTracker(1_000), Amount(1, 0, 0)
    hold = tracker.gate.admit(tracker, demand_of(), CallFacts())
    assert hold is not None
    assert not tracker.gate.extend(hold, more)
    hold.dispatch()
    assert tracker.gate.extend(hold, more)
    tracker.record(1_000)
    assert not tracker.gate.extend(hold, more)
    tracker.set_limits(total=5_000)
    assert tracker.gate.extend(hold, more)
    tracker.close()
    assert not tracker.gate.extend(hold, more)
    hold.release()
    assert not tracker.gate.extend(hold, more)
    at_rest(tracker)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.in_memory_only
def test_a_forked_process_extends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be a second budget. (BUDGET-11)"""
    tracker = BudgetTracker(1_000)
    hold, growth = growing(tracker)
    monkeypatch.setattr("llm_connect.core.forks.generation", -1)
    with pytest.raises(LLMConfigurationError):
        growth.covers("x" * 50)
    monkeypatch.undo()
    hold.release()


async def test_it_does_not_wait_and_goes_before_those_who_do() -> None:
    """An open stream is not ended for the sake of a call that has not begun, which still waits then. (STREAM-12)"""
    tracker = BudgetTracker(100)
    hold, growth = growing(tracker)
    waiting = asyncio.create_task(tracker.areserve(80, max_wait_seconds=20))
    await awaits(tracker, 1)
    assert growth.covers("x" * 90)
    assert tracker.held == 100
    assert not waiting.done()
    hold.settle(20)
    with await waiting:
        assert tracker.held == 80
    at_rest(tracker)


async def test_who_waits_for_its_own_growing_hold_is_refused() -> None:
    """As soon as it has grown so far that nobody else's end can help. (BUDGET-9, STREAM-12)"""
    tracker = BudgetTracker(100)
    other = await tracker.areserve(50)
    grown: list[Growth] = []

    async def caller() -> None:
        from llm_connect.core.callers import remember_own

        hold, growth = growing(tracker)
        remember_own(hold)
        grown.append(growth)
        try:
            await tracker.areserve(60, max_wait_seconds=20)
        finally:
            hold.release()

    task = asyncio.create_task(caller())
    await awaits(tracker, 1)
    assert grown[0].covers("x" * 40)
    with pytest.raises(LLMBudgetExceededError) as caught:
        await task
    assert caught.value.reason == "self_wait"
    other.release()
    at_rest(tracker)


def test_what_is_used_beyond_a_grown_hold_teaches_nothing() -> None:
    """Thinking that nobody saw is within the bound of the call: later bounds are not raised. (STREAM-13, BUDGET-41)"""
    tracker = BudgetTracker(1_000)
    hold, growth = growing(tracker)
    assert growth.covers("short")
    hold.settle(usage=Usage(prompt_tokens=10, completion_tokens=90))
    assert (tracker.spent, tracker.snapshot().learned) == (100, {})
    hold, _ = growing(tracker)
    hold.settle(usage=Usage(prompt_tokens=10, completion_tokens=200))
    assert tracker.snapshot().learned


def test_a_learned_factor_counts_for_each_step() -> None:
    """After an overrun the first step and all others are raised. (STREAM-12, BUDGET-41)"""
    tracker = BudgetTracker(10_000)
    hold, _ = growing(tracker)
    hold.settle(usage=Usage(prompt_tokens=10, completion_tokens=200))
    hold, growth = growing(tracker)
    assert isinstance(hold.demand, GrowingDemand)
    assert hold.bound.tokens == 10 + 2 * 20
    assert growth.covers("x" * 21)
    assert hold.bound.tokens == 10 + 2 * 40


def test_a_learned_factor_counts_for_usd_too() -> None:
    """At the same price as before. (STREAM-12, BUDGET-41)"""
    raised = demand_of(price=PRICE).raised(LearnedFactor(prompt_permille=2_000))
    assert raised.amount == Amount(40, 1, 20 * 1_000 + 20 * 3_000)


def test_a_plain_hold_does_not_grow() -> None:
    """It covers its bound from the beginning. (STREAM-2)"""
    tracker = BudgetTracker(1_000)
    hold = tracker.gate.admit(tracker, BoundDemand(Bound(prompt_tokens=1, max_tokens=5), 5, None), CallFacts())
    assert hold is not None
    assert Growth.of(hold) is None
    hold.release()


@dataclass
class Open:
    """An open stream of a history."""

    hold: Hold
    growth: Growth
    demand: GrowingDemand
    seen: int = 0

    def covered(self) -> int:
        """How much output the hold covers."""
        return (self.hold.bound.tokens - self.demand.bound.prompt_tokens) // self.demand.bound.outputs


STEPS = st.lists(
    st.tuples(st.sampled_from(("open", "text", "text", "settle", "leave", "release", "lose")), st.integers(0, 60)),
    max_size=60,
)


@settings(deadline=None)
@given(STEPS, st.integers(20, 400), st.none() | st.integers(20, 1_500), st.integers(1, 3))
def test_any_history_keeps_the_cap_in_holds(
    steps: list[tuple[str, int]], total: int, usd: int | None, outputs: int
) -> None:
    """Whatever streams open, write, end, are left, released or lost: spent plus held is never above a limit while they
    use what is held, all text that was given on is held, and in the end nothing is. (STREAM-12, BUDGET-1)
    """
    limit = None if usd is None else f"0.{usd:09}"
    root = BudgetTracker(total, total_usd=limit)
    child, open_ones = root.child("c", total - 5), list[Open]()
    for name, number in steps:
        if name == "open":
            demand = demand_of(
                number % 7, 10 + number, 1 + number % 20, Price(prompt="0.001", completion="0.003"), outputs
            )
            hold = opened(child if number % 2 else root, demand)
            if hold is not None:
                growth = Growth.of(hold)
                assert growth is not None
                open_ones.append(Open(hold, growth, demand))
                del growth
            del hold
        elif open_ones:
            one = open_ones[number % len(open_ones)]
            if name == "text":
                before = (root.held, one.hold.bound)
                if one.growth.covers("x" * number):
                    one.seen += number
                    assert min(one.seen, one.demand.bound.max_tokens) <= one.covered()
                else:
                    assert (root.held, one.hold.bound) == before
                    one.hold.presume()
                    open_ones.remove(one)
            else:
                {
                    "settle": lambda one=one, number=number: one.hold.settle(min(number, one.hold.bound.tokens), usd=0),
                    "leave": one.hold.end_unsettled,
                    "release": one.hold.release,
                    "lose": lambda: None,
                }[name]()
                open_ones.remove(one)
            del one
        for tracker in (root, child):
            assert tracker.spent + tracker.held <= tracker.total  # type: ignore[operator]
        assert usd is None or root.spent_usd + root.held_usd <= root.total_usd  # type: ignore[operator]
    open_ones.clear()
    at_rest(root)
    assert (child.held, child.held_calls) == (0, 0)


def test_threads_that_grow_at_once_never_hold_more_than_the_cap() -> None:
    """32 threads open, grow, end and leave streams on one budget that is watched all the time. (STREAM-12, BUDGET-1)"""
    root = BudgetTracker(300)
    child, over, wrong = root.child("c", 200), threading.Event(), list[str]()
    edges, start, interval = list[int](), threading.Barrier(32), sys.getswitchinterval()

    def stream(number: int) -> None:
        chance = random.Random(number)
        start.wait()
        for _ in range(60):
            hold = opened(chance.choice((root, child)), demand_of(10, 150, 10))
            growth = None if hold is None else Growth.of(hold)
            if hold is None or growth is None:
                continue
            while growth.covers("x" * chance.randrange(1, 25)):
                if chance.random() < 0.1:
                    hold.settle(0)
                    break
            else:
                edges.append(number)
                hold.release()

    def watch() -> None:
        while not over.is_set():
            for tracker in (root, child):
                seen = tracker.snapshot()
                if seen.spent.tokens + seen.held.tokens > seen.total[0]:  # type: ignore[operator]
                    wrong.append(str(seen))

    watcher = threading.Thread(target=watch)
    threads = [threading.Thread(target=stream, args=(number,)) for number in range(32)]
    sys.setswitchinterval(1e-6)
    for thread in (watcher, *threads):
        thread.start()
    for thread in threads:
        thread.join()
    sys.setswitchinterval(interval)
    over.set()
    watcher.join()
    assert wrong == []
    assert edges
    at_rest(root)
    assert (child.held, child.held_calls) == (0, 0)

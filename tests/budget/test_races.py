"""Races of threads and event loops on one tree of trackers, under constant observation."""

from __future__ import annotations

import asyncio
import gc
import random
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future

import pytest

from llm_connect.budget.admission.holds import Hold
from llm_connect.budget.tracker import BudgetTracker
from llm_connect.errors import LLMBudgetExceededError
from tests.budget.budget_helpers import at_rest, in_thread
from tests.budget.budget_model import limits_of

# A tracer that switches threads all the time does little else.
pytestmark = pytest.mark.slow

THREADS = 12
LOOPS = 2
TASKS = 6
ROUNDS = 20
BOUND = 10
SECONDS = 240.0


@pytest.fixture(autouse=True)
def _switching_all_the_time() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    yield
    sys.setswitchinterval(before)


class Watcher:
    """Reads every tracker all the time, and keeps each violation that it sees."""

    def __init__(self, trackers: list[BudgetTracker]) -> None:
        self.trackers = trackers
        self.wrong: list[str] = []
        self.looks = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Watcher:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(SECONDS)

    def _watch(self) -> None:
        while not self._over.wait(0.0005):
            for tracker in self.trackers:
                seen = tracker.snapshot()
                self.looks += 1
                for spent, held, allotted, total in zip(
                    seen.spent, seen.held, seen.allotted, limits_of(seen), strict=True
                ):
                    if min(spent, held, allotted) < 0 or (total is not None and spent + held + allotted > total):
                        self.wrong.append(repr(seen))


def finish(hold: Hold, chance: random.Random) -> None:
    """End a hold in one of the possible ways, sometimes twice."""
    way = chance.randrange(5)
    if way:
        hold.dispatch()
    if way == 1:
        hold.presume()
    elif way == 2:
        hold.settle(chance.randrange(hold.bound.tokens + 1))
        hold.release()
    elif way == 3:
        hold.end_unsettled()
    elif way == 4:
        hold.settle()
    # Way 0 loses the hold.


def in_a_thread(trackers: list[BudgetTracker], seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(ROUNDS):
        tracker = chance.choice(trackers)
        try:
            finish(tracker.reserve(chance.randint(1, BOUND), max_wait_seconds=chance.choice([0, 0.001, 0.05])), chance)
        except LLMBudgetExceededError:
            continue


async def one_task(trackers: list[BudgetTracker], chance: random.Random) -> None:
    tracker = chance.choice(trackers)
    try:
        hold = await tracker.areserve(chance.randint(1, BOUND), max_wait_seconds=chance.choice([0, 0.001, 0.05]))
        await asyncio.sleep(0)
        finish(hold, chance)
    except LLMBudgetExceededError:
        return


async def in_a_loop(trackers: list[BudgetTracker], seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(ROUNDS):
        tasks = [asyncio.create_task(one_task(trackers, chance)) for _ in range(TASKS)]
        await asyncio.sleep(0)
        for task in tasks[::3]:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(result) for result in results} <= {type(None), asyncio.CancelledError}


def tree() -> list[BudgetTracker]:
    root = BudgetTracker(40_000, total_calls=20_000)
    one, two = root.child("one", 12_000), root.child("two", 12_000, total_calls=5_000)
    share = root.allot("allotment", 9_000).__enter__()
    return [root, one, two, one.child("deep", 7_000), two.child("open"), share, share.child("in it", 3_000)]


async def allotments_come_and_go(parent: BudgetTracker, seed: int) -> None:
    """Open, use and close allotments while the others race."""
    chance = random.Random(seed)
    for _ in range(ROUNDS):
        try:
            with parent.allot("brief", chance.randint(1, 500)) as share:
                await one_task([share], chance)
        except LLMBudgetExceededError:
            await asyncio.sleep(0)


def test_the_cap_holds_in_any_race() -> None:
    """Whatever threads and loops do at once, no limit is ever passed, and at the end nothing is held (BUDGET-1).

    Threads and event loops in hundreds of rounds, while allotments come and go (BUDGET-40).
    """
    trackers = tree()
    with Watcher(trackers) as watcher:
        work: list[Future[None]] = [
            in_thread(lambda seed=seed: in_a_thread(trackers, seed))  # type: ignore[misc]
            for seed in range(THREADS)
        ]
        work += [
            in_thread(lambda seed=seed: asyncio.run(in_a_loop(trackers, seed)))  # type: ignore[misc]
            for seed in range(THREADS, THREADS + LOOPS)
        ]
        work += [
            in_thread(lambda parent=parent: asyncio.run(allotments_come_and_go(parent, 0)))  # type: ignore[misc]
            for parent in trackers[:2]
        ]
        for future in work:
            future.result(SECONDS)
    assert watcher.wrong == []
    assert watcher.looks > 10
    gc.collect()
    assert trackers[0].allotted > 0
    trackers[5].close()
    assert trackers[0].allotted == 0
    at_rest(trackers[0])
    totals = trackers[0].ledger.totals("tracker")
    for tracker in trackers:
        below = f"{tracker.path}/"
        assert tracker.held == 0
        mine = (total.amount.tokens for path, total in totals.items() if f"{path}/".startswith(below))
        assert sum(mine) == tracker.spent


def test_nobody_is_left_waiting() -> None:
    """Threads and tasks that fit one after the other are all served, long before their waits end (BUDGET-2)."""
    root = BudgetTracker()
    narrow = root.child("narrow", total_calls=1_000_000)
    narrow.set_limits(total=10)
    served: list[int] = []

    def thread() -> None:
        for _ in range(10):
            narrow.reserve(10, max_wait_seconds=SECONDS).release()
            served.append(1)

    async def task() -> None:
        (await narrow.areserve(10, max_wait_seconds=SECONDS)).release()
        served.append(1)

    async def loop() -> None:
        await asyncio.gather(*(task() for _ in range(40)))

    started = time.monotonic()
    work = [in_thread(thread) for _ in range(THREADS)]
    work += [in_thread(lambda: asyncio.run(loop())) for _ in range(LOOPS)]
    for future in work:
        future.result(SECONDS)
    assert time.monotonic() - started < SECONDS / 2
    assert len(served) == THREADS * 10 + LOOPS * 40
    at_rest(root)


def test_one_hold_ends_once_in_any_race() -> None:
    """Threads that dispatch, settle, release and presume one hold at the same time end it once (BUDGET-3)."""
    tracker = BudgetTracker(1_000_000)
    for _ in range(150):
        hold = tracker.reserve(10)
        ready = threading.Barrier(4)

        def end(how: str, hold: Hold = hold, ready: threading.Barrier = ready) -> None:
            ready.wait(SECONDS)
            try:
                getattr(hold, how)()
            except ValueError:
                return

        work = [in_thread(lambda how=how: end(how)) for how in ("dispatch", "settle", "release", "presume")]  # type: ignore[misc]
        for future in work:
            future.result(SECONDS)
        assert hold.state == "ended"
    assert len(tracker.ledger) == 150
    at_rest(tracker)


def test_consume_in_a_race_is_exact() -> None:
    """Threads that consume one token at a time reach exactly the cap (BUDGET-1, BUDGET-2)."""
    tracker = BudgetTracker(1_000)

    def consume() -> int:
        taken = 0
        for _ in range(100):
            try:
                tracker.consume(1)
            except LLMBudgetExceededError:
                continue
            taken += 1
        return taken

    work = [in_thread(consume) for _ in range(THREADS)]
    assert sum(future.result(SECONDS) for future in work) == tracker.spent <= 1_000
    at_rest(tracker)

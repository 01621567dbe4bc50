"""Every operation of a budget as a scene: a new budget, the interrupted act, and the state that must follow."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from llm_connect import BudgetTracker, LLMBudgetExceededError, MockLLMAdapter, RunConfig
from llm_connect.budget.accounting.ledger import LedgerEntry
from tests.budget.budget_helpers import in_thread, until

CAP = 1_000
PATIENCE = 20.0
#: Makes a budget with a limit and a sink.
Make = Callable[..., BudgetTracker]


@dataclass
class Scene:
    """A budget whose `act` is interrupted; `helpers` are threads of other callers that must end."""

    root: BudgetTracker
    act: Callable[[], Any]
    told: list[LedgerEntry]
    trackers: list[BudgetTracker] = field(default_factory=list)
    helpers: list[Any] = field(default_factory=list)
    keep: list[Any] = field(default_factory=list)
    after: Callable[[], Any] | None = None

    def look(self) -> None:
        """Check that the next operation finds exact books."""
        if self.after is not None:
            self.after()
        self.keep.clear()
        self.act = _nothing
        for helper in self.helpers:
            helper.result(PATIENCE)
        root = self.root
        # In another thread: the interrupted one keeps no lock.
        snapshot = in_thread(root.snapshot).result(PATIENCE)
        until(lambda: root.snapshot().held == (0, 0, 0))
        snapshot = root.snapshot()
        entries = list(root.ledger)
        assert snapshot.held == (0, 0, 0)
        assert snapshot.allotted == (0, 0, 0)
        assert snapshot.waiting == 0
        assert snapshot.spent.tokens <= CAP
        for tracker in (root, *self.trackers):
            own = tracker.snapshot()
            below = [e for e in entries if (e.tracker + "/").startswith(tracker.path + "/")]
            if tracker is root:
                total = root.ledger.earlier
                for entry in entries:
                    total = total.plus(entry.amount)
                assert own.spent == total
            if not root.window and not tracker.window:
                assert own.spent.tokens == sum(e.amount.tokens for e in below) + (
                    root.ledger.earlier.tokens if tracker is root else 0
                )
                assert own.spent.calls == sum(e.amount.calls for e in below)
            assert own.held == (0, 0, 0)
            corrected = {e.corrects for e in entries}
            presumed = sum(e.amount.tokens for e in below if e.outcome == "presumed" and e.id not in corrected)
            assert own.presumed.tokens == presumed
        sums = root.ledger.totals("tracker")
        lasting = [e for e in entries if e.outcome != "expired"]
        assert sum(total.entries for total in sums.values()) == len(lasting)
        assert sum(total.amount.tokens for total in sums.values()) == sum(e.amount.tokens for e in lasting)
        ids = [entry.id for entry in entries]
        assert sorted(set(ids)) == ids
        until(lambda: {entry.id for entry in self.told} >= set(ids))
        left = root.remaining()
        assert left is None or left == CAP - snapshot.spent.tokens
        with root.reserve(left or 0):
            assert root.held == (left or 0)
        assert root.held == 0


def _nothing() -> None:
    pass


def book(tracker: BudgetTracker, tokens: int = 100, used: int = 60) -> None:
    with tracker.reserve(tokens) as hold:
        hold.dispatch()
        hold.settle(used)


def _scene(make: Make, **more: Any) -> Scene:
    told: list[LedgerEntry] = []
    root = make(CAP, sink=told.append, **more)
    return Scene(root, _nothing, told)


def call(make: Make) -> Scene:
    scene = _scene(make)
    scene.act = lambda: book(scene.root)
    return scene


def call_below(make: Make) -> Scene:
    scene = _scene(make)
    child = scene.root.child("a", 500)
    inner = child.child("b", total_calls=30)
    book(inner)
    scene.trackers = [child, inner]
    scene.act = lambda: book(inner)
    return scene


def second_call(make: Make) -> Scene:
    scene = _scene(make)
    book(scene.root)
    scene.act = lambda: book(scene.root)
    return scene


def unsettled(make: Make) -> Scene:
    scene = _scene(make)

    def act() -> None:
        with scene.root.reserve(100, labels={"team": "a"}) as hold:
            hold.dispatch()

    scene.act = act
    return scene


def released(make: Make) -> Scene:
    scene = _scene(make)
    scene.act = lambda: scene.root.reserve(100, labels={"team": "a"}).release()
    return scene


def overrun(make: Make) -> Scene:
    scene = _scene(make)
    child = scene.root.child("a", 500)
    scene.trackers = [child]
    scene.act = lambda: book(child, 100, 400)
    return scene


def lost(make: Make) -> Scene:
    scene = _scene(make)
    scene.keep = [scene.root.reserve(300)]

    def act() -> None:
        scene.keep.clear()
        scene.root.reserve(CAP).release()

    scene.act = act
    return scene


def consume(make: Make) -> Scene:
    scene = _scene(make)
    scene.act = lambda: scene.root.consume(100)
    return scene


def refused(make: Make) -> Scene:
    scene = _scene(make)
    hold = scene.root.reserve(900)
    scene.after = hold.release

    def act() -> None:
        with contextlib.suppress(LLMBudgetExceededError):
            scene.root.reserve(200)

    scene.act = act
    return scene


def record(make: Make) -> Scene:
    scene = _scene(make)
    child = scene.root.child("a")
    scene.trackers = [child]
    scene.act = lambda: child.record(70, calls=1, labels={"team": "a"})
    return scene


def correct(make: Make) -> Scene:
    scene = _scene(make)
    child = scene.root.child("a", 500)
    scene.trackers = [child]
    with child.reserve(100) as hold:
        hold.dispatch()
    number = next(entry.id for entry in scene.root.ledger)
    scene.act = lambda: child.correct(number, 20)
    return scene


def set_limits(make: Make) -> Scene:
    scene = _scene(make)
    child = scene.root.child("a", 500)
    scene.trackers = [child]
    scene.act = lambda: child.set_limits(total=300, total_calls=20)
    return scene


def join(make: Make) -> Scene:
    scene = _scene(make)
    scene.act = lambda: scene.root.child("a", 500, join=True)
    return scene


def allot(make: Make) -> Scene:
    scene = _scene(make)

    def act() -> None:
        with scene.root.allot("s", 400) as share:
            scene.trackers.append(share)
            book(share)

    # If the interruption came just before the end of its block, the share is still open.
    scene.act, scene.after = act, lambda: [share.close() for share in scene.trackers]
    return scene


def close(make: Make) -> Scene:
    scene = _scene(make)
    child = scene.root.child("a", 500)
    scene.trackers = [child]
    book(child)
    scene.act = child.close
    return scene


def figures(make: Make) -> Scene:
    scene = _scene(make)
    book(scene.root)
    scene.act = lambda: (scene.root.snapshot(), str(scene.root), scene.root.held, scene.root.ledger.earlier)
    return scene


def threshold(make: Make) -> Scene:
    scene = _scene(make)
    seen: list[Any] = []

    def act() -> None:
        scene.root.on_threshold(0.05, seen.append)
        book(scene.root)

    scene.act = act
    return scene


def wakes(make: Make) -> Scene:
    """End the hold for which another thread waits."""
    scene = _scene(make)
    hold = scene.root.reserve(900)
    scene.helpers = [in_thread(lambda: scene.root.reserve(200, max_wait_seconds=PATIENCE).release())]
    until(lambda: scene.root.snapshot().waiting == 1)
    scene.act, scene.after = hold.release, hold.release
    return scene


def waits(make: Make) -> Scene:
    """Wait for the hold that another thread ends."""
    scene = _scene(make)
    hold = scene.root.reserve(900)
    ended = threading.Event()

    def end() -> None:
        ended.wait(0.005)
        hold.release()

    scene.helpers = [in_thread(end)]
    scene.act = lambda: scene.root.reserve(200, max_wait_seconds=PATIENCE).release()
    return scene


def waits_in_vain(make: Make) -> Scene:
    scene = _scene(make)
    hold = scene.root.reserve(900)
    scene.after = hold.release

    def act() -> None:
        with contextlib.suppress(LLMBudgetExceededError):
            scene.root.reserve(200, max_wait_seconds=0.001)

    scene.act = act
    return scene


def _in_loop(work: Callable[[], Any]) -> None:
    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(work())
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


def task(make: Make) -> Scene:
    scene = _scene(make)

    async def work() -> None:
        with await scene.root.areserve(100) as hold:
            await hold.adispatch()
            hold.settle(60)

    scene.act = lambda: _in_loop(work)
    return scene


def task_waits(make: Make) -> Scene:
    """Let a task wait for another one, and cancel a third while it waits."""
    scene = _scene(make)

    async def work() -> None:
        first = await scene.root.areserve(900)
        second = asyncio.create_task(scene.root.areserve(200, max_wait_seconds=PATIENCE))
        third = asyncio.create_task(scene.root.areserve(300, max_wait_seconds=PATIENCE))
        try:
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            third.cancel()
            await asyncio.sleep(0)
            first.release()
            (await second).release()
        finally:
            for each in (second, third):
                each.cancel()
            await asyncio.gather(second, third, return_exceptions=True)

    scene.act = lambda: _in_loop(work)
    return scene


def metered(make: Make) -> Scene:
    scene = _scene(make)
    adapter = MockLLMAdapter(["Hello there."])
    scene.act = lambda: adapter.execute_prompt("Hi", RunConfig(budget_tracker=scene.root, max_tokens=50))
    return scene


def window(make: Make) -> Scene:
    from llm_connect.budget.admission import booking

    scene = _scene(make, period="hour")
    child = scene.root.child("a", 500, period="day")
    book(child)
    real = booking.now
    scene.keep = [real]

    def act() -> None:
        booking.now = lambda: real() + 3_600
        scene.root.snapshot()
        book(scene.root, 100, 20)

    def after() -> None:
        booking.now = lambda: real() + 3_600
        scene.root.snapshot()
        booking.now = real

    scene.act, scene.after = act, after
    return scene


ALL: dict[str, Callable[[Make], Scene]] = {
    each.__name__: each
    for each in (
        *(call, call_below, second_call, unsettled, released, overrun, lost, consume, refused, record, correct),
        *(set_limits, join, allot, close, figures, threshold, wakes, waits, waits_in_vain, task, task_waits, metered),
        window,
    )
}


def interrupt(make: Make, scene_of: Callable[[Make], Scene], run: Callable[[Callable[[], Any]], None]) -> Scene:
    """Play a scene whose act `run` interrupts, and drop the exception."""
    scene = scene_of(make)
    try:
        run(scene.act)
    except BaseException as error:
        if isinstance(error, (AssertionError, GeneratorExit)):
            raise
    gc.collect()
    return scene

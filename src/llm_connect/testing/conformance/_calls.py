"""Makes calls of an adapter in both forms, each in its own thread and with a time limit."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

#: The delay after its time limit from which on a call counts as never ending.
GRACE_SECONDS = 5.0
_TURN_SECONDS = 0.01

AsyncWork: TypeAlias = Callable[[], Awaitable[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The outcome of some work: its result, its exception, or that it was still running.

    seconds: its duration. turns: how often the event loop did other work meanwhile.
    """

    returned: Any = None
    raised: BaseException | None = None
    running: bool = False
    seconds: float = 0.0
    turns: int = 0

    @property
    def answered(self) -> bool:
        """True if it returned anything."""
        return self.raised is None and not self.running

    def __str__(self) -> str:
        if self.running:
            return f"was still running after {self.seconds:.1f} s"
        if self.raised is not None:
            return f"raised {type(self.raised).__name__}: {self.raised}"
        return f"returned {type(self.returned).__name__}"


def run(work: Callable[[], Any], seconds: float) -> Outcome:
    """Run `work` in its own thread for at most `seconds`, then leave it behind."""
    return run_together([work], seconds)[0]


def run_together(works: Iterable[Callable[[], Any]], seconds: float) -> list[Outcome]:
    """Run several at once, each in its own thread."""
    started = time.monotonic()
    begun = [_start(work) for work in works]
    return [_outcome(*each, started, seconds) for each in begun]


def run_async(work: AsyncWork, seconds: float) -> Outcome:
    """Run an async `work` in its own event loop."""
    outer = run(lambda: asyncio.run(_watched(work, seconds)), seconds + 2 * GRACE_SECONDS)
    outcome: Outcome = outer.returned if outer.answered else outer
    return outcome


def run_cancelled(work: AsyncWork, ready: Callable[[], bool], seconds: float) -> Outcome | None:
    """Run an async `work`, and cancel it once it is `ready`, or at the latest after `seconds`.

    None if it ended by itself before that. Returns when all threads of its event loop have ended, or after twice the
    time.
    """
    outer = run(lambda: asyncio.run(_cancelled(work, ready, seconds)), 2 * seconds + 2 * GRACE_SECONDS)
    outcome: Outcome | None = outer.returned if outer.answered else outer
    return outcome


def _start(work: Callable[[], Any]) -> tuple[threading.Thread, Future[Outcome]]:
    box: Future[Outcome] = Future()
    thread = threading.Thread(target=lambda: box.set_result(_done(work)), name="conformance", daemon=True)
    thread.start()
    return thread, box


def _done(work: Callable[[], Any]) -> Outcome:
    started = time.monotonic()
    try:
        returned = work()
    except BaseException as error:
        return Outcome(raised=error, seconds=time.monotonic() - started)
    return Outcome(returned=returned, seconds=time.monotonic() - started)


def _outcome(thread: threading.Thread, box: Future[Outcome], started: float, seconds: float) -> Outcome:
    try:
        outcome = box.result(max(started + seconds - time.monotonic(), 0.0))
    except TimeoutError:
        return Outcome(running=True, seconds=seconds)
    thread.join()
    return outcome


async def _watched(work: AsyncWork, seconds: float) -> Outcome:
    started, turns = time.monotonic(), 0
    task = asyncio.ensure_future(_awaited(work))
    while not task.done() and time.monotonic() - started < seconds:
        await asyncio.wait({task}, timeout=_TURN_SECONDS)
        turns += 1
    late = not task.done()
    outcome = await _ended(task, started, turns)
    return replace(outcome, running=True) if late else outcome


async def _cancelled(work: AsyncWork, ready: Callable[[], bool], seconds: float) -> Outcome | None:
    started = time.monotonic()
    task = asyncio.ensure_future(_awaited(work))
    while not task.done() and not ready() and time.monotonic() - started < seconds:
        await asyncio.wait({task}, timeout=_TURN_SECONDS)
    if task.done():
        # Retrieve the exception, so that the event loop does not report it as unseen.
        await _ended(task, started, 0)
        return None
    return await _ended(task, time.monotonic(), 0)


async def _awaited(work: AsyncWork) -> Any:
    return await work()


async def _ended(task: asyncio.Future[Any], started: float, turns: int) -> Outcome:
    """The outcome of a task; cancel it if it is not done."""
    late = not task.done()
    if late:
        task.cancel()
        await asyncio.wait({task}, timeout=GRACE_SECONDS)
    outcome = Outcome(seconds=time.monotonic() - started, turns=turns)
    if not task.done():
        return replace(outcome, running=True)
    if task.cancelled():
        return replace(outcome, raised=asyncio.CancelledError())
    error = task.exception()
    return replace(outcome, raised=error) if error is not None else replace(outcome, returned=task.result())

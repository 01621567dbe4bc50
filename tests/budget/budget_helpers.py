"""Helpers for tests of budgets: waiting for events, threads, callers in the queue, and checks of the books."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, TypeVar

from llm_connect._flows import adrive, drive
from llm_connect.budget.accounting.bounds import CallFacts, Demand, PlainDemand
from llm_connect.budget.admission.acquire import acquire
from llm_connect.budget.admission.holds import Hold
from llm_connect.budget.admission.wait_queue import Waiter
from llm_connect.budget.tracker import BudgetTracker
from llm_connect.errors import LLMBudgetExceededError

T = TypeVar("T")
PATIENCE = 20.0
#: The seconds that a caller waits for budget.
WAIT = PATIENCE


def learned(tracker: BudgetTracker) -> dict[Any, Any]:
    """The learned factors of the tree, by adapter and model."""
    tracker.snapshot()
    gate: Any = tracker.gate
    return dict(gate._books.learned.factors)


def until(condition: Callable[[], bool]) -> None:
    """Wait until `condition` holds."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.001)


def leave(tracker: BudgetTracker, waiter: Waiter) -> None:
    """Remove a caller from the queue, as `acquire.py` does when a wait is cancelled."""
    tracker.gate.notes.append(waiter)
    tracker.gate.work_off()


def taken(tracker: BudgetTracker, waiter: Waiter) -> Hold:
    """Take the hold that was granted to a caller; raise the refusal if there is none."""
    hold = tracker.gate.take(waiter)
    if hold is None:
        assert waiter.error is not None
        raise waiter.error
    return hold


def admit(tracker: BudgetTracker, demand: Demand, facts: CallFacts, **queueing: Any) -> Hold:
    """Acquire a hold in this thread."""
    return drive(acquire(tracker, demand, facts, **queueing))


async def aadmit(tracker: BudgetTracker, demand: Demand, facts: CallFacts, **queueing: Any) -> Hold:
    """Acquire a hold in this task."""
    return await adrive(acquire(tracker, demand, facts, **queueing))


@contextmanager
def alone(tracker: BudgetTracker) -> Iterator[None]:
    """Keep all other threads from the tree, without an operation."""
    gate: Any = tracker.gate
    gate._lock.wait()
    try:
        yield
    finally:
        gate._lock.release()


@contextmanager
def inside(tracker: BudgetTracker) -> Iterator[None]:
    """Run the block as if it had interrupted an operation of this thread."""
    gate: Any = tracker.gate
    gate._lock.wait()
    gate._inside = True
    yield
    gate._inside = False
    gate._lock.release()


async def auntil(condition: Callable[[], bool]) -> None:
    """Like `until`, in a task."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it never came"
        await asyncio.sleep(0.001)


def in_thread(work: Callable[[], T]) -> Future[T]:
    """Run `work` in a new thread."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def waits(tracker: BudgetTracker, number: int) -> None:
    """Wait until `number` callers wait on `tracker`."""
    until(lambda: tracker.snapshot().waiting == number)


async def awaits(tracker: BudgetTracker, number: int) -> None:
    """Like `waits`, in a task."""
    await auntil(lambda: tracker.snapshot().waiting == number)


def place(
    tracker: BudgetTracker, tokens: int, *, calls: int = 0, own: tuple[Hold, ...] = (), seconds: float = 1_000.0
) -> Waiter:
    """Put a caller into the queue, without a thread."""
    deadline = time.monotonic() + seconds
    demand = PlainDemand(tokens, calls)
    waiter = Waiter(tracker, demand, CallFacts(), arrival=tracker.gate.arrive(), deadline=deadline, own=own)
    tracker.gate.queue(waiter, may_wait=True)
    return waiter


def refused(work: Callable[[], Any]) -> LLMBudgetExceededError:
    """Run `work` and return the refusal that it raises."""
    try:
        work()
    except LLMBudgetExceededError as error:
        return error
    raise AssertionError("it was let in")


async def arefused(work: Coroutine[Any, Any, Any]) -> LLMBudgetExceededError:
    """Like `refused`, for a coroutine."""
    try:
        await work
    except LLMBudgetExceededError as error:
        return error
    raise AssertionError("it was let in")


def come_to_rest(tracker: BudgetTracker) -> None:
    """Wait until nothing is held, after collecting holds to which the traceback of a planted fault still refers."""
    held = tracker.held if tracker.gate.worker is None else any(asyncio.run(tracker.asnapshot()).held)
    if held:
        gc.collect()
        until(lambda: not any(tracker.snapshot().held))


def at_rest(tracker: BudgetTracker) -> None:
    """Assert that nothing is held, nobody waits, and the entries add up to `spent`."""
    snapshot = tracker.snapshot()
    assert tuple(snapshot.held) == (0, 0, 0)
    assert snapshot.waiting == 0
    added = [tracker.ledger.earlier, *(entry.amount for entry in tracker.ledger)]
    assert tuple(map(sum, zip(*added, strict=True))) == tuple(snapshot.spent)


def outcomes(tracker: BudgetTracker) -> list[str]:
    return [entry.outcome for entry in tracker.ledger]


def run_all(work: Iterable[Callable[[], Any]]) -> list[Any]:
    """Run all of `work` in threads at once, and return the results; a refusal is a result, too."""
    futures = [in_thread(each) for each in work]
    results: list[Any] = []
    for future in futures:
        error = future.exception(PATIENCE)
        assert error is None or isinstance(error, LLMBudgetExceededError), error
        results.append(error or future.result())
    return results

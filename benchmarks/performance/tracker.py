"""The tracker alone: `python tracker.py` prints, as JSON, how many calls it books in a second, and how it lets in.

One call is one reserve, dispatch and settle, with its entry in the ledger.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
import timeit
from collections.abc import Callable

from bare_tracker import BareTracker
from inlined_tracker import InlinedTracker

from llm_connect import BudgetTracker

_ROUNDS, _CALLS, _WAITING = 7, 20_000, 10_000


def book(tracker: BudgetTracker | BareTracker | InlinedTracker, calls: int) -> None:
    for _ in range(calls):
        hold = tracker.reserve(100)
        hold.dispatch()
        hold.settle(50)


class Nothing:
    def method(self) -> None: ...


def empty_calls() -> float:
    """Calls of an empty method per second, the best of some rounds."""
    return _CALLS / min(timeit.repeat(Nothing().method, number=_CALLS, repeat=_ROUNDS, timer=time.process_time))


def rate(
    *trackers: BudgetTracker | BareTracker | InlinedTracker,
    threads: int = 1,
    clock: Callable[[], float] = time.process_time,
) -> float:
    """Bookings per second in total, the best of some rounds; the threads take the trackers in turn."""
    best = 0.0
    for _ in range(_ROUNDS):
        working = [
            threading.Thread(target=book, args=(trackers[number % len(trackers)], _CALLS // threads))
            for number in range(threads)
        ]
        started = clock()
        for thread in working:
            thread.start()
        for thread in working:
            thread.join()
        best = max(best, _CALLS / (clock() - started))
    return best


def of_eight(*trackers: BudgetTracker) -> float:
    """Return the bookings of eight threads in total, over those of one."""
    return rate(*trackers, threads=8, clock=time.perf_counter) / rate(trackers[0], clock=time.perf_counter)


async def admitted() -> dict[str, float]:
    """Return the time to admit many waiting callers, whether it was in order, and the number of threads meanwhile."""
    tracker, order = BudgetTracker(total=10**9), []
    first = await tracker.areserve(10**9 - 50)

    async def wait(number: int) -> None:
        with await tracker.areserve(100, max_wait_seconds=60):
            order.append(number)

    waiting = [asyncio.create_task(wait(number)) for number in range(_WAITING)]
    await asyncio.sleep(0)
    assert tracker.snapshot().waiting == _WAITING
    threads, started = threading.active_count(), time.perf_counter()
    first.release()
    await asyncio.gather(*waiting)
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "in_order": float(order == sorted(order)), "threads": float(threads)}


if __name__ == "__main__":
    flat, child = BudgetTracker(total=10**15), BudgetTracker(total=10**15).child("b", total=10**15)
    booked = rate(flat)
    figures = {
        "flat": booked,
        "empty_calls": empty_calls() / booked,
        "bare": rate(BareTracker(total=10**15)),
        "inlined": rate(InlinedTracker(total=10**15)),
        "inlined_chain": rate(InlinedTracker(total=10**15, depth=3)),
        "chain": rate(child.child("c", total=10**15)),
        "eight_threads": of_eight(flat),
        "eight_apart": of_eight(*(BudgetTracker(total=10**15) for _ in range(8))),
        **asyncio.run(admitted()),
    }
    print(json.dumps(figures))

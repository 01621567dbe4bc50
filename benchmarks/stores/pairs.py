"""Pairs of reserve and settle per second, ours and bare ones: the measure of both stores."""

from __future__ import annotations

import json
import multiprocessing
import statistics
import time
from collections.abc import Callable
from typing import Any, TypeAlias

LIMIT = 10**15
#: Makes one pair.
Pair: TypeAlias = Callable[[], None]
#: Connects to a store, under a name of its own; what then makes pairs there.
Subject: TypeAlias = Callable[[str, str], Pair]


def _work(subject: Subject, place: str, name: str, begin: Any, seconds: float, found: Any) -> None:
    pair = subject(place, name)
    pair()
    begin.wait()
    pairs, until = 0, time.monotonic() + seconds
    while time.monotonic() < until:
        pair()
        pairs += 1
    found.put(pairs)


def rate(subject: Subject, place: str, processes: int, seconds: float) -> float:
    """Pairs per second of so many processes together, which begin at one moment."""
    context = multiprocessing.get_context("spawn")
    begin, found = context.Barrier(processes), context.Queue()
    crew = [
        context.Process(target=_work, args=(subject, place, f"p{each}", begin, seconds, found))
        for each in range(processes)
    ]
    for process in crew:
        process.start()
    pairs = sum(found.get() for _ in crew)
    for process in crew:
        process.join()
    return pairs / seconds


def compare(store: str, processes: int, rounds: int, rate_of: dict[str, Callable[[], float]]) -> None:
    """Measure the first and the second by turns, and print the medians of all rounds, and the ratio, as JSON."""
    rates: dict[str, list[float]] = {name: [] for name in rate_of}
    for _ in range(rounds):
        for name, measured in rate_of.items():
            rates[name].append(measured())
    middle = {name: round(statistics.median(of_name)) for name, of_name in rates.items()}
    ratio = statistics.median(one / other for one, other in zip(*rates.values(), strict=True))
    found = {"store": store, "processes": processes, "pairs_per_second": middle, "ratio": round(ratio, 2)}
    print(json.dumps(found), flush=True)

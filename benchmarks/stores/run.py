"""Reserve and settle on a budget in a file, beside bare transactions that write the same rows: pairs per second.

    python benchmarks/stores/run.py [--seconds 3] [--rounds 3] [--processes 1 4 16] [--folder PATH]

Both run on the same disk with the same `synchronous`, by turns, in processes that begin at one moment.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llm_connect import open_budget

LIMIT = 10**15


def ours(path: str, until: float) -> int:
    """Pairs of this process until then: the library."""
    budget = open_budget(f"sqlite:///{path}")
    pairs = 0
    while time.monotonic() < until:
        budget.reserve(10).settle(7)
        pairs += 1
    return pairs


def bare(path: str, until: float) -> int:
    """Pairs of this process until then: transactions that read the figures, and write the same rows."""
    connection = sqlite3.connect(path, timeout=60, isolation_level=None)
    connection.execute("PRAGMA synchronous = FULL")
    pairs = 0
    while time.monotonic() < until:
        _settle(connection, _reserve(connection))
        pairs += 1
    connection.close()
    return pairs


def _reserve(connection: sqlite3.Connection) -> int:
    connection.execute("BEGIN IMMEDIATE")
    limit, spent, held = connection.execute(
        "SELECT tokens_limit, tokens_spent, tokens_held FROM trackers WHERE id = 1"
    ).fetchone()
    assert spent + held + 10 <= limit
    connection.execute(
        "UPDATE trackers SET tokens_held = tokens_held + 10, calls_held = calls_held + 1, changed = changed + 1 "
        "WHERE id = 1"
    )
    hold = connection.execute(
        "INSERT INTO holds (lease, tracker, state, tokens, calls, nano_usd, grade, reserved_at) "
        "VALUES (1, 1, 'reserved', 10, 1, 0, 'proven', ?)",
        (time.time(),),
    ).lastrowid
    connection.execute("COMMIT")
    assert hold is not None
    return hold


def _settle(connection: sqlite3.Connection, hold: int) -> None:
    now = time.time()
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("DELETE FROM holds WHERE id = ?", (hold,))
    connection.execute(
        "UPDATE trackers SET tokens_held = tokens_held - 10, calls_held = calls_held - 1, "
        "tokens_spent = tokens_spent + 7, calls_spent = calls_spent + 1, changed = changed + 1 WHERE id = 1"
    )
    connection.execute(
        "INSERT INTO ledger (budget, tracker, path, outcome, tokens, calls, nano_usd, bound_tokens, bound_calls, "
        "bound_nano_usd, grade, reserved_at, ended_at, open) "
        "VALUES (1, 1, 'budget', 'settled', 7, 1, 0, 10, 1, 0, 'proven', ?, ?, 0)",
        (now, now),
    )
    connection.execute("COMMIT")


SUBJECTS: dict[str, Callable[[str, float], int]] = {"llm-connect": ours, "bare": bare}


def _work(subject: str, path: str, begin: Any, seconds: float, found: Any) -> None:
    begin.wait()
    found.put(SUBJECTS[subject](path, time.monotonic() + seconds))


def rate(subject: str, processes: int, seconds: float, folder: str | None) -> float:
    """Pairs per second of so many processes together, on a file of their own."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(dir=folder) as place:
        path = str(Path(place) / "budget.db")
        open_budget(f"sqlite:///{path}", total=LIMIT).close()
        begin, found = context.Barrier(processes), context.Queue()
        crew = [context.Process(target=_work, args=(subject, path, begin, seconds, found)) for _ in range(processes)]
        for process in crew:
            process.start()
        pairs = sum(found.get() for _ in crew)
        for process in crew:
            process.join()
    return pairs / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--folder", help="on the disk that is measured (default: that of temporary files)")
    given = parser.parse_args()
    for processes in given.processes:
        rates: dict[str, list[float]] = {name: [] for name in SUBJECTS}
        for _ in range(given.rounds):
            for name, of_name in rates.items():
                of_name.append(rate(name, processes, given.seconds, given.folder))
        middle = {name: statistics.median(of_name) for name, of_name in rates.items()}
        ratio = statistics.median(one / other for one, other in zip(*rates.values(), strict=True))
        print(json.dumps({"processes": processes, "pairs_per_second": middle, "ratio": round(ratio, 2)}), flush=True)


if __name__ == "__main__":
    main()

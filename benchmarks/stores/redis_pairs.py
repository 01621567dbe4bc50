"""Reserve and settle on a budget in Redis, beside a bare Lua script that does the same: pairs per second.

    python benchmarks/stores/redis_pairs.py [--seconds 3] [--rounds 3] [--processes 1 4 16]

A redis-server is started for it, on a socket, without persistence: what is measured is the processor. Both run by
turns, in processes that begin at one moment. The bare script is called as redis-py's users call one.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import redis

from llm_connect import open_budget

LIMIT = 10**15

RESERVE = """
local figures = redis.call('HMGET', KEYS[1], 'limit', 'spent', 'held')
if figures[2] + figures[3] + ARGV[2] > tonumber(figures[1]) then return 0 end
redis.call('HINCRBY', KEYS[1], 'held', ARGV[2])
redis.call('HINCRBY', KEYS[1], 'held_calls', 1)
redis.call('HSET', KEYS[2], ARGV[1], ARGV[3])
redis.call('ZADD', KEYS[3], redis.call('TIME')[1] + 60, ARGV[4])
return 1
"""
SETTLE = """
if redis.call('HDEL', KEYS[2], ARGV[1]) == 0 then return 0 end
redis.call('HINCRBY', KEYS[1], 'held', -ARGV[2])
redis.call('HINCRBY', KEYS[1], 'held_calls', -1)
redis.call('HINCRBY', KEYS[1], 'spent', ARGV[3])
redis.call('HINCRBY', KEYS[1], 'spent_calls', 1)
redis.call('RPUSH', KEYS[4], ARGV[4])
redis.call('LTRIM', KEYS[4], -10000, -1)
redis.call('ZADD', KEYS[3], redis.call('TIME')[1] + 60, ARGV[5])
redis.call('PUBLISH', 'freed', ARGV[5])
return redis.call('HINCRBY', KEYS[1], 'entries', 1)
"""


def ours(url: str, name: str, until: float) -> int:
    """Pairs of this process until then: the library."""
    budget = open_budget(url)
    pairs = 0
    while time.monotonic() < until:
        budget.reserve(10).settle(7)
        pairs += 1
    return pairs


def bare(url: str, name: str, until: float) -> int:
    """Pairs of this process until then: scripts that check the limit, and write the same."""
    client = redis.Redis.from_url(url)
    reserve, settle = client.register_script(RESERVE), client.register_script(SETTLE)
    keys, pairs = [f"{{bare}}:{part}" for part in ("figures", "holds", "leases", "ledger")], 0
    while time.monotonic() < until:
        hold, now = f"{name}.{pairs}", time.time()
        assert reserve(keys=keys, args=[hold, 10, json.dumps([name, "reserved", 10, 1, 0, now]), name])
        entry = json.dumps(["budget", "settled", 7, 1, 0, 10, 1, 0, "proven", now, time.time()])
        assert settle(keys=keys, args=[hold, 10, 7, entry, name])
        pairs += 1
    client.close()
    return pairs


SUBJECTS: dict[str, Callable[[str, str, float], int]] = {"llm-connect": ours, "bare": bare}


def _work(subject: str, url: str, name: str, begin: Any, seconds: float, found: Any) -> None:
    begin.wait()
    found.put(SUBJECTS[subject](url, name, time.monotonic() + seconds))


def rate(subject: str, processes: int, seconds: float, url: str) -> float:
    """Pairs per second of so many processes together."""
    context = multiprocessing.get_context("spawn")
    with redis.Redis.from_url(url) as client:
        client.flushall()
        client.hset("{bare}:figures", mapping={"limit": LIMIT, "spent": 0, "held": 0})
    open_budget(url, total=LIMIT).close()
    begin, found = context.Barrier(processes), context.Queue()
    crew = [
        context.Process(target=_work, args=(subject, url, f"p{each}", begin, seconds, found))
        for each in range(processes)
    ]
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
    given = parser.parse_args()
    program = shutil.which("redis-server")
    if program is None:
        raise SystemExit("There is no redis-server here.")
    with tempfile.TemporaryDirectory() as folder:
        options = ["--port", "0", "--unixsocket", f"{folder}/socket", "--dir", folder, "--save", ""]
        server = subprocess.Popen([program, *options], stdout=subprocess.DEVNULL)
        while not Path(folder, "socket").exists():
            time.sleep(0.01)
        try:
            for processes in given.processes:
                compare(processes, given.seconds, given.rounds, f"unix://{folder}/socket")
        finally:
            server.kill()
            server.wait()


def compare(processes: int, seconds: float, rounds: int, url: str) -> None:
    rates: dict[str, list[float]] = {name: [] for name in SUBJECTS}
    for _ in range(rounds):
        for name, of_name in rates.items():
            of_name.append(rate(name, processes, seconds, url))
    middle = {name: statistics.median(of_name) for name, of_name in rates.items()}
    ratio = statistics.median(one / other for one, other in zip(*rates.values(), strict=True))
    print(json.dumps({"processes": processes, "pairs_per_second": middle, "ratio": round(ratio, 2)}), flush=True)


if __name__ == "__main__":
    main()

"""A budget in Redis, compared with a bare Lua script for each step, called in the usual way of redis-py.

The script does the same work: it keeps a limit, fences by a lease, and writes holds, the ledger and its sums, the
changes for readers, each process's last step, so that it counts once, and a notice to waiting callers.
"""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import redis
from pairs import LIMIT, Pair, Subject, compare, rate

from llm_connect import open_budget

PARTS = ("figures", "holds", "leases", "ledger", "changed", "lasts", "totals")
RESERVE = """
local time, lease = redis.call('TIME'), redis.call('ZSCORE', KEYS[3], ARGV[4])
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if lease and tonumber(lease) <= now then return 0 end
local figures = redis.call('HMGET', KEYS[1], 'limit', 'spent', 'held')
if figures[2] + figures[3] + ARGV[2] > tonumber(figures[1]) then return 0 end
redis.call('HINCRBY', KEYS[1], 'held', ARGV[2])
redis.call('HINCRBY', KEYS[1], 'held_calls', 1)
redis.call('HSET', KEYS[2], ARGV[1], ARGV[3])
if not lease then redis.call('ZADD', KEYS[3], now + 60000, ARGV[4]) end
redis.call('ZADD', KEYS[5], redis.call('HINCRBY', KEYS[1], 'stamp', 1), 'budget')
redis.call('HSET', KEYS[6], ARGV[4], ARGV[1])
return 1
"""
SETTLE = """
local time, lease = redis.call('TIME'), redis.call('ZSCORE', KEYS[3], ARGV[5])
if not lease or tonumber(lease) <= time[1] * 1000 + math.floor(time[2] / 1000) then return 0 end
if redis.call('HDEL', KEYS[2], ARGV[1]) == 0 then return 0 end
redis.call('HINCRBY', KEYS[1], 'held', -ARGV[2])
redis.call('HINCRBY', KEYS[1], 'held_calls', -1)
redis.call('HINCRBY', KEYS[1], 'spent', ARGV[3])
redis.call('HINCRBY', KEYS[1], 'spent_calls', 1)
redis.call('RPUSH', KEYS[4], ARGV[4])
redis.call('LTRIM', KEYS[4], -10000, -1)
redis.call('HINCRBY', KEYS[7], 'budget entries', 1)
redis.call('HINCRBY', KEYS[7], 'budget calls', 1)
redis.call('HINCRBY', KEYS[7], 'budget tokens', ARGV[3])
redis.call('ZADD', KEYS[5], redis.call('HINCRBY', KEYS[1], 'stamp', 1), 'budget')
redis.call('HSET', KEYS[6], ARGV[5], ARGV[1])
redis.call('PUBLISH', 'freed', ARGV[5])
return redis.call('HINCRBY', KEYS[1], 'entries', 1)
"""


def ours(url: str, name: str) -> Pair:
    """The library."""
    budget = open_budget(url)
    return lambda: budget.reserve(10).settle(7)


def bare(url: str, name: str) -> Pair:
    """Scripts that check the limit, and write the same."""
    client = redis.Redis.from_url(url)
    reserve, settle = client.register_script(RESERVE), client.register_script(SETTLE)
    keys, numbers = [f"{{bare}}:{part}" for part in PARTS], itertools.count()

    def pair() -> None:
        hold, now = f"{name}.{next(numbers)}", time.time()
        assert reserve(keys=keys, args=[hold, 10, json.dumps([name, "reserved", 10, 1, 0, now]), name])
        entry = json.dumps(["budget", "settled", 7, 1, 0, 10, 1, 0, "proven", now, time.time()])
        assert settle(keys=keys, args=[hold, 10, 7, entry, name])

    return pair


@contextmanager
def server() -> Iterator[str | None]:
    """Yield the URL of a server on a socket, without persistence, so only the processor counts. None without Redis."""
    program = shutil.which("redis-server")
    if program is None:
        yield None
        return
    with tempfile.TemporaryDirectory() as folder:
        options = ["--port", "0", "--unixsocket", f"{folder}/socket", "--dir", folder, "--save", ""]
        running = subprocess.Popen([program, *options], stdout=subprocess.DEVNULL)
        while not Path(folder, "socket").exists():
            time.sleep(0.01)
        try:
            yield f"unix://{folder}/socket"
        finally:
            running.kill()
            running.wait()


def rate_of(subject: Subject, processes: int, seconds: float, url: str) -> float:
    """Pairs per second of so many processes together, on an empty server."""
    with redis.Redis.from_url(url) as client:
        client.flushall()
        client.hset("{bare}:figures", mapping={"limit": LIMIT, "spent": 0, "held": 0})
    open_budget(url, total=LIMIT).close()
    return rate(subject, url, processes, seconds)


def measure(processes: int, seconds: float, rounds: int, url: str) -> None:
    """Print the rate of so many processes."""
    details = (processes, seconds, url)
    subjects = {"llm-connect": partial(rate_of, ours, *details), "bare": partial(rate_of, bare, *details)}
    compare("redis", processes, rounds, subjects)

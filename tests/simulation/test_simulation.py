"""Many processes share one budget in a simulated world, in one thread and under a seed.

The sessions, their steps, SQLite and the script of the server are those of production. The server's keys, the network,
the clock and the threads are simulated: messages are lost, processes are killed, stopped and cut off, leases end, and
others act while a message is on its way. After each step all promises are checked on the state of the store.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("lupa", reason="the script of the server runs in lupa")

from tests.simulation.invariants import Broken
from tests.simulation.planted import PLANTED, Fault
from tests.simulation.run import run

SEEDS = 300
NIGHTLY_SEEDS = 10_000
SHARDS = 6
REPLAYED = range(1, 6)
STORES = ["server", "file"]

pytestmark = pytest.mark.timeout(1_800)


@pytest.mark.scales
@pytest.mark.parametrize("shard", range(SHARDS))
@pytest.mark.parametrize("store", STORES)
def test_no_seed_breaks_a_promise(store: str, shard: int, nightly: bool, pytestconfig: pytest.Config) -> None:
    """Whatever is lost, killed or late, the cap holds, each call is booked once, and nothing stays held.

    (STORE-3, STORE-4, STORE-7, STORE-18)
    """
    chosen = pytestconfig.getoption("seed")
    seeds = range(1, (NIGHTLY_SEEDS if nightly else SEEDS) + 1) if chosen is None else [chosen]
    for seed in seeds[shard::SHARDS]:
        run(seed, store)


def test_a_seed_replays_exactly() -> None:
    """A seed has the same trace in every process, so a failing one can be seen again."""
    first, second = (traces(str(seed)) for seed in (1, 2))
    assert first == second
    assert first.splitlines() == [line for seed in REPLAYED for store in STORES for line in run(seed, store).trace]


def traces(hash_seed: str) -> str:
    """The traces of some seeds in another process."""
    code = """
from tests.simulation.run import run
for seed in {0!r}:
    for store in {1!r}:
        print(*run(seed, store).trace, sep="\\n")
"""
    done = subprocess.run(
        [sys.executable, "-c", code.format(REPLAYED, STORES)],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    return done.stdout


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_fault_is_found(name: str) -> None:
    """A fault in the library, or in the script of the server, breaks a promise within 300 seeds."""
    fault = PLANTED[name]
    with fault.planted(), pytest.raises(Broken):
        run_all(fault)


def run_all(fault: Fault) -> None:
    for seed in range(1, SEEDS + 1):
        run(seed, fault.store, fault.changes)

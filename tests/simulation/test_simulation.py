"""Many processes share one budget in a simulated world, in one thread and under a seed.

The sessions, their steps and the script of the server are those of production. The server's keys, the network, the
clock and the threads are simulated: messages are lost, processes are killed, stopped and cut off, leases end, and
others act while a message is on its way. After each command all promises are checked on the server's state.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("lupa", reason="the script of the server runs in lupa")

from tests.simulation.invariants import Broken
from tests.simulation.planted import PLANTED
from tests.simulation.run import run

SEEDS = 300
NIGHTLY_SEEDS = 10_000
SHARDS = 10
REPLAYED = range(1, 6)

pytestmark = pytest.mark.timeout(1_800)


@pytest.mark.scales
@pytest.mark.parametrize("shard", range(SHARDS))
def test_no_seed_breaks_a_promise(shard: int, nightly: bool, pytestconfig: pytest.Config) -> None:
    """Whatever is lost, killed or late, the cap holds, each call is booked once, and nothing stays held (STORE-3)."""
    chosen = pytestconfig.getoption("seed")
    seeds = range(1, (NIGHTLY_SEEDS if nightly else SEEDS) + 1) if chosen is None else [chosen]
    for seed in seeds[shard::SHARDS]:
        run(seed)


def test_a_seed_replays_exactly() -> None:
    """A seed has the same trace in every process, so a failing one can be seen again."""
    first, second = (traces(str(seed)) for seed in (1, 2))
    assert first == second
    assert first.splitlines() == [line for seed in REPLAYED for line in run(seed).trace]


def traces(hash_seed: str) -> str:
    """The traces of some seeds in another process."""
    code = "from tests.simulation.run import run\nfor seed in {0!r}: print(*run(seed).trace, sep='\\n')"
    done = subprocess.run(
        [sys.executable, "-c", code.format(REPLAYED)],
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
    with PLANTED[name].planted() as changes, pytest.raises(Broken):
        run_all(changes)


def run_all(changes: Callable[[str], str]) -> None:
    for seed in range(1, SEEDS + 1):
        run(seed, changes)

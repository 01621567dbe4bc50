"""The machine on which simulated processes run: its clock, its random numbers and its threads.

While `simulated` is entered, the library sees this machine in place of the real one. The sessions, their steps and
their retries are those of production.
"""

from __future__ import annotations

import gc
import logging
import random
import secrets
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any
from unittest import mock

from llm_connect.budget.admission import booking
from llm_connect.stores import session, worker
from llm_connect.stores.worker import StoreWorker


class Clock:
    """The clock of the machine and of the server. It stands still except when the simulation advances it."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now

    def time_ns(self) -> int:
        return int(self.now * 1e9)

    def monotonic_ns(self) -> int:
        # Two callers never arrive at the same moment.
        self.now += 1e-6
        return int(self.now * 1e9)

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


class Secrets:
    """Names and numbers that are new for each process, but the same for each run of a seed."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance

    def token_hex(self, size: int) -> str:
        return f"{self._chance.getrandbits(8 * size):0{2 * size}x}"

    def randbits(self, bits: int) -> int:
        return self._chance.getrandbits(bits)


class TurnedWorker(StoreWorker):
    """A worker that works when the simulation says so, in place of a thread."""

    def start(self) -> None:
        """Start no thread."""

    def turn(self) -> None:
        """Do the next job and the work that is due, as the thread would."""
        worker._do_next(self._jobs, self._session, 0.0)


def do_nothing(*_: Any) -> None:
    """Tell nobody of a session: no simulated process ends or forks."""


def in_place(clock: Clock, chance: random.Random) -> Iterator[Any]:
    """The patches that put the simulated machine in place of the real one."""
    yield mock.patch.object(session, "StoreWorker", TurnedWorker)
    yield mock.patch.object(session, "look_after", do_nothing)
    yield mock.patch.object(booking, "now", clock.time)
    stand_ins = {"time": (time, clock), "random": (random, chance), "secrets": (secrets, Secrets(chance))}
    for module in [module for name, module in sys.modules.items() if name.startswith("llm_connect.")]:
        for name, (real, stand_in) in stand_ins.items():
            if getattr(module, name, None) is real:
                yield mock.patch.object(module, name, stand_in)


@cache
def leave_out_the_rest() -> None:
    """Keep the objects that this process has already out of collections, which are quick then."""
    gc.collect()
    gc.freeze()


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the log, and collect garbage only when the simulation says so.

    Otherwise lost holds would end at a moment that depends on the rest of the process.
    """
    logger, collects = logging.getLogger("llm_connect"), gc.isenabled()
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    gc.disable()
    leave_out_the_rest()
    try:
        yield
    finally:
        logger.setLevel(level)
        if collects:
            gc.enable()


@contextmanager
def simulated(clock: Clock, chance: random.Random, patches: Iterator[Any]) -> Iterator[None]:
    """Let the library run on the simulated machine, with further patches for its store."""
    with quiet(), ExitStack() as stack:
        for patch in (*in_place(clock, chance), *patches):
            stack.enter_context(patch)
        yield

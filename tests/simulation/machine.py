"""The machine on which simulated processes run: its clock, its random numbers, its threads and its network.

While `simulated` is entered, the library sees this machine in place of the real one. The sessions, their steps, their
retries and their scripts are those of production.
"""

from __future__ import annotations

import gc
import logging
import random
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol
from unittest import mock

from llm_connect.budget.admission import clocks
from llm_connect.stores import session, worker
from llm_connect.stores.redis import session as redis_session
from llm_connect.stores.redis.listener import Listener
from llm_connect.stores.redis.server import Server
from llm_connect.stores.worker import StoreWorker


class Clock:
    """The clock of the machine and of the server. It stands still except when the simulation advances it."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now

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


class Network(Protocol):
    """What a connection needs of the simulation."""

    def connect(self) -> Any:
        """Return the process that opens a connection. Raises Disconnected if it is cut off."""
        ...

    def exchange(self, process: Any, command: list[bytes]) -> Any:
        """Run a command of a process on the server and return the reply; raises Disconnected if one of them is lost."""
        ...


class Connection:
    """The client's side of one connection, as redis-py has it."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._process: Any = None
        self._sent: list[bytes] = []

    def connect(self) -> None:
        self._process = self._network.connect()

    def send_packed_command(self, parts: list[bytes]) -> None:
        (data,) = parts
        self._sent = _parsed(data)

    def read_response(self) -> Any:
        return self._network.exchange(self._process, self._sent)

    def disconnect(self) -> None:
        self._process = None


def _parsed(data: bytes) -> list[bytes]:
    """The arguments of a command in the protocol of Redis."""
    head, _, rest = data.partition(b"\r\n")
    found = []
    for _ in range(int(head[1:])):
        size, _, rest = rest.partition(b"\r\n")
        found.append(rest[: int(size[1:])])
        rest = rest[int(size[1:]) + 2 :]
    return found


class TurnedWorker(StoreWorker):
    """A worker that works when the simulation says so, in place of a thread."""

    def start(self) -> None:
        """Start no thread."""

    def turn(self) -> None:
        """Do the next job and the work that is due, as the thread would."""
        worker._do_next(self._jobs, self._session, 0.0)


class NoticingListener(Listener):
    """A listener without a thread: the simulation delivers the messages."""

    def start(self) -> None:
        """Start no thread."""


def do_nothing(*_: Any) -> None:
    """Tell nobody of a session: no simulated process ends or forks."""


def in_place(network: Network, clock: Clock, chance: random.Random) -> Iterator[Any]:
    """The patches that put the simulated machine in place of the real one."""

    def connect(server: Server, **_: Any) -> Connection:
        return Connection(network)

    yield mock.patch.object(session, "StoreWorker", TurnedWorker)
    yield mock.patch.object(session, "look_after", do_nothing)
    yield mock.patch.object(redis_session, "Listener", NoticingListener)
    yield mock.patch.object(Server, "new_connection", connect)
    yield mock.patch.object(clocks, "now", clock.time)
    secrets = Secrets(chance)
    for module in [module for name, module in sys.modules.items() if name.startswith("llm_connect.")]:
        if getattr(module, "time", None) is time:
            yield mock.patch.object(module, "time", clock)
        if hasattr(module, "secrets"):
            yield mock.patch.object(module, "secrets", secrets)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the log, and collect garbage only when the simulation says so.

    Otherwise lost holds would end at a moment that depends on the rest of the process. That is frozen, so that a
    collection is quick.
    """
    logger, collects = logging.getLogger("llm_connect"), gc.isenabled()
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    gc.disable()
    gc.freeze()
    try:
        yield
    finally:
        logger.setLevel(level)
        gc.unfreeze()
        if collects:
            gc.enable()


@contextmanager
def simulated(network: Network, clock: Clock, chance: random.Random) -> Iterator[None]:
    """Let the library run on the simulated machine."""
    with quiet(), ExitStack() as stack:
        for patch in in_place(network, clock, chance):
            stack.enter_context(patch)
        yield

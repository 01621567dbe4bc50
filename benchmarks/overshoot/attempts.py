"""The ways in which calls are attempted; runs in the process of a contender. Standard library only."""

from __future__ import annotations

import asyncio
import time
import urllib.request
from collections import Counter
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from decimal import Decimal

from benchmarks.overshoot.scenarios import TENTHS, THREADS, WAVE, Scenario

#: How long the first call of a wave may take to arrive, and each after it.
FIRST_SECONDS = 10.0
NEXT_SECONDS = 0.5
#: How long an agent's own calls come after those of the agent below it: all are still under way.
DELEGATION_SECONDS = 0.05
ANSWER = "answer"


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """The task of a contender, and its address."""

    scenario: Scenario
    variant: str
    attempts: int
    url: str
    desk_url: str


class Contender:
    """One budget and the calls under it. An attempt that is refused raises; one that returns has its answer."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.scenario = task.scenario

    def call(self, agent: str) -> object:
        """One call in a thread."""
        raise NotImplementedError

    async def acall(self, agent: str) -> object:
        """One call in an event loop."""
        raise NotImplementedError

    def scope(self, agent: str) -> AbstractContextManager[object]:
        """Return the context that is open while `agent` and the agents below it work."""
        return nullcontext()

    def books(self) -> Decimal:
        """Return the spend by the contender's own account, in the unit of its cap."""
        raise NotImplementedError

    def held(self) -> Decimal | None:
        """Return the budget held for calls in flight; None if the contender holds none."""
        return None

    async def aclose(self) -> None:
        """Called in the event loop when all attempts have ended."""


def attempt_all(contender: Contender) -> Counter[str]:
    """Make all attempts in the scenario's way; how often each outcome came: an answer, or the name of an error."""
    outcomes = Outcomes()
    if contender.scenario.way == "threads":
        in_threads(contender, outcomes)
    else:
        asyncio.run(_in_loop(contender, outcomes))
    return Counter(outcomes.all)


async def _in_loop(contender: Contender, outcomes: Outcomes) -> None:
    ways = {"sequential": sequential, "gather": gather, "chain": chain, "cancel": cancel}
    await ways[contender.scenario.way](contender, outcomes)
    await contender.aclose()


class Outcomes:
    """Return the outcome of each attempt."""

    def __init__(self) -> None:
        self.all: list[str] = []

    def of(self, call: Callable[[], object]) -> None:
        """Make a call and note how it ended."""
        try:
            call()
        except Exception as error:
            self.all.append(type(error).__name__)
        else:
            self.all.append(ANSWER)

    async def aof(self, call: Awaitable[object]) -> None:
        """Like the sync form, in an event loop."""
        try:
            await call
        except asyncio.CancelledError:
            self.all.append("cancelled")
        except Exception as error:
            self.all.append(type(error).__name__)
        else:
            self.all.append(ANSWER)


def in_threads(contender: Contender, outcomes: Outcomes) -> None:
    """By threads that take one attempt after the other."""
    with contender.scope("A"), ThreadPoolExecutor(THREADS) as threads:
        for _ in range(contender.task.attempts):
            threads.submit(outcomes.of, lambda: contender.call("A"))


async def sequential(contender: Contender, outcomes: Outcomes) -> None:
    """Each when the one before has ended."""
    with contender.scope("A"):
        for _ in range(contender.task.attempts):
            await outcomes.aof(contender.acall("A"))


async def gather(contender: Contender, outcomes: Outcomes) -> None:
    """Run all attempts at once."""
    with contender.scope("A"):
        await asyncio.gather(*(outcomes.aof(contender.acall("A")) for _ in range(contender.task.attempts)))


async def chain(contender: Contender, outcomes: Outcomes, agents: str = "".join(TENTHS)) -> None:
    """Each agent delegates first, and then makes its own third of the calls at once."""
    agent, below = agents[0], agents[1:]
    try:
        with contender.scope(agent):
            delegated = [asyncio.create_task(chain(contender, outcomes, below))] if below else []
            await asyncio.sleep(DELEGATION_SECONDS * len(below))
            own = range(contender.task.attempts // len(TENTHS))
            await asyncio.gather(*delegated, *(outcomes.aof(contender.acall(agent)) for _ in own))
    except Exception as error:
        outcomes.all.append(f"{type(error).__name__} at the end of {agent}")


async def cancel(contender: Contender, outcomes: Outcomes) -> None:
    """Wave after wave, each cancelled when its calls have arrived at the server."""
    with contender.scope("A"):
        for _ in range(contender.task.attempts // WAVE):
            before = await _arrived(contender)
            wave = [asyncio.create_task(outcomes.aof(contender.acall("A"))) for _ in range(WAVE)]
            await _until_in_flight(contender, wave, before)
            for call in wave:
                call.cancel()
            await asyncio.gather(*wave, return_exceptions=True)


async def _until_in_flight(contender: Contender, wave: list[asyncio.Task[None]], before: int) -> None:
    """Until all of the wave has arrived or ended, or until no more comes: the others wait or were never sent."""
    arrived, deadline = before, time.monotonic() + FIRST_SECONDS
    while time.monotonic() < deadline:
        await asyncio.sleep(0.02)
        now = await _arrived(contender)
        if now - before >= WAVE or all(call.done() for call in wave):
            return
        if now != arrived:
            arrived, deadline = now, time.monotonic() + NEXT_SECONDS


async def _arrived(contender: Contender) -> int:
    def ask() -> int:
        with urllib.request.urlopen(contender.task.desk_url, timeout=10) as reply:
            return int(reply.read())

    return await asyncio.to_thread(ask)

"""A world of processes that share one budget in a store, in one thread and under one seed.

The seed decides everything: which process acts, what it does, what happens to its messages, and how time passes. While
a message is on its way to a server, or a process is about to begin a transaction, other processes act. So each
interleaving of steps, with each loss and each death, has a seed.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from llm_connect.budget.tracker import BudgetTracker
from llm_connect.errors import LLMBudgetExceededError, LLMStoreError
from llm_connect.stores.opening import new_session
from tests.simulation.actions import Actions
from tests.simulation.calls import Call
from tests.simulation.file_store import FileStore
from tests.simulation.invariants import Books, Broken, State
from tests.simulation.machine import Clock
from tests.simulation.server_store import ServerStore

LEASE_SECONDS = 6.0
MOST_PROCESSES = 4
#: While a message is on its way, others act; and while theirs are, others again, up to this depth.
DEPTH = 2
#: What happens to messages, or while they are on their way.
MISHAPS = (*("lost", "overtaken") * 3, "cut off", "taken for dead", "killed")


class Killed(BaseException):
    """The process that does this is dead."""


class Process:
    """One process: its session, its trackers and its calls."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.alive = True
        #: True after it has closed the budget.
        self.closed = False
        #: True while it waits for the server, and cannot do anything else.
        self.busy = False
        self.cut_off_until = 0.0
        self.stopped_until = 0.0
        self.session: Any = None
        self.trackers: list[BudgetTracker] = []
        self.shares: list[BudgetTracker] = []
        self.calls: list[Call] = []
        #: The states of the server that it has seen in its present operation.
        self.saw: list[State] = []

    @property
    def free(self) -> bool:
        return self.alive and not self.busy and self.world.clock.now >= self.stopped_until

    @property
    def written(self) -> bool:
        """True if nothing is left that it has to write."""
        session = self.session
        return session is not None and not (session.gate.notes or session._suspects or session.unsettled)


class World:
    """The store, and all processes of one seed."""

    def __init__(self, seed: int, file: str | None = None, changes: Callable[[str], str] = str) -> None:
        self.seed = seed
        self.chance = random.Random(seed)
        self.clock = Clock()
        self.terms = {"name": "budget", "lease_seconds": LEASE_SECONDS}
        self.store: ServerStore | FileStore = ServerStore(self, changes) if file is None else FileStore(self, file)
        self.books = Books(self.store)
        self.processes: list[Process] = []
        self.calls: list[Call] = []
        self.actions = Actions(self)
        self.trace: list[str] = []
        #: The processes that are inside of an operation, the inner one last.
        self._acting: list[Process] = []
        #: False once nothing goes wrong any more.
        self.bad = True
        #: The chance of a mishap on the way of one message. Some worlds are calmer than others.
        self._mishaps = self.chance.choice((0.0, 0.05, 0.15, 0.3))

    # The trace.

    def say(self, text: str) -> None:
        depth = "  " * len(self._acting)
        self.trace.append(f"{self.clock.now - 1_700_000_000:9.3f} {depth}{text}")

    # The store.

    @property
    def nested(self) -> bool:
        """True while a process is inside of an operation."""
        return bool(self._acting)

    def reaches(self, error: Callable[[str], Exception]) -> Process:
        """The process that opens a connection. Raises `error` if it is cut off."""
        if not self._acting:
            # The flow of a dead process is collected after the end of its world.
            raise error("over")
        process = self._acting[-1]
        self._must_live(process)
        if self.clock.now < process.cut_off_until:
            raise error("cut off")
        return process

    def served(self, process: Process) -> None:
        """Look at the store after a step of a process."""
        self.clock.now += 0.0005
        self.books.check()
        for call in process.calls:
            call.note_grant()
        process.saw.append(self.books.state)

    def mishap(self, process: Process, of: str, error: Callable[[str], Exception]) -> None:
        """Perhaps let something happen to a message, or while it is on its way."""
        self._must_live(process)
        if not self.bad or self.chance.random() >= self._mishaps:
            return
        what = self.chance.choice(MISHAPS)
        if what == "lost":
            self.say(f"~ a {of} of {process.name} is lost")
            raise error("lost")
        if what == "cut off":
            process.cut_off_until = self.clock.now + self.chance.choice((0.1, 0.1, 1.0, 1.0, LEASE_SECONDS * 1.5))
            self.say(f"~ {process.name} is cut off with its {of}")
            raise error("cut off")
        if what == "killed" and self.chance.random() < 0.3:
            self.kill(process)
        elif what == "taken for dead":
            self.clock.now += LEASE_SECONDS * 1.1
            process.cut_off_until = self.clock.now + 0.5
            self.say(f"~ {process.name} is taken for dead with its {of}")
        self._meanwhile()
        self._must_live(process)
        if what == "taken for dead":
            raise error("cut off")

    def may_die(self, process: Process) -> None:
        """Perhaps kill a process in the midst of a transaction."""
        if self.bad and self.chance.random() < self._mishaps / 20:
            self.kill(process)
        self._must_live(process)

    def delivers(self) -> bool:
        """True if a notification arrives."""
        return not self.bad or self.chance.random() < 0.8

    def _meanwhile(self) -> None:
        """Let other processes act, and time pass."""
        for _ in range(self.chance.randint(1, 3)):
            if len(self._acting) <= DEPTH:
                self.step()

    @staticmethod
    def _must_live(process: Process) -> None:
        if not process.alive:
            raise Killed

    # Processes.

    def start(self) -> Process:
        process = Process(self, f"p{len(self.processes) + 1}")
        self.processes.append(process)
        self.say(f"{process.name} starts")
        with self.acting(process):
            process.session = new_session(self.store.terms)
            process.trackers.append(process.session.tracker(process.session.root))
        if process.session is None or not process.trackers:
            process.alive = False
        return process

    def kill(self, process: Process) -> None:
        self.say(f"~ {process.name} is killed")
        process.alive = False

    @contextmanager
    def acting(self, process: Process) -> Iterator[None]:
        """Do something as `process`. Errors of the store, and its death, end what it does."""
        process.busy = True
        process.saw.clear()
        self._acting.append(process)
        try:
            yield
        except LLMStoreError as error:
            self.say(f"-> store error: {error.message[:90]}")
        except Killed:
            pass
        finally:
            self._acting.pop()
            process.busy = False
        if process.written:
            for call in process.calls:
                call.written = call.written or (call.told is not None and process.alive)
        for call in process.calls:
            if (refusal := call.new_refusal()) is not None:
                self._check_refusal(call, refusal)

    def _check_refusal(self, call: Call, error: LLMBudgetExceededError) -> None:
        """A call is refused only if it did not fit in a state that its process saw in the operation that refused it."""
        tracker, process = call.tracker, call.process
        assert tracker is not None
        in_line = self.store.waiting or any(other.waits is not None for other in process.calls if other is not call)
        # A grant that its caller does not take in time is reclaimed.
        late = error.reason == "wait_expired" and call.granted
        if late or error.reason == "closed" or call.model is not None or in_line or not tracker.number:
            return
        if all(self.books.fits(tracker.number, call.tokens, state) for state in process.saw or [self.books.state]):
            raise Broken(f"call {call.number} was refused ({error.reason}), but {call.tokens} fit on {tracker.path}")

    def open(self) -> None:
        """Create the budget and the first processes."""
        first = Process(self, "p0")
        self.bad = False
        with self.acting(first):
            self.store.create((self.chance.choice((60, 100, 200)), self.chance.choice((None, None, 8)), None))
        self.start()
        self.start()
        self.bad = True

    def step(self) -> None:
        """Let one thing happen."""
        free = [process for process in self.processes if process.free]
        kind = self.chance.random()
        if kind < 0.08 or not free:
            self._pass_time()
        elif kind < 0.10 and sum(process.alive for process in self.processes) < MOST_PROCESSES:
            self.start()
        elif kind < 0.11:
            self.kill(self.chance.choice(free))
        elif kind < 0.13:
            stopped = self.chance.choice(free)
            seconds = self.chance.choice((1.0, LEASE_SECONDS * 1.2))
            stopped.stopped_until = self.clock.now + seconds
            self.say(f"~ {stopped.name} is stopped for {seconds} seconds")
        elif kind < 0.14:
            self.say("~ the server is restarted")
            self.store.restart()
        else:
            self.actions.act(self.chance.choice(free))

    def _pass_time(self) -> None:
        seconds = self.chance.choice((0.05, 0.5, 1.0, 2.0, LEASE_SECONDS * 1.1))
        self.clock.now += seconds
        self.say(f"~ {seconds} seconds pass")

"""A simulated server: its keys in memory, its script in Lua, and connections that lose messages."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any
from unittest import mock

from redis.exceptions import ConnectionError as Disconnected

from llm_connect.budget.accounting.ledger import LedgerEntry
from llm_connect.budget.admission.arguments import Limits
from llm_connect.stores.opening import terms_of
from llm_connect.stores.redis import session
from llm_connect.stores.redis.layout import Keys, entry_from, states_of
from llm_connect.stores.redis.server import Server
from tests.simulation.invariants import Figures, StoredHold, StoredTracker, call_of
from tests.simulation.redis_in_memory import RedisInMemory

if TYPE_CHECKING:
    from tests.simulation.world import Process, World

KEYS = Keys("budget")


class ServerStore:
    """A server that the processes of a world share."""

    #: The parts of which nothing may be left at rest.
    parts = ("holds", "leases", "owners", "allotments", "waiters")

    def __init__(self, world: World, changes: Callable[[str], str]) -> None:
        self._world = world
        self._redis = RedisInMemory(world.clock.time, changes)
        self._redis.published = self._publish
        self._trackers: dict[int, StoredTracker] = {}
        self._packed: dict[bytes, bytes] = {}
        self._holds: dict[bytes, StoredHold] = {}
        self.terms = terms_of("redis://simulated", prices={}, allow_eviction=True, keep_entries=0, **world.terms)

    def create(self, limits: Limits) -> None:
        self.terms.make(limits, None, "presume")

    def restart(self) -> None:
        """Restart the server, which then has no scripts."""
        self._redis.forget_scripts()

    def close(self) -> None:
        """Do nothing: nothing outside of memory is open."""

    def patches(self) -> Iterator[Any]:
        """The patches that let the library connect to this server."""
        store = self

        def connect(server: Server, **_: Any) -> Connection:
            return Connection(store)

        yield mock.patch.object(Server, "new_connection", connect)
        yield mock.patch.object(session, "Listener", SilentListener)

    def exchange(self, process: Process, command: list[bytes]) -> Any:
        """Run a command of a process and return the reply. Raises Disconnected if one of them is lost."""
        world = self._world
        world.mishap(process, "request", Disconnected)
        reply = self._redis.call(*command)
        if command[0].startswith(b"EVAL"):
            world.served(process)
        world.mishap(process, "reply", Disconnected)
        return reply

    def connect(self) -> Process:
        return self._world.reaches(Disconnected)

    def _publish(self, client: bytes) -> None:
        for process in self._world.processes:
            of = process.session
            hears = process.alive and of is not None and of.client.encode() != client and of.waited_for
            if hears and self._world.delivers():
                of.notice()

    # What the server has.

    def part(self, name: str) -> Any:
        """One key of the budget."""
        return self._redis.keys.get(KEYS.of(name).encode(), {})

    @property
    def waiting(self) -> bool:
        return bool(self.part("waiters"))

    @property
    def presumptions(self) -> list[int]:
        return sorted(map(int, self.part("open")))

    def trackers(self) -> Iterator[StoredTracker]:
        """The trackers that have changed since the last look."""
        for name, packed in self.part("trackers").items():
            if self._packed.get(name) != packed:
                self._packed[name] = packed
                ((number, row),) = states_of(packed)
                units = {"tokens": Figures(*row[2:7]), "calls": Figures(*row[7:12])}
                place = self._place(number)
                yield place._replace(units=units, lease=row[1])

    def _place(self, number: int) -> StoredTracker:
        found = self._trackers.get(number)
        if found is None:
            place = self.part("places").get(b"%d" % number)
            parent, name, *_ = (0, "budget") if place is None else json.loads(place)
            above = self._place(parent) if parent else StoredTracker(0, (), "", {}, None)
            path = f"{above.name}/{name}".lstrip("/")
            found = self._trackers[number] = StoredTracker(number, (number, *above.path), path, {}, None)
        return found

    def holds(self) -> list[StoredHold]:
        return [self._hold(text) for text in self.part("holds").values()]

    def _hold(self, text: bytes) -> StoredHold:
        found = self._holds.get(text)
        if found is None:
            lease, tracker, state, tokens, calls, *_, labels, _ = json.loads(text)
            labels = json.loads(labels) if labels else {}
            found = self._holds[text] = StoredHold(lease, tracker, state, tokens, calls, call_of(labels))
        return found

    def entries(self, after: int) -> list[LedgerEntry]:
        """The entries behind the first `after` ones."""
        texts: Any = self.part("ledger")
        return [entry_from(text) for text in texts[after:]] if texts else []


class Connection:
    """The client's side of one connection, as redis-py has it."""

    def __init__(self, store: ServerStore) -> None:
        self._store = store
        self._process: Any = None
        self._sent: list[bytes] = []

    def connect(self) -> None:
        self._process = self._store.connect()

    def send_packed_command(self, parts: list[bytes]) -> None:
        (data,) = parts
        self._sent = parsed(data)

    def read_response(self) -> Any:
        return self._store.exchange(self._process, self._sent)

    def disconnect(self) -> None:
        self._process = None


def parsed(data: bytes) -> list[bytes]:
    """The arguments of a command in the protocol of Redis."""
    found, at = [], data.index(b"\r\n") + 2
    while at < len(data):
        end = data.index(b"\r\n", at)
        size = int(data[at + 1 : end])
        found.append(data[end + 2 : end + 2 + size])
        at = end + size + 4
    return found


class SilentListener(session.Listener):
    """A listener without a thread: the store delivers the messages."""

    def start(self) -> None:
        """Start no thread."""

"""The promises of a shared budget, checked on the server's state after each command that changes it."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

from llm_connect.budget.accounting.ledger import LedgerEntry
from llm_connect.stores.redis.keys import Keys
from llm_connect.stores.redis.ledger import entry_from
from llm_connect.stores.redis.packing import states_of
from tests import promise
from tests.simulation.redis_in_memory import RedisInMemory

#: The places of a unit's figures in the row of a tracker: limit, spent, held, presumed and allotted.
UNITS = (("tokens", 2), ("calls", 7))
KEYS = Keys("budget")
ENDINGS = frozenset({"settled", "released", "presumed"})


class Broken(AssertionError):
    """A promise is broken."""


class Figures(NamedTuple):
    """The figures of one unit of a tracker."""

    limit: int | None
    spent: int
    held: int
    presumed: int
    allotted: int

    @property
    def watched(self) -> promise.Figures:
        return self.spent, self.held, self.allotted, self.presumed, self.limit


#: The lease and the figures of each tracker.
State: TypeAlias = dict[int, tuple[str | None, dict[str, Figures]]]


@dataclass
class StoredTracker:
    """A tracker in the server."""

    number: int
    path: tuple[int, ...]
    name: str
    units: dict[str, Figures] = field(default_factory=dict)
    closed: bool = False
    lease: str | None = None


class StoredHold(NamedTuple):
    """A hold in the server."""

    lease: str
    tracker: int
    state: str
    tokens: int
    calls: int
    call: str


class Books:
    """The state of the budget in the server, read again after each command."""

    def __init__(self, server: RedisInMemory) -> None:
        self._server = server
        self._packed: dict[bytes, bytes] = {}
        self.trackers: dict[int, StoredTracker] = {}
        self.holds: dict[bytes, StoredHold] = {}
        self.entries: list[LedgerEntry] = []
        self.endings: Counter[str] = Counter()
        self._corrected: set[int] = set()
        self._sums: Counter[tuple[str, str]] = Counter()
        self._texts: dict[bytes, StoredHold] = {}

    def part(self, name: str) -> Any:
        """One key of the budget."""
        return self._server.keys.get(KEYS.of(name).encode(), {})

    @property
    def waiting(self) -> list[bytes]:
        """The names of the callers that the server lists as waiting."""
        return list(self.part("waiters"))

    def booked(self, call: int) -> int:
        """The tokens that all entries of a call add up to."""
        return sum(entry.amount.tokens for entry in self.entries if entry.labels.get("call") == str(call))

    def hold_of(self, call: int) -> StoredHold | None:
        """The open hold of a call."""
        return next((hold for hold in self.holds.values() if hold.call == str(call)), None)

    @property
    def state(self) -> State:
        """The figures of all trackers at present."""
        return {number: (tracker.lease, dict(tracker.units)) for number, tracker in self.trackers.items()}

    def fits(self, number: int, tokens: int, state: State) -> bool:
        """True if such a call fits on a tracker in a state. A tracker that the state does not have is full."""
        path = self.trackers[number].path
        return all(_fits(path, unit, need, state) for unit, need in (("tokens", tokens), ("calls", 1)))

    def check(self) -> None:
        """Read what has changed, and check all promises. Raises Broken."""
        self._read_trackers()
        self._read_holds()
        self._read_entries()
        self._check_sums()

    def _read_trackers(self) -> None:
        for name, packed in self.part("trackers").items():
            if self._packed.get(name) == packed:
                continue
            self._packed[name] = packed
            ((number, row),) = states_of(packed, {})
            tracker = self.trackers.get(number)
            if tracker is None:
                tracker = self.trackers[number] = self._new(number)
            tracker.closed, tracker.lease = bool(row[0]), row[1]
            for unit, at in UNITS:
                now = Figures(*row[at : at + 5])
                before = tracker.units.get(unit, now._replace(spent=0, held=0, presumed=0, allotted=0))
                tracker.units[unit] = now
                wrong = promise.broken(before.watched, now.watched, sure=True)
                if wrong is not None:
                    raise Broken(f"{tracker.name}, {unit}: {wrong}: {now}, before {before}")

    def _new(self, number: int) -> StoredTracker:
        place = self.part("places").get(b"%d" % number)
        if place is None:
            return StoredTracker(number, (number,), "budget")
        parent, name = json.loads(place)
        above = self.trackers.get(parent) or self._new(parent)
        return StoredTracker(number, (number, *above.path), f"{above.name}/{name}")

    def _read_holds(self) -> None:
        self.holds = {}
        for name, text in self.part("holds").items():
            hold = self._texts.get(text)
            if hold is None:
                lease, tracker, state, tokens, calls, *_, labels, _ = json.loads(text)
                hold = self._texts[text] = StoredHold(lease, tracker, state, tokens, calls, _call_of(labels))
            self.holds[name] = hold
        calls_of = Counter(hold.call for hold in self.holds.values() if hold.call)
        for call, number in calls_of.items():
            if number > 1 or self.endings[call]:
                raise Broken(f"call {call} has {number} open holds and {self.endings[call]} ended ones")

    def _read_entries(self) -> None:
        for text in self.part("ledger")[len(self.entries) :] if self.part("ledger") else ():
            entry = entry_from(text)
            self.entries.append(entry)
            if entry.id != len(self.entries):
                raise Broken(f"entry {entry.id} follows entry {len(self.entries) - 1}")
            self._add(entry)

    def _add(self, entry: LedgerEntry) -> None:
        call = entry.labels.get("call", "")
        if call and entry.outcome in ENDINGS:
            self.endings[call] += 1
            if self.endings[call] > 1:
                raise Broken(f"the hold of call {call} has ended twice")
        if entry.corrects is not None:
            if entry.corrects in self._corrected:
                raise Broken(f"entry {entry.corrects} was corrected twice")
            self._corrected.add(entry.corrects)
        for path in _above(entry.tracker):
            self._sums[path, "tokens"] += entry.amount.tokens
            self._sums[path, "calls"] += entry.amount.calls

    def _check_sums(self) -> None:
        held: Counter[tuple[int, str]] = Counter()
        for hold in self.holds.values():
            for number in self.trackers[hold.tracker].path:
                held[number, "tokens"] += hold.tokens
                held[number, "calls"] += hold.calls
        spent: Counter[tuple[str, str]] = Counter()
        for number, tracker in self.trackers.items():
            for unit, figures in tracker.units.items():
                # A closed tracker may have the path of another one.
                spent[tracker.name, unit] += figures.spent
                if figures.held != held[number, unit]:
                    raise Broken(f"{tracker.name} has {figures.held} {unit} held, its holds {held[number, unit]}")
        self._check_presumptions()
        for place in spent.keys() | self._sums.keys():
            if spent[place] != self._sums[place]:
                raise Broken(f"{place} has {spent[place]} spent, its entries {self._sums[place]}")

    def _check_presumptions(self) -> None:
        """The presumed figures are those of the open presumptions."""
        presumed: Counter[str] = Counter()
        for number in self.part("open"):
            entry = self.entries[int(number) - 1]
            for path in _above(entry.tracker):
                presumed[path] += entry.amount.tokens
        found: Counter[str] = Counter()
        for tracker in self.trackers.values():
            found[tracker.name] += tracker.units["tokens"].presumed
        if +found != +presumed:
            raise Broken(f"presumed: {+found}, open presumptions: {+presumed}")


def _above(path: str) -> list[str]:
    """A path, and those of the trackers above it."""
    parts = path.split("/")
    return ["/".join(parts[: depth + 1]) for depth in range(len(parts))]


def _call_of(labels: str | None) -> str:
    """The number of a call; empty for the reservation of an allotment."""
    return str(json.loads(labels).get("call", "")) if labels else ""


def _fits(path: tuple[int, ...], unit: str, need: int, state: State) -> bool:
    for number in path:
        if number not in state:
            return False
        lease, units = state[number]
        limit, spent, held, _, allotted = units[unit]
        if limit is not None and spent + held + allotted + need > limit:
            return False
        if lease and limit is not None:
            # An allotment has set aside above it what it needs.
            return True
    return True

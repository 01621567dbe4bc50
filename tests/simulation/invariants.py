"""The promises of a shared budget, checked on the state of its store after each step that is written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple, Protocol, TypeAlias

from llm_connect.budget.accounting.ledger import LedgerEntry
from tests import promise

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
State: TypeAlias = dict[int, tuple[str | int | None, dict[str, Figures]]]


class StoredTracker(NamedTuple):
    """A tracker in the store."""

    number: int
    #: The numbers from it up to the root.
    path: tuple[int, ...]
    #: Its path as the ledger names it.
    name: str
    units: dict[str, Figures]
    #: That of an open allotment.
    lease: str | int | None


class StoredHold(NamedTuple):
    """An open hold in the store."""

    lease: str | int
    tracker: int
    state: str
    tokens: int
    calls: int
    call: str


class Stored(Protocol):
    """What a store has."""

    @property
    def presumptions(self) -> list[int]: ...
    def trackers(self) -> Iterable[StoredTracker]: ...
    def holds(self) -> list[StoredHold]: ...
    def entries(self, after: int) -> list[LedgerEntry]: ...


class Books:
    """The state of the budget in its store, read again after each step."""

    def __init__(self, store: Stored) -> None:
        self._store = store
        self.trackers: dict[int, StoredTracker] = {}
        self.holds: list[StoredHold] = []
        self.entries: list[LedgerEntry] = []
        self.endings: Counter[str] = Counter()
        self._corrected: set[int] = set()
        self._sums: Counter[tuple[str, str]] = Counter()

    def booked(self, call: int) -> int:
        """The tokens that all entries of a call add up to."""
        return sum(entry.amount.tokens for entry in self.entries if entry.labels.get("call") == str(call))

    def hold_of(self, call: int) -> StoredHold | None:
        """The open hold of a call."""
        return next((hold for hold in self.holds if hold.call == str(call)), None)

    @property
    def state(self) -> State:
        """The figures of all trackers at present."""
        return {number: (tracker.lease, tracker.units) for number, tracker in self.trackers.items()}

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
        for tracker in self._store.trackers():
            known = self.trackers.get(tracker.number)
            self.trackers[tracker.number] = tracker
            for unit, now in tracker.units.items():
                before = now._replace(spent=0, held=0, presumed=0, allotted=0) if known is None else known.units[unit]
                wrong = promise.broken(before.watched, now.watched, sure=True)
                if wrong is not None:
                    raise Broken(f"{tracker.name}, {unit}: {wrong}: {now}, before {before}")

    def _read_holds(self) -> None:
        self.holds = self._store.holds()
        calls_of = Counter(hold.call for hold in self.holds if hold.call)
        for call, number in calls_of.items():
            if number > 1 or self.endings[call]:
                raise Broken(f"call {call} has {number} open holds and {self.endings[call]} ended ones")

    def _read_entries(self) -> None:
        for entry in self._store.entries(len(self.entries)):
            self.entries.append(entry)
            if entry.id != len(self.entries):
                raise Broken(f"entry {entry.id} follows entry {len(self.entries) - 1}")
            self._add(entry)

    def _add(self, entry: LedgerEntry) -> None:
        call = call_of(entry.labels)
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
        for hold in self.holds:
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
        for number in self._store.presumptions:
            entry = self.entries[number - 1]
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


def call_of(labels: Mapping[str, str]) -> str:
    """The number of a call; empty for the reservation of an allotment."""
    return labels.get("call", "")


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

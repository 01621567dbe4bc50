"""The parts of a budget in a server: they read its records, and write the next step in the form of `step.lua`.

Leases use the server's clock.
"""

# The parts of a server know each other, and not only the parts of any store.
# pyright: reportIncompatibleVariableOverride=false

from __future__ import annotations

import itertools
import json
import os
import secrets
import socket
import time
import weakref
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache, reduce
from typing import TYPE_CHECKING, Any

from llm_connect.budget.accounting.journal import Plan
from llm_connect.budget.accounting.ledger import By, Ended, Kind, LedgerEntry, Total
from llm_connect.budget.admission.children import limits_of
from llm_connect.budget.admission.holds import Ending, Hold
from llm_connect.budget.admission.wait_queue import Waiter
from llm_connect.stores.parts import (
    RENEWALS,
    Again,
    Before,
    Changes,
    Lease,
    Leases,
    StoredEntries,
    StoredHold,
    StoreParts,
    Trackers,
    ended_hold,
)
from llm_connect.stores.redis import layout
from llm_connect.stores.redis.server import Server, store_error
from llm_connect.stores.serialization import Row, entry_of, entry_values, hold_values, tracker_state
from llm_connect.stores.session import Terms
from llm_connect.stores.waiting import Heard, RevisableLine, Waiters
from llm_connect.types.amounts import NOTHING, Amount

if TYPE_CHECKING:
    from llm_connect.budget.accounting.accounts import Scope

#: The number of arguments of the script before the texts.
_BEFORE = 6
#: The size of a tracker's number. Numbers are random, so that no process has to ask for one.
_BITS = 52
#: Precedes the list of waiting callers in a reply.
WAITERS = "waiters\n"


class ServerParts(StoreParts):
    """The parts of one budget in a server, in one process."""

    terms: Terms
    server: Server
    keys: layout.Keys
    #: The name of this process in the server.
    client: str
    #: The number of changes that concern every process.
    epoch: int
    changes: StepChanges
    trackers: ServerTrackers
    leases: ServerLeases
    entries: ServerEntries

    def fetch(self, command: str, key: str, *values: Any) -> Any:
        """Return the answer to a command that reads one key of the budget."""
        return self.server.call(command, self.keys.of(key), *values)


class StepChanges(Changes):
    """The changes of the current step. They are differences, so that they combine with the steps of other processes."""

    def __init__(self, session: ServerParts) -> None:
        super().__init__()
        self._session = session
        self._names = itertools.count(1)
        #: The new ledger entries.
        self.entries: list[LedgerEntry | Ended] = []
        #: The texts of entries and holds, which the script stores unread.
        self.texts: list[str] = []
        #: The parts of the step that follow from no hold or tracker, by their names in the script.
        self._said: defaultdict[str, list[Any]] = defaultdict(list)

    def __bool__(self) -> bool:
        return bool(self._holds or self._trackers or self._said)

    def clear(self) -> None:
        super().clear()
        self.entries.clear()
        self.texts.clear()
        self._said.clear()

    def note_allotment(self, share: Scope, lease: Any) -> None:
        size = False if lease is None else limits_of(share)
        self.say("allotments", (self._session.trackers.path_of(share), lease or "", size))

    def say(self, what: str, value: Any) -> None:
        """Add a value to a part of the step, by its name in the script."""
        self._said[what].append(value)

    def say_once(self, what: str, value: Any) -> bool:
        """Like `say`; False if the step has this value already."""
        if value in self._said[what]:
            return False
        self.say(what, value)
        return True

    def written(self, first: int) -> None:
        """Number the entries of the step, from `first` on."""
        for number, line in enumerate(self.entries, first):
            object.__setattr__(line, "id" if isinstance(line, LedgerEntry) else "entry_id", number)

    def step(self) -> dict[str, Any]:
        """The step in the form that the script reads."""
        trackers, step = self._session.trackers, dict[str, Any]()
        if self._holds:
            step["holds"] = [found for each in self._holds.items() if (found := self._change(*each)) is not None]
        if self._trackers:
            step["set"] = [each for tracker in self._trackers for each in trackers.sets(tracker)]
        if self._session.gate.windowed:
            step["windows"] = trackers.windows(self._trackers)
        # The lines above may have added new trackers to it.
        step.update(self._said)
        return step

    def missing(self) -> list[StoredHold]:
        """The holds that the step assumes to be in the store."""
        return [hold for hold, before in self._holds.items() if before.row is not None]

    def book(
        self, line: LedgerEntry | Ended, change: list[Any], kind: str, labels: list[str], *ends: bool | str
    ) -> None:
        """Add an entry.

        change: the path of its tracker, and the spent and presumed amounts. kind, labels: their texts. ends: True if it
        is presumed, and the lost hold that it ends.
        """
        assert isinstance(line, LedgerEntry | Hold)
        # The server adds the number.
        text = layout.text_of(entry_values(line)[1:])
        self.entries.append(line)
        self.say("entries", [*change, *map(self._place, (text, kind)), list(map(self._place, labels)), *ends])

    def _place(self, text: str) -> int:
        """Add a text to the step, and return its place."""
        self.texts.append(text)
        return len(self.texts) + _BEFORE

    def _change(self, hold: StoredHold, before: Before) -> list[Any] | None:
        """The change of a hold: name, must exist, path, growth of held, amount that must fit, new text."""
        leases, ended = self._session.leases, hold.ended
        if hold.row is None and ended:
            return None
        path = self._session.trackers.path_of(hold.tracker)
        if ended:
            leases.open_holds -= hold.lease is leases.own
            bound = hold.bound if before.row is None else before.bound
            return [hold.row, 1, path, NOTHING.minus(bound), False, 0, False]
        granted = hold.row is None
        if granted:
            hold.lease = leases.have()
            hold.row = f"{hold.lease.number}.{next(self._names)}"
            leases.open_holds += 1
        assert hold.lease is not None
        more = hold.bound.minus(NOTHING if granted else before.bound)
        dispatches = not granted and before.dispatched != hold.dispatched
        text = layout.text_of(hold_values(hold, hold.lease.number, hold.tracker.number))
        return [hold.row, int(not granted), path, more, more, int(not dispatches), self._place(text)]


class ServerTrackers(Trackers):
    """Trackers by their number in the server. Their figures are those of the last reply.

    `as_of` of a tracker is the stamp at which it was last up to date.
    """

    def __init__(self, session: ServerParts, *details: Any, **more: Any) -> None:
        super().__init__(session, *details, **more)
        self._session = session
        #: The row of each tracker in the last reply about it, and that of each window.
        self._states: weakref.WeakKeyDictionary[Scope, Row] = weakref.WeakKeyDictionary()
        self._windows: weakref.WeakKeyDictionary[Scope, Row] = weakref.WeakKeyDictionary()
        #: The stamp of the budget in the last reply; 0 before the first one.
        self.stamp: int = 0
        #: The stamp of the last change that other processes may have made. Later copies are up to date.
        self._alone_since = 0
        #: The open allotments of all processes, each with its lease and path, as of epoch `_allotments_at`.
        self._allotments: dict[int, list[str]] = {}
        self._allotments_at: int | None = None

    def _read(self, number: int) -> tuple[int | None, str, Row, Row | None]:
        place, state = self._session.fetch("HGET", "places", number), self._session.fetch("HGET", "trackers", number)
        budget = self._session.terms.name
        if state is None:
            raise store_error(self._session.server.url, f"it has lost a tracker of budget {budget!r}")
        # Earlier versions have kept a flag behind the name.
        parent, name, *_ = (None, budget) if place is None else json.loads(place)
        # If another process changes the window meanwhile, the server refuses the step that was decided on it.
        windowed = layout.STATE.unpack_from(state)[layout.WINDOW]
        window = layout.row_of_window(self._window_text(number)) if windowed else None
        ((_, row),) = layout.states_of(state)
        return parent, name, row, window

    def _load(self, tracker: Scope, number: int, state: Row, window: Row | None) -> None:
        self._states[tracker] = state
        if window is not None:
            self._windows[tracker] = window
        tracker.as_of = self.stamp
        super()._load(tracker, number, state, window)

    def _insert(self, tracker: Scope, parent: int | None, joined: bool) -> int:
        number = secrets.randbits(_BITS) | 2
        limits: Any = tuple(account.limit for account in tracker.own_accounts)
        place = layout.text_of([parent or 0, tracker.name])
        state = layout.new_state(number, closed=tracker.closed_itself, limits=limits)
        # The name by which other processes join it comes last.
        self._session.changes.say("new", (str(number), place, state, joined and _joined(parent or 0, tracker.name)))
        tracker.as_of = self.stamp
        if tracker.window is not None:
            # The window is empty. Its entry number comes from an earlier step.
            tracker.window.forget(0)
        return number

    def path_of(self, tracker: Scope) -> list[str]:
        """The numbers from a tracker up to the root."""
        self.number_of(tracker)
        return [str(above.number) for above in tracker.lineage]

    def _joined(self, parent: int, name: str) -> int | None:
        number = self._session.fetch("HGET", "places", _joined(parent, name))
        return None if number is None else int(number)

    def _numbers(self) -> list[int]:
        return [int(number) for number in self._session.fetch("HKEYS", "trackers")]

    def refresh(self, trackers: Iterable[Scope]) -> None:
        changed = set(self._session.changes.touched)
        old = [each for each in trackers if each.as_of < self._alone_since and each not in changed]
        if old:
            states = self._session.fetch("HMGET", "trackers", *(each.number for each in old))
            windows = {str(each.number): self._window_text(each.number) for each in old if each.window is not None}
            self._absorb(b"".join(filter(None, states)), windows)

    def _window_text(self, number: int) -> str:
        text: bytes = self._session.fetch("HGET", "windows", number)
        return text.decode()

    def seen_at(self, trackers: Iterable[Scope]) -> int:
        """The stamp at which all of these trackers were up to date."""
        now = self.stamp
        seen = (tracker.as_of for tracker in trackers if tracker.number)
        return min((now if at >= self._alone_since else at for at in seen), default=now)

    def hear(self, states: bytes, windows: Mapping[str, str], wanted: Iterable[Scope], stamp: int, alone: bool) -> None:
        """Take over a reply: the states of changed trackers. All other `wanted` ones are unchanged.

        windows: the texts of changed windows by number.
        alone: True if no other process has written since the last reply.
        """
        self.stamp = stamp
        if not alone:
            self._alone_since = stamp
        self._absorb(states, windows)
        for tracker in wanted:
            if tracker.number:
                tracker.as_of = stamp

    def _absorb(self, states: bytes, windows: Mapping[str, str]) -> None:
        for number, state in layout.states_of(states):
            tracker = self.known.get(number)
            if tracker is not None:
                text = windows.get(str(number)) if windows else None
                self._load(tracker, number, state, None if text is None else layout.row_of_window(text))

    def _allotted(self, at: Scope | None, lease: object) -> list[int]:
        # A step that opens or closes an allotment starts a new epoch.
        if self._allotments_at != self._session.epoch:
            rows = layout.pairs(self._session.fetch("HGETALL", "allotments"))
            self._allotments = {int(number): text.decode().split() for number, text in rows}
            self._allotments_at = self._session.epoch
        if at is None:
            return [child for child, (of_lease, *_) in self._allotments.items() if of_lease == lease]
        return [child for child, (_, *path) in self._allotments.items() if str(at.number) in path]

    def windows(self, trackers: Iterable[Scope]) -> list[tuple[str, str]]:
        """Return the changed windows of these and of new trackers."""
        concerned = dict.fromkeys((*trackers, *self._inserted))
        changed = [(each, each.window) for each in concerned if each.window is not None and each.window.changed]
        return [(str(self.number_of(tracker)), layout.window_text(window)) for tracker, window in changed]

    def sets(self, tracker: Scope) -> list[tuple[str, int, int]]:
        """The changes of `tracker` that a step sets rather than adds: its closed flag and its limits."""
        number = str(self.number_of(tracker))
        before = self._states.get(tracker)
        if before is None:
            return []
        now = tracker_state(tracker, None)
        changed = {place: now[at] for at, place in layout.SET.items() if now[at] != before[at]}
        return [(number, place, layout.limit_figure(value)) for place, value in changed.items()]

    def undo(self, touched: Iterable[Scope]) -> None:
        super().undo(touched)
        for tracker in touched:
            if tracker.number and tracker in self._states:
                super()._load(tracker, tracker.number, self._states[tracker], self._windows.get(tracker))

    def forget(self) -> None:
        """Make the next step in a forked process ask for everything: it has a new connection."""
        self._alone_since, self._allotments_at = self.stamp + 1, None
        for tracker in self.known.values():
            tracker.as_of = 0


def _joined(parent: int, name: str) -> str:
    return f"joined:{parent}:{name}"


class ServerLeases(Leases):
    """The lease of this process, and the end of holds whose lease has ended.

    The server writes no step of a process whose lease has ended. Steps renew the lease long before it is due.
    """

    _session: ServerParts

    def __init__(self, session: ServerParts, seconds: float) -> None:
        super().__init__(session, seconds)
        self.renewed_at: float = 0.0

    @property
    def due(self) -> bool:
        return self.own is not None and time.monotonic() >= self.renewed_at + self.seconds / RENEWALS

    def _take(self) -> Lease:
        self.renewed_at = time.monotonic()
        return Lease(secrets.token_hex(8), 0.0)

    def said(self) -> list[Any] | None:
        """The own lease in the form that a step contains."""
        if self.own is None:
            return None
        is_new = self.own is not self._before[0]
        owner = layout.text_of([socket.gethostname(), os.getpid(), self._session.client]) if is_new else False
        renews = is_new or time.monotonic() >= self.renewed_at + self.seconds / (2 * RENEWALS)
        return [self.own.number, int(self.seconds * 1000) if renews else 0, owner]

    def give_up(self) -> None:
        if self.own is not None:
            self._session.changes.say("own", self.own.number)
        super().give_up()

    def end(self, numbers: list[str]) -> None:
        leases = {number: Lease(number, 0.0) for number in numbers}
        for name, text in layout.pairs(self._session.fetch("HGETALL", "holds")):
            row = json.loads(text)
            if row[0] in leases:
                self._end_hold(leases[row[0]], (name.decode(), *row))
        for number in numbers:
            self._session.allotments.close_of(number)
            self._session.changes.say("over", number)

    def end_late(self, hold: StoredHold, ending: Ending) -> bool:
        row = hold.row
        found = super().end_late(hold, ending)
        if found:
            self._session.changes.say("late", str(row))
        elif ending.amount != NOTHING:
            # The server has lost the hold. Book its outcome all the same.
            hold.ending, hold.entry_id = ending, -1
            self._session.books.record(hold.tracker, ending.amount, hold.facts)
        return found

    def _left(self, hold: StoredHold) -> tuple[int, str, bool] | None:
        left = self._session.fetch("HGET", "lost", hold.row)
        if left is None:
            return None
        number, outcome = left.decode().split()
        return int(number), outcome, bool(self._session.fetch("HEXISTS", "open", number))


class ServerWaiters(Waiters):
    """The waiting callers in the server: each step adds and removes some, and a reply lists all of them."""

    def __init__(self, session: ServerParts, seconds: float) -> None:
        super().__init__(session.trackers, seconds)
        self._session = session
        self._names = itertools.count(1)
        #: The waiting callers in the last reply that listed them, until `read` reads it, and its time on both clocks.
        self.said: tuple[str, float, float] | None = None

    def read(self, line: RevisableLine) -> None:
        """Give the waiting callers of other processes their places in `line`, as the last reply lists them."""
        if self.said is not None:
            (text, moment, heard_at), self.said = self.said, None
            now = moment + time.monotonic() - heard_at
            rows = (row.split(" ", 2) for row in text.splitlines())
            # A step whose outcome was in doubt wrote an unknown caller of this process.
            others = {name: caller for name, *caller in rows if not name.startswith(self._session.client)}
            self.see({name: _heard(now, *caller) for name, caller in others.items()}, line)

    def _write(self, row: Any, waiter: Waiter, seconds: float) -> Any:
        name = row or f"{self._session.client}.{next(self._names)}"
        place = (self._trackers.number_of(waiter.tracker), waiter.arrival, *waiter.demand.smallest)
        self._session.changes.say("told", (name, layout.text_of(place), int(seconds * 1000)))
        return name

    def _delete(self, row: Any) -> None:
        self._session.changes.say("forgotten", row)


def _heard(now: float, until: str, place: str) -> Heard:
    tracker, arrival, *amount = json.loads(place)
    return Heard(tracker, arrival, Amount(*amount), int(until) / 1000 - now)


class ServerEntries(StoredEntries):
    """The last 10,000 entries of all processes, and the sums of all. The server numbers an entry when it writes it."""

    def __init__(self, keep: int, session: ServerParts) -> None:
        super().__init__(keep, session)
        self._session = session
        self.ids: Iterator[int] = itertools.repeat(-1)

    def _fetch(self, command: str, key: str, *values: Any) -> Any:
        """Return the answer to a command, after all ended holds are booked."""
        run = self._session.gate.run
        run(lambda: None)
        return run(self._session.fetch, command, key, *values)

    def number(self) -> int:
        return layout.TO_COME + len(self._session.changes.entries)

    def post(self, line: LedgerEntry | Ended, posting: Any) -> None:
        tracker, kind, labels, amount, presumed = posting
        ends: tuple[bool | str, ...] = (False, False)
        if isinstance(line, StoredHold):
            lost = line.lost and line.row is not None and str(line.row)
            ends = (line.ending.outcome == "presumed", lost)
        named = [layout.text_of(f"{name}={value}") for name, value in labels.items()]
        amounts = [self._session.trackers.path_of(tracker), amount, presumed]
        self._session.changes.book(line, amounts, _kind_text(kind), named, *ends)

    def leave(self, tracker: Scope, spent: Amount, presumed: Amount) -> None:
        super().leave(tracker, spent, presumed)
        path = self._session.trackers.path_of(tracker)
        self._session.changes.say("left", (path, NOTHING.minus(spent), NOTHING.minus(presumed)))

    def post_expiry(self, plan: Plan, entry: LedgerEntry) -> None:
        # The step sends the figures separately.
        plan.then(self._session.changes.book, entry, [[], entry.amount, NOTHING], "", [], False, False)

    def find(self, entry_id: int) -> StoredHold | None:
        return self._presumption(entry_id) or self._settled(entry_id)

    def _presumption(self, entry_id: int) -> StoredHold | None:
        kept = self._session.fetch("HGET", "open", entry_id)
        if kept is None or not self._session.changes.say_once("correct", str(entry_id)):
            return None
        (number,), row = layout.parts_of_entry(kept)
        return ended_hold(self._session, number, entry_of((entry_id, *row)))

    def _settled(self, entry_id: int) -> StoredHold | None:
        # The numbers of the entries in the ledger are consecutive.
        first = self._session.fetch("LINDEX", "ledger", 0)
        place = -1 if first is None else entry_id - layout.parts_of_entry(first)[0][0]
        kept = None if place < 0 else self._session.fetch("LINDEX", "ledger", place)
        if kept is None:
            return None
        (number, *tracker), row = layout.parts_of_entry(kept)
        if number != entry_id:
            # The ledger has just dropped earlier entries.
            raise Again
        entry = entry_of((number, *row))
        if entry.outcome != "settled" or not tracker or not self._session.changes.say_once("amend", entry_id):
            return None
        return ended_hold(self._session, tracker[0], entry)

    def open_presumptions(self) -> list[int]:
        return sorted(int(number) for number in self._session.fetch("HKEYS", "open"))

    def totals(self, by: By) -> dict[str, Total]:
        return layout.sums_by(by, self._fetch("HGETALL", "labels" if by == "label" else "totals"))

    @property
    def earlier(self) -> Amount:
        totals, expired = self.totals("tracker"), self._fetch("HGET", "meta", "expired")
        total = NOTHING if expired is None else Amount(*layout.SUM.unpack(expired)[1:])
        total = reduce(Amount.plus, (of_kind.amount for of_kind in totals.values()), total)
        return reduce(Amount.minus, (entry.amount for entry in self), total)

    def __iter__(self) -> Iterator[LedgerEntry]:
        return map(layout.entry_from, self._fetch("LRANGE", "ledger", -self._keep, -1) if self._keep else ())

    def __len__(self) -> int:
        return min(int(self._fetch("LLEN", "ledger")), self._keep)


@lru_cache(maxsize=256)
def _kind_text(kind: Kind) -> str:
    return layout.text_of(kind)

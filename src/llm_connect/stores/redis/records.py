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
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
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
from llm_connect.stores.serialization import Row, bring_up_to_date, entry_of, entry_values, hold_values
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

    @abstractmethod
    def fetch_after_all(self, command: str, key: str, *values: Any) -> Any:
        """Like `fetch`, after all ended holds are booked."""


class StepChanges(Changes):
    """The changes of the current step. They are differences, so that they combine with the steps of other processes."""

    def __init__(self, session: ServerParts) -> None:
        super().__init__()
        self._session = session
        #: The new ledger entries, each with its details for the script.
        self.entries: list[tuple[LedgerEntry | Ended, list[Any]]] = []
        #: The texts of entries and holds, which the script stores unread.
        self.texts: list[str] = []
        #: The rarer parts of a step, by their names in the script.
        self._further: defaultdict[str, list[Any]] = defaultdict(list)

    def __bool__(self) -> bool:
        return bool(self._holds or self._trackers or self.entries or self._further or self._session.trackers.new)

    def clear(self) -> None:
        super().clear()
        self.entries.clear()
        self.texts.clear()
        self._further.clear()

    def note_allotment(self, share: Scope, lease: Any) -> None:
        size = False if lease is None else limits_of(share)
        self.say("allotments", (self._session.trackers.path_of(share), lease or "", size))

    def say(self, what: str, value: Any) -> None:
        """Add a value to a rarer part of the step, by its name in the script."""
        self._further[what].append(value)

    def say_once(self, what: str, value: Any) -> bool:
        """Like `say`; False if the step has this value already."""
        if value in self._further[what]:
            return False
        self.say(what, value)
        return True

    @property
    def over(self) -> list[str]:
        """The leases that the step ends."""
        return self._further.get("over", [])

    def written(self, first: int) -> None:
        """Number the entries of the step, from `first` on."""
        for number, (line, _) in enumerate(self.entries, first):
            object.__setattr__(line, "id" if isinstance(line, LedgerEntry) else "entry_id", number)

    def step(self) -> dict[str, Any]:
        """The step in the form that the script reads."""
        trackers = self._session.trackers
        step: dict[str, Any] = dict(self._further)
        if self._holds:
            step["holds"] = [found for each in self._holds.items() if (found := self._change(*each)) is not None]
        if self._trackers:
            step["set"] = [each for tracker in self._trackers for each in trackers.sets(tracker)]
        if self.entries:
            step["entries"] = [details for _, details in self.entries]
        if self._session.gate.windowed:
            step["windows"] = trackers.windows(self._trackers)
        if trackers.new:
            step["new"] = trackers.new
        if "allotments" in step or any(new[3] for new in trackers.new):
            step["everybody"] = True
        return step

    def missing(self) -> list[StoredHold]:
        """The holds that the step assumes to be in the store."""
        return [hold for hold, before in self._holds.items() if before.row is not None]

    def place(self, text: str) -> int:
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
            leases.enter(hold)
        assert hold.lease is not None
        more = hold.bound.minus(NOTHING if granted else before.bound)
        dispatches = not granted and before.dispatched != hold.dispatched
        text = layout.text_of(hold_values(hold, hold.lease.number, hold.tracker.number))
        return [hold.row, int(not granted), path, more, more, int(not dispatches), self.place(text)]


class ServerTrackers(Trackers):
    """Trackers by their number in the server. Their figures are those of the last reply.

    `as_of` of a tracker is the stamp at which it was last up to date.
    """

    def __init__(self, session: ServerParts, *details: Any, **more: Any) -> None:
        super().__init__(session, *details, **more)
        self._session = session
        #: The rows of each tracker and of its window in the last reply about it.
        self._rows: weakref.WeakKeyDictionary[Scope, tuple[Row, Row | None]] = weakref.WeakKeyDictionary()
        #: The stamp of the budget in the last reply; None before the first one.
        self.stamp: int | None = None
        #: The stamp of the last change that other processes may have made. Later copies are up to date.
        self._alone_since = 0
        #: The open allotments of all processes, each with its lease and path, as of epoch `_allotments_at`.
        self._allotments: dict[int, list[str]] = {}
        self._allotments_at: int | None = None
        #: The trackers that the current step creates: number, place, state, and the name by which others join it.
        self.new: list[tuple[str, str, list[int], str | bool]] = []

    def _read(self, number: int) -> tuple[int | None, str, Row, Row | None]:
        place, state = self._session.fetch("HGET", "places", number), self._session.fetch("HGET", "trackers", number)
        budget = self._session.terms.name
        if state is None:
            raise store_error(self._session.server.url, f"it has lost a tracker of budget {budget!r}")
        # Earlier versions have kept a flag behind the name.
        parent, name, *_ = (None, budget) if place is None else json.loads(place)
        # If another process changes the window meanwhile, the server refuses the step that was decided on it.
        window = layout.row_of_window(self._window_text(number)) if layout.has_window(state) else None
        ((_, row),) = layout.states_of(state)
        return parent, name, row, window

    def _load(self, tracker: Scope, number: int, state: Row, window: Row | None) -> None:
        self._rows[tracker] = (state, window)
        tracker.as_of = self.stamp or 0
        super()._load(tracker, number, state, window)

    def _insert(self, tracker: Scope, parent: int | None, joined: bool) -> int:
        number = secrets.randbits(_BITS) | 2
        limits: Any = tuple(account.limit for account in tracker.own_accounts)
        place = layout.text_of([parent or 0, tracker.name])
        state = layout.new_state(number, closed=tracker.closed_itself, limits=limits)
        self.new.append((str(number), place, state, joined and _joined(parent or 0, tracker.name)))
        tracker.as_of = self.stamp or 0
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
            texts = {each.number: self._window_text(each.number) for each in old if each.window is not None}
            self.absorb(b"".join(filter(None, states)), texts)

    def _window_text(self, number: int) -> str:
        text: bytes = self._session.fetch("HGET", "windows", number)
        return text.decode()

    def seen_at(self, trackers: Iterable[Scope]) -> int:
        """The stamp at which all of these trackers were up to date."""
        now = self.stamp or 0
        seen = (tracker.as_of for tracker in trackers if tracker.number)
        return min((now if at >= self._alone_since else at for at in seen), default=now)

    def hear(self, states: bytes, windows: Mapping[int, str], wanted: Iterable[Scope], stamp: int, alone: bool) -> None:
        """Take over a reply: the states of changed trackers. All other `wanted` ones are unchanged.

        alone: True if no other process has written since the last reply.
        """
        self.stamp = stamp
        if not alone:
            self._alone_since = stamp
        self.absorb(states, windows)
        for tracker in wanted:
            if tracker.number:
                tracker.as_of = stamp

    def absorb(self, states: bytes, windows: Mapping[int, str]) -> None:
        """Take over states and the texts of changed windows."""
        for number, state in layout.states_of(states):
            tracker = self.known.get(number)
            if tracker is None:
                continue
            text = windows.get(number)
            if tracker.window is not None and text is not None:
                self._load(tracker, number, state, layout.row_of_window(text))
            else:
                kept = None if tracker.window is None else self._rows[tracker][1]
                self._rows[tracker] = (state, kept)
                tracker.as_of = self.stamp or 0
                bring_up_to_date(tracker, state)

    def _allotted(self, at: Scope | None, lease: object) -> list[int]:
        # A step that opens or closes an allotment starts a new epoch.
        if self._allotments_at != self._session.epoch:
            rows = layout.pairs(self._session.fetch("HGETALL", "allotments"))
            self._allotments = {int(number): text.decode().split() for number, text in rows}
            self._allotments_at = self._session.epoch
        number = None if at is None else str(at.number)
        return [
            child
            for child, (of_lease, *path) in self._allotments.items()
            if (of_lease == lease if number is None else number in path)
        ]

    def windows(self, trackers: Iterable[Scope]) -> list[tuple[str, str]]:
        """Return the changed windows of these and of new trackers."""
        concerned = dict.fromkeys((*trackers, *self._inserted))
        changed = [(each, each.window) for each in concerned if each.window is not None and each.window.changed]
        return [(str(self.number_of(tracker)), layout.window_text(window)) for tracker, window in changed]

    def sets(self, tracker: Scope) -> list[tuple[str, int, int]]:
        """The changes of `tracker` that a step sets rather than adds: its closed flag and its limits."""
        number = str(self.number_of(tracker))
        if tracker not in self._rows:
            return []
        before, _ = self._rows[tracker]
        closed = int(tracker.closed_itself and tracker.parent is not None)
        found = [] if closed == before[0] else [(number, layout.CLOSED, closed)]
        for place, account in zip(layout.LIMITS, tracker.own_accounts, strict=True):
            if account.limit != before[place - 3]:
                found.append((number, place, layout.limit_figure(account.limit)))
        return found

    def commit(self) -> None:
        super().commit()
        self.new.clear()

    def undo(self, touched: Iterable[Scope]) -> None:
        super().undo(touched)
        self.new.clear()
        for tracker in touched:
            rows = self._rows.get(tracker)
            if rows is not None and tracker.number:
                as_of = tracker.as_of
                self._load(tracker, tracker.number, *rows)
                tracker.as_of = as_of

    def forget(self) -> None:
        """Make the next step in a forked process ask for everything: it has a new connection."""
        self._alone_since, self._allotments_at = (self.stamp or 0) + 1, None
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
        self._is_new = False
        self._renewed_at = 0.0
        self._names = itertools.count(1)

    @property
    def due(self) -> bool:
        return self.own is not None and time.monotonic() >= self._renewed_at + self.seconds / RENEWALS

    def _take(self) -> Lease:
        self._is_new, self._renewed_at = True, time.monotonic()
        return Lease(secrets.token_hex(8), 0.0)

    def enter(self, hold: StoredHold) -> None:
        """Put a new hold under this process's lease."""
        hold.lease = self.have()
        hold.row = f"{hold.lease.number}.{next(self._names)}"
        self.open_holds: int = self.open_holds + 1

    def said(self) -> list[Any] | None:
        """The own lease in the form that a step contains."""
        if self.own is None:
            return None
        owner = layout.text_of([socket.gethostname(), os.getpid(), self._session.client]) if self._is_new else False
        renews = self._is_new or time.monotonic() >= self._renewed_at + self.seconds / (2 * RENEWALS)
        return [self.own.number, int(self.seconds * 1000) if renews else 0, owner]

    def renewed(self, since: float) -> None:
        """Note that a step, sent at `since`, has renewed the own lease."""
        self._renewed_at = since

    def commit(self) -> None:
        super().commit()
        self._is_new = False

    def undo(self) -> None:
        super().undo()
        self._is_new = False

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
            hold.ending = ending
            hold.entry_id = -1
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
        self._said: tuple[str, float] | None = None

    def hear(self, text: str, moment: float) -> None:
        """Keep a list of waiting callers from a reply, with the server's time, until `read` reads it."""
        self._said = (text, moment - time.monotonic())

    def read(self, line: RevisableLine) -> None:
        """Give the waiting callers of other processes their places in `line`, as the last reply lists them."""
        if self._said is not None:
            (text, ahead), self._said = self._said, None
            now = time.monotonic() + ahead
            rows = (row.split(" ", 2) for row in text.splitlines())
            # A step whose outcome was in doubt wrote an unknown caller of this process.
            others = {name: caller for name, *caller in rows if not name.startswith(self._session.client)}
            self.see({name: _heard(now, *caller) for name, caller in others.items()}, line)

    def leave_to_parent(self) -> None:
        super().leave_to_parent()
        self._said = None

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
        self._fetch = session.fetch_after_all
        self.ids: Iterator[int] = itertools.repeat(-1)

    def number(self) -> int:
        return layout.TO_COME + len(self._session.changes.entries)

    def post(self, line: LedgerEntry | Ended, posting: Any) -> None:
        tracker, kind, labels, amount, presumed = posting
        lost: str | bool = False
        is_open = False
        if isinstance(line, StoredHold):
            is_open = line.ending.outcome == "presumed"
            if line.lost and line.row is not None:
                lost = str(line.row)
        named = [layout.text_of(f"{name}={value}") for name, value in labels.items()]
        amounts = [self._session.trackers.path_of(tracker), amount, presumed]
        self._say(line, amounts, _kind_text(kind), named, is_open, lost)

    def leave(self, tracker: Scope, spent: Amount, presumed: Amount) -> None:
        super().leave(tracker, spent, presumed)
        number = self._session.trackers.path_of(tracker)[0]
        self._session.changes.say("left", (number, NOTHING.minus(spent), NOTHING.minus(presumed)))

    def post_expiry(self, plan: Plan, entry: LedgerEntry) -> None:
        # The step sends the figures separately.
        plan.then(self._say, entry, [[], entry.amount, NOTHING], "", [], False, False)

    def _say(
        self, line: LedgerEntry | Ended, change: list[Any], kind: str, labels: list[str], *end: bool | str
    ) -> None:
        """Add an entry to the step.

        change: the path of its tracker, and the spent and presumed amounts. kind, labels: their texts. end: True if it
        is presumed, and the lost hold that it ends.
        """
        assert isinstance(line, LedgerEntry | Hold)
        changes = self._session.changes
        # The server adds the number.
        texts = [
            changes.place(layout.text_of(entry_values(line)[1:])),
            changes.place(kind),
            list(map(changes.place, labels)),
        ]
        changes.entries.append((line, [*change, *texts, *end]))

    def find(self, entry_id: int) -> StoredHold | None:
        return self._presumption(entry_id) or self._settled(entry_id)

    def _presumption(self, entry_id: int) -> StoredHold | None:
        kept = self._session.fetch("HGET", "open", entry_id)
        if kept is None or not self._session.changes.say_once("correct", str(entry_id)):
            return None
        (number,), row = layout.parts_of_entry(kept)
        return ended_hold(self._session, number, entry_of((entry_id, *row)))

    def _settled(self, entry_id: int) -> StoredHold | None:
        kept = self._kept(entry_id)
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

    def _kept(self, entry_id: int) -> bytes | None:
        """The text of an entry if the ledger still has it; the numbers of its entries are consecutive."""
        first = self._session.fetch("LINDEX", "ledger", 0)
        place = -1 if first is None else entry_id - layout.parts_of_entry(first)[0][0]
        kept: bytes | None = None if place < 0 else self._session.fetch("LINDEX", "ledger", place)
        return kept

    def open_presumptions(self) -> list[int]:
        return sorted(int(number) for number in self._session.fetch("HKEYS", "open"))

    def totals(self, by: By) -> dict[str, Total]:
        return layout.sums_by(by, self._fetch("HGETALL", "labels" if by == "label" else "totals"))

    @property
    def earlier(self) -> Amount:
        total = NOTHING
        for of_kind in self.totals("tracker").values():
            total = total.plus(of_kind.amount)
        expired = self._fetch("HGET", "meta", "expired")
        if expired is not None:
            total = total.plus(Amount(*layout.SUM.unpack(expired)[1:]))
        for entry in self:
            total = total.minus(entry.amount)
        return total

    def __iter__(self) -> Iterator[LedgerEntry]:
        return map(layout.entry_from, self._fetch("LRANGE", "ledger", -self._keep, -1) if self._keep else ())

    def __len__(self) -> int:
        return min(int(self._fetch("LLEN", "ledger")), self._keep)


@lru_cache(maxsize=256)
def _kind_text(kind: Kind) -> str:
    return layout.text_of(kind)

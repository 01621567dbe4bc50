"""The parts of a budget in a file: they read and write its rows.

The SQL names the columns of `serialization.py`. Leases use the machine's clock, which all processes of a file share.
"""

# The parts of a file know each other, and not only the parts of any store.
# pyright: reportIncompatibleVariableOverride=false

from __future__ import annotations

import os
import socket
import sqlite3
import time
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from llm_connect.budget.accounting.bounds import Key, LearnedFactor
from llm_connect.budget.accounting.journal import Plan
from llm_connect.budget.accounting.ledger import By, Ended, LedgerEntry, Total
from llm_connect.budget.accounting.windows import Window
from llm_connect.budget.admission.wait_queue import Waiter
from llm_connect.stores.parts import (
    RENEWALS,
    Again,
    Changes,
    Lease,
    Leases,
    StoredEntries,
    StoredHold,
    StoreParts,
    Trackers,
    ended_hold,
)
from llm_connect.stores.serialization import (
    ENTRY,
    HOLD,
    STATE,
    WAITER,
    WINDOW,
    Row,
    entry_of,
    entry_values,
    hold_values,
    sum_of,
    tracker_state,
    window_row,
)
from llm_connect.stores.waiting import Heard, Waiters
from llm_connect.types.amounts import Amount

if TYPE_CHECKING:
    from llm_connect.budget.accounting.accounts import Scope

#: The number of values that one query can have in every version of SQLite.
_MOST = 500
#: The shortest interval between two looks for ended leases of other processes.
_LOOK_SECONDS = 1.0


def _insert(table: str, *columns: str) -> str:
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"


_STATE = ", ".join(STATE)
_READ_TRACKERS = f"SELECT id, {_STATE} FROM trackers WHERE id IN "
_UPDATE_TRACKER = f"UPDATE trackers SET {', '.join(f'{name} = ?' for name in STATE)} WHERE id = ?"
_JOINED_TRACKER = "SELECT id FROM trackers WHERE parent = ? AND name = ? AND joined AND NOT closed ORDER BY id DESC"
#: In ASCII, "0" follows "/", so the range covers all paths that begin with this path and a slash.
_ALLOTMENTS_AT = (
    "SELECT id FROM trackers WHERE budget = ? AND lease IS NOT NULL "
    "AND (path = ? OR path BETWEEN ? || '/' AND ? || '0')"
)
_ALLOTMENTS_OF = "SELECT id FROM trackers WHERE budget = ? AND lease = ?"
_SPENT_TRACKERS = (
    "SELECT id FROM trackers WHERE budget = ? AND (tokens_spent OR calls_spent OR nano_usd_spent) "
    "ORDER BY length(path) DESC, id"
)
_INSERT_TRACKER = _insert("trackers", "budget", "parent", "name", "path", "joined", *STATE)
_FIND_TRACKER = f"SELECT parent, name, {_STATE} FROM trackers WHERE id = ?"

_FIND_WINDOW = f"SELECT {', '.join(WINDOW)} FROM windows WHERE tracker = ?"
_WRITE_WINDOW = _insert("windows", "tracker", *WINDOW).replace("INSERT", "INSERT OR REPLACE")

_INSERT_HOLD = _insert("holds", *HOLD)
_UPDATE_HOLD = "UPDATE holds SET state = ?, tokens = ?, calls = ?, nano_usd = ? WHERE id = ?"
_HOLDS_OF_LEASE = f"SELECT id, {', '.join(HOLD)} FROM holds WHERE lease = ? ORDER BY id"
_INSERT_LEASE = _insert("leases", "budget", "host", "pid", "expires_at")

_READ_WAITERS = f"SELECT id, {', '.join(WAITER)}, until FROM waiters WHERE budget = ?"
_INSERT_WAITER = _insert("waiters", "budget", *WAITER, "until")

ENTRY_COLUMNS = ", ".join(ENTRY)
_SUMS = "sum(tokens), sum(calls), sum(nano_usd)"
_LAST_ENTRY = "SELECT ifnull(max(id), 0) FROM ledger"
_INSERT_ENTRY = _insert("ledger", *ENTRY, "budget", "tracker", "open", "lease", "hold")
_FIND_SETTLED = (
    f"SELECT tracker, {ENTRY_COLUMNS} FROM ledger WHERE id = ? AND budget = ? AND outcome = 'settled' "
    "AND NOT EXISTS (SELECT 1 FROM ledger AS later WHERE later.corrects = ledger.id)"
)
_CORRECT_PRESUMED = (
    f"UPDATE ledger SET open = 0 WHERE id = ? AND budget = ? AND open RETURNING tracker, {ENTRY_COLUMNS}"
)

_FACTOR = ("adapter", "model", *LearnedFactor._fields)


class FileParts(StoreParts):
    """The parts of one budget in a file, in one process."""

    #: The number of the budget.
    budget: int
    #: True if budget may have become free since the last look at the waiting callers of this process.
    unseen: bool
    changes: FileChanges
    trackers: FileTrackers
    leases: FileLeases
    waiters: FileWaiters
    entries: FileEntries

    @property
    @abstractmethod
    def connection(self) -> sqlite3.Connection:
        """The connection in which the present step is a transaction."""

    def read_rows(self, query: str, values: tuple[Any, ...]) -> list[Any]:
        """Return the rows of a query after all ended holds are booked."""
        return self.gate.run(lambda: self.connection.execute(query, values).fetchall())

    def read_learned(self) -> dict[Key, LearnedFactor]:
        """Read the learned factors of each adapter and model."""
        query = f"SELECT {', '.join(_FACTOR)} FROM learned WHERE budget = ?"
        rows = self.connection.execute(query, (self.budget,)).fetchall()
        return {(adapter, model): LearnedFactor(*factor) for adapter, model, *factor in rows}

    def write_learned(self, learned: Mapping[Key, LearnedFactor]) -> None:
        """Replace the learned factors of the budget."""
        self.connection.execute("DELETE FROM learned WHERE budget = ?", (self.budget,))
        rows = [(self.budget, *key, *factor) for key, factor in learned.items()]
        self.connection.executemany(_insert("learned", "budget", *_FACTOR), rows)


class FileChanges(Changes):
    """The holds and trackers that the current transaction has changed."""

    def __init__(self, session: FileParts) -> None:
        super().__init__()
        self._session = session

    def write(self, connection: sqlite3.Connection) -> None:
        """Write the changes. Raises Again if the figures of a tracker are stale; the next try reads them."""
        for hold in self._holds:
            self._write_hold(connection, hold)
            self._trackers.update(dict.fromkeys(hold.tracker.lineage))
        trackers = self._session.trackers
        for tracker in self._trackers:
            number = tracker.number or trackers.number_of(tracker)
            if tracker.as_of != trackers.state:
                raise Again
            state = tracker_state(tracker, trackers.allotments.get(number))
            connection.execute(_UPDATE_TRACKER, (*state, number))
            if tracker.window is not None:
                write_window(connection, number, tracker.window)

    def note_allotment(self, share: Scope, lease: Any) -> None:
        self._session.trackers.note_allotment(share.number, lease)

    def _write_hold(self, connection: sqlite3.Connection, hold: StoredHold) -> None:
        leases = self._session.leases
        if hold.ended:
            if hold.row is not None:
                connection.execute("DELETE FROM holds WHERE id = ?", (hold.row,))
                # Only own holds count, not the holds of another process whose lease has ended.
                leases.open_holds -= hold.lease is leases.own
        elif hold.row is None:
            lease, number = leases.own or leases.have(), hold.tracker.number
            row = hold_values(hold, lease.number, number or self._session.trackers.number_of(hold.tracker))
            hold.row = connection.execute(_INSERT_HOLD, row).lastrowid
            hold.lease = lease
            leases.open_holds += 1
        else:
            state = "dispatched" if hold.dispatched else "reserved"
            connection.execute(_UPDATE_HOLD, (state, *hold.bound, hold.row))


class FileTrackers(Trackers):
    """Trackers by the id of their row."""

    def __init__(self, session: FileParts, *details: Any, **more: Any) -> None:
        super().__init__(session, *details, **more)
        self._session = session
        #: The version of the file's state. A tracker with the same `as_of` is up to date.
        self.state: int = 1
        #: The number of the lease of each loaded open allotment.
        self.allotments: dict[int, int] = {}

    def _read(self, number: int) -> tuple[int | None, str, Row, Row | None]:
        parent, name, *state = self._one(_FIND_TRACKER, number)
        return parent, name, tuple(state), self._one(_FIND_WINDOW, number)

    def _one(self, query: str, *values: Any) -> Any:
        return self._session.connection.execute(query, values).fetchone()

    def _insert(self, tracker: Scope, parent: int | None, joined: bool) -> int:
        connection = self._session.connection
        row = (self._session.budget, parent, tracker.name, tracker.path, joined, *tracker_state(tracker, None))
        number = connection.execute(_INSERT_TRACKER, row).lastrowid
        assert number is not None
        self.allotments.pop(number, None)
        tracker.as_of = self.state
        if tracker.window is not None:
            write_window(connection, number, tracker.window)
        return number

    def _joined(self, parent: int, name: str) -> int | None:
        row = self._one(_JOINED_TRACKER, parent, name)
        return None if row is None else int(row[0])

    def _numbers(self) -> list[int]:
        return self._found(_SPENT_TRACKERS)

    def _allotted(self, at: Scope | None, lease: object) -> list[int]:
        return self._found(_ALLOTMENTS_OF, lease) if at is None else self._found(_ALLOTMENTS_AT, *(at.path,) * 3)

    def _found(self, query: str, *values: Any) -> list[int]:
        rows = self._session.connection.execute(query, (self._session.budget, *values)).fetchall()
        return [number for (number,) in rows]

    def refresh(self, trackers: Iterable[Scope]) -> None:
        if not all(map(self._is_current, trackers)):
            # Reading the figures again would drop the changes that the step has made to them.
            if not all(map(self._is_current, self._session.changes.touched)):
                raise Again
            self.bring(trackers)

    def bring(self, trackers: Iterable[Scope]) -> None:
        """Read the figures of these trackers, unless they are up to date."""
        state = self.state
        old = {each.number: each for each in trackers if each.as_of != state and each.number}
        numbers = list(old)
        for batch in (numbers[at : at + _MOST] for at in range(0, len(numbers), _MOST)):
            query = f"{_READ_TRACKERS} ({', '.join('?' * len(batch))})"
            for number, *figures in self._session.connection.execute(query, batch).fetchall():
                tracker = old[number]
                window = None if tracker.window is None else self._one(_FIND_WINDOW, number)
                self._load(tracker, number, tuple(figures), window)

    def _load(self, tracker: Scope, number: int, state: Row, window: Row | None) -> None:
        super()._load(tracker, number, state, window)
        tracker.as_of = self.state
        self.note_allotment(number, state[1])

    def note_allotment(self, number: int, lease: Any) -> None:
        """Note the lease of an open allotment; None means that the tracker is not one."""
        if lease is None:
            self.allotments.pop(number, None)
        else:
            self.allotments[number] = lease

    def _is_current(self, tracker: Scope) -> bool:
        return tracker.as_of == self.state or not tracker.number

    def undo(self, touched: Iterable[Scope]) -> None:
        super().undo(touched)
        self.forget()

    def forget(self) -> None:
        """Consider all loaded figures stale."""
        self.state += 1


def write_window(connection: sqlite3.Connection, number: int, window: Window) -> None:
    """Write the state of a window if it has changed."""
    if window.changed:
        connection.execute(_WRITE_WINDOW, (number, *window_row(window)))
        window.changed = False


class FileLeases(Leases):
    """The lease of this process, and the end of holds whose lease has ended."""

    _session: FileParts

    def __init__(self, session: FileParts, seconds: float) -> None:
        super().__init__(session, seconds)
        self._next_look = 0.0
        #: True if another process has ended this process's lease.
        self.taken: bool = False

    @property
    def due(self) -> bool:
        return self.own is not None and self._renews(self.own, time.time())

    @property
    def look_due(self) -> bool:
        """True if it is time to look for ended leases of other processes."""
        return time.time() >= self._next_look

    def _renews(self, lease: Lease, now: float) -> bool:
        return now >= lease.expires_at - self.seconds * (RENEWALS - 1) / RENEWALS

    def _take(self) -> Lease:
        expires_at = time.time() + self.seconds
        row = (self._session.budget, socket.gethostname(), os.getpid(), expires_at)
        return Lease(self._session.connection.execute(_INSERT_LEASE, row).lastrowid, expires_at)

    def begin(self) -> None:
        """Begin a transaction: renew the own lease, and end all expired leases, even the own one."""
        now = time.time()
        if self.own is not None:
            if self.taken or now >= self.own.expires_at:
                self.own, self.taken, self._next_look = None, False, 0.0
            elif self._renews(self.own, now):
                self._renew(self.own, now)
        if now >= self._next_look:
            self._next_look = now + min(_LOOK_SECONDS, self.seconds / RENEWALS)
            self._end_over(now)
            self._session.waiters.end_over(now)

    def undo(self) -> None:
        super().undo()
        self._next_look = 0.0

    def _left(self, hold: StoredHold) -> tuple[int, str, bool] | None:
        assert hold.lease is not None
        query = "SELECT id, outcome, open FROM ledger WHERE lease = ? AND hold = ?"
        row: tuple[int, str, bool] | None = self._session.connection.execute(
            query, (hold.lease.number, hold.row)
        ).fetchone()
        return row

    def _renew(self, lease: Lease, now: float) -> None:
        connection = self._session.connection
        if not self.needed:
            connection.execute("DELETE FROM leases WHERE id = ?", (lease.number,))
            self.own = None
            return
        lease.expires_at = now + self.seconds
        connection.execute("UPDATE leases SET expires_at = ? WHERE id = ?", (lease.expires_at, lease.number))

    def _end_over(self, now: float) -> None:
        query = "SELECT id FROM leases WHERE budget = ? AND expires_at <= ?"
        rows = self._session.connection.execute(query, (self._session.budget, now)).fetchall()
        over = [number for (number,) in rows]
        if self.own is not None and self.own.number in over:
            self.own: Lease | None = None
        self.end(over)

    def end(self, numbers: list[int]) -> None:
        connection = self._session.connection
        for number in numbers:
            self._session.unseen = True
            lease = Lease(number, 0.0)
            for row in connection.execute(_HOLDS_OF_LEASE, (number,)).fetchall():
                self._end_hold(lease, row)
            self._session.allotments.close_of(number)
            connection.execute("DELETE FROM leases WHERE id = ?", (number,))


class FileWaiters(Waiters):
    """The waiting callers of this process that the file lists, and the callers of other processes."""

    def __init__(self, session: FileParts, seconds: float) -> None:
        super().__init__(session.trackers, seconds)
        self._session = session

    def heard(self) -> dict[Any, Heard]:
        """All waiting callers in the file."""
        ahead = time.time()
        rows = self._session.connection.execute(_READ_WAITERS, (self._session.budget,)).fetchall()
        return {
            row: Heard(tracker, arrival, Amount(*amount), until - ahead)
            for row, tracker, arrival, *amount, until in rows
        }

    def end_over(self, now: float) -> None:
        """Delete the expired rows of callers."""
        delete = "DELETE FROM waiters WHERE budget = ? AND until <= ?"
        self._session.connection.execute(delete, (self._session.budget, now))

    def _write(self, row: Any, waiter: Waiter, seconds: float) -> Any:
        connection, until = self._session.connection, time.time() + seconds
        renew = "UPDATE waiters SET until = ? WHERE id = ?"
        if row is not None and connection.execute(renew, (until, row)).rowcount:
            return row
        number = self._trackers.number_of(waiter.tracker)
        place = (self._session.budget, number, waiter.arrival, *waiter.demand.smallest, until)
        return connection.execute(_INSERT_WAITER, place).lastrowid

    def _delete(self, row: Any) -> None:
        self._session.connection.execute("DELETE FROM waiters WHERE id = ?", (row,))


class FileEntries(StoredEntries):
    """The entries in a file, which keeps all of every process, and gives them their ids."""

    def __init__(self, keep: int, session: FileParts) -> None:
        super().__init__(keep, session)
        self._session = session
        # Unlike a generator, this iterator survives an interruption.
        self.ids: Iterator[int] = iter(self._next_id, None)
        self.last_id: int | None = None

    def _next_id(self) -> int:
        self.last_id = number = self.number()
        return number

    def number(self) -> int:
        """The id of the next entry. It stays free: the next call returns it again unless an entry was written."""
        if self.last_id is None:
            self.last_id = int(self._session.connection.execute(_LAST_ENTRY).fetchone()[0])
        return self.last_id + 1

    def post(self, line: LedgerEntry | Ended, posting: Any) -> None:
        place: tuple[int | None, bool, Any, Any] = (None, False, None, None)
        if isinstance(line, StoredHold):
            tracker = line.tracker
            lease, row = (line.lease.number, line.row) if line.lost and line.lease is not None else (None, None)
            number = tracker.number or self._session.trackers.number_of(tracker)
            place = (number, line.ending.outcome == "presumed", lease, row)
        else:
            assert isinstance(line, LedgerEntry)
        self._session.connection.execute(_INSERT_ENTRY, (*entry_values(line), self._session.budget, *place))

    def post_expiry(self, plan: Plan, entry: LedgerEntry) -> None:
        plan.then(self.post, entry, None)

    def find(self, entry_id: int) -> StoredHold | None:
        return self._found(_CORRECT_PRESUMED, entry_id) or self._found(_FIND_SETTLED, entry_id)

    def _found(self, query: str, entry_id: int) -> StoredHold | None:
        row = self._session.connection.execute(query, (entry_id, self._session.budget)).fetchone()
        return None if row is None else ended_hold(self._session, row[0], entry_of(row[1:]))

    def open_presumptions(self) -> list[int]:
        query = "SELECT id FROM ledger WHERE budget = ? AND open ORDER BY id"
        return [entry_id for (entry_id,) in self._session.connection.execute(query, (self._session.budget,))]

    def totals(self, by: By) -> dict[str, Total]:
        return totals_in(self._read(totals_query(by)))

    @property
    def earlier(self) -> Amount:
        last = "SELECT id FROM ledger WHERE budget = ? ORDER BY id DESC LIMIT ?"
        query = f"SELECT {_SUMS} FROM ledger WHERE budget = ? AND id NOT IN ({last})"
        (sums,) = self._read(query, self._session.budget, self._keep)
        return sum_of(sums)

    def __iter__(self) -> Iterator[LedgerEntry]:
        rows = self._read(f"SELECT {ENTRY_COLUMNS} FROM ledger WHERE budget = ? ORDER BY id DESC LIMIT ?", self._keep)
        return map(entry_of, reversed(rows))

    def __len__(self) -> int:
        ((entries,),) = self._read("SELECT count(*) FROM ledger WHERE budget = ?")
        return min(int(entries), self._keep)

    def _read(self, query: str, *values: int) -> list[Row]:
        return self._session.read_rows(query, (self._session.budget, *values))


def totals_query(by: By) -> str:
    """The query for totals of the entries of a budget, except those about spend that has left its window."""
    name = {"tracker": "path", "label": "label.key || '=' || label.value"}.get(by, f"ifnull({by}, '')")
    source = "ledger, json_each(ledger.labels) AS label" if by == "label" else "ledger"
    lasting = "budget = ? AND outcome <> 'expired'"
    return f"SELECT {name}, count(*), {_SUMS} FROM {source} WHERE {lasting} GROUP BY 1 ORDER BY 1"


def totals_in(rows: list[Row]) -> dict[str, Total]:
    """The totals that such a query has found."""
    return {name: Total(entries, Amount(*sums)) for name, entries, *sums in rows}

"""The session of a budget in a file. A step is a transaction, so it always sees the present state of the file."""

# Each session has parts of its own kind, and never replaces them.
# pyright: reportIncompatibleVariableOverride=false

from __future__ import annotations

import sqlite3
import time
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from llm_connect.budget.accounting.windows import Window
from llm_connect.budget.admission.booking import wall_clock
from llm_connect.budget.admission.controller import Gate
from llm_connect.errors import LLMConfigurationError, LLMError, LLMStoreError
from llm_connect.stores.books import StoredLedger
from llm_connect.stores.session import StoreSession, Terms
from llm_connect.stores.sqlite import rows
from llm_connect.stores.sqlite.file import BudgetFile, begin, connect, data_version, store_error, url_of

if TYPE_CHECKING:
    from llm_connect.budget.accounting.arguments import Limits
    from llm_connect.budget.accounting.windows import Period
    from llm_connect.budget.admission.booking import Sink
    from llm_connect.budget.admission.controller import OnUnknown

#: The interval in which the worker looks for budget that other processes have freed.
_POLL_SECONDS = 0.01
#: Errors about a value, not about the file: writing it again would fail again.
_UNWRITABLE = (
    sqlite3.DataError,
    sqlite3.IntegrityError,
    sqlite3.InterfaceError,
    sqlite3.ProgrammingError,
    OverflowError,
    UnicodeEncodeError,
)
_FIND_BUDGET = (
    "SELECT budgets.id, on_unknown, trackers.id FROM budgets JOIN trackers ON trackers.budget = budgets.id "
    "WHERE budgets.name = ? AND parent IS NULL"
)
_NEW_BUDGET = "INSERT INTO budgets (name, on_unknown, created_at) VALUES (?, ?, ?)"
_NEW_ROOT = (
    "INSERT INTO trackers (budget, name, path, joined, closed, tokens_limit, calls_limit, nano_usd_limit) "
    "VALUES (?, ?, ?, 0, 0, ?, ?, ?)"
)
#: The changes of other processes that concern more than trackers.
_OTHERS = (
    "SELECT (SELECT ifnull(max(id), 0) FROM ledger), EXISTS (SELECT 1 FROM leases WHERE id = ?), "
    "EXISTS (SELECT 1 FROM learned WHERE budget = ?), EXISTS (SELECT 1 FROM waiters WHERE budget = ?)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FileTerms(Terms):
    """The options of a process for a budget in the file at `path`."""

    path: str
    #: The path in the URL, absolute and with its symbolic links.
    named: str = field(compare=False)

    @property
    def shown(self) -> str:
        return url_of(self.path)

    def session(self) -> FileSession:
        with closing(connect(self.path, self.busy_seconds)) as connection:
            row = self._found(connection)
        if row is None:
            raise LLMStoreError(f"{self.shown} has no budget {self.name!r}: create it with open_budget.")
        budget, on_unknown, root = row
        session = FileSession(self, budget, root)
        Gate(self.keep_entries, on_unknown, self.sink, session)
        return session

    def make(self, limits: Limits, period: Period | None, on_unknown: OnUnknown) -> bool:
        try:
            with closing(connect(self.path, self.busy_seconds)) as connection:
                if self._found(connection) is not None:
                    return False
                begin(connection, self.busy_seconds)
                if self._found(connection) is not None:
                    return False
                budget = connection.execute(_NEW_BUDGET, (self.name, on_unknown, time.time())).lastrowid
                root = connection.execute(_NEW_ROOT, (budget, self.name, self.name, *limits)).lastrowid
                assert root is not None
                if period is not None:
                    rows.write_window(connection, root, Window(period, wall_clock))
                connection.execute("COMMIT")
                return True
        except sqlite3.Error as error:
            raise store_error(self.path, error) from None

    def _found(self, connection: sqlite3.Connection) -> Any:
        return connection.execute(_FIND_BUDGET, (self.name,)).fetchone()


class FileSession(rows.FileParts, StoreSession):
    """One process's use of a budget in a file."""

    terms: FileTerms
    books: rows.FileBooks
    waiters: rows.FileWaiters

    def __init__(self, terms: FileTerms, budget: int, root: int) -> None:
        super().__init__(terms, root)
        self.terms = terms
        self.budget = budget
        self.unseen = False
        self.file: BudgetFile = BudgetFile(terms.path, terms.named, terms.busy_seconds)
        #: The time at which the monotonic clock was 0; unlike the machine's clock, that one is never set back.
        self._epoch = time.time_ns() - time.monotonic_ns()

    def _open_parts(self, keep_entries: int, sink: Sink | None) -> StoredLedger:
        terms = self.terms
        self.changes: rows.FileChanges = rows.FileChanges(self)
        self.leases: rows.FileLeases = rows.FileLeases(self, terms.lease_seconds)
        self.trackers: rows.FileTrackers = rows.FileTrackers(self, terms.prices, strict=terms.strict)
        self.waiters = rows.FileWaiters(self, terms.lease_seconds)
        ledger = rows.FileLedger(keep_entries, self)
        self.books = rows.FileBooks(self, ledger, self.outbox, sink)
        return ledger

    @property
    def gone(self) -> bool:
        return self.file.lost

    def arrive(self) -> int:
        """The present time of the machine, which orders the callers of all processes."""
        return self._epoch + time.monotonic_ns()

    def sure(self) -> None:
        """Do nothing: no other process changes the file during a transaction."""

    def listen(self) -> None:
        """Do nothing: the worker polls the file."""

    def begin(self, informed: bool) -> None:
        others_wrote = self.file.begin()
        if others_wrote:
            self._hear()
        about, windowed = self.interest(), self.gate.windowed
        self.trackers.bring(about)
        if windowed:
            self.gate.move(about)
        if others_wrote:
            self.books.look_at_thresholds()
        self.leases.begin()

    def commit(self) -> None:
        self.changes.write(self.file.connection)
        if self.line.busy or self.waiters.told:
            self.waiters.tell(self.line)
        if self.books.learned.factors != self._learned_before:
            self.write_learned(self.books.learned.factors)
        self.file.commit(self.books.last_id)
        self.settled()

    def roll_back(self, error: BaseException) -> Exception | None:
        self.file.let_go()
        if self.file.written and not isinstance(error, sqlite3.Error):
            self._complete()
            return None
        better, touched = self._as_llm_error(error), [*self.changes.touched, *self.interest()]
        cause = better or error
        self.undo(error, cause if isinstance(cause, LLMError) else None)
        self._know_nothing()
        if self.file.connected:
            # Show the figures of the file even before the next transaction.
            with suppress(sqlite3.Error):
                self.trackers.bring(touched)
        return better

    def _complete(self) -> None:
        """Complete a step that was interrupted after its commit."""
        self.settled()
        self._know_nothing()
        self.line.repair()
        self.line.commit()

    def _know_nothing(self) -> None:
        """Make the next transaction read everything again."""
        self.file.know_nothing()
        self.books.last_id = None
        self.trackers.forget()
        self.unseen = True

    def passes(self, error: Exception) -> bool:
        return isinstance(error, sqlite3.Error) and not isinstance(error, _UNWRITABLE)

    def _hear(self) -> None:
        """Take over the changes of other processes, except the figures of trackers."""
        self.trackers.forget()
        lease, budget = self.leases.own, self.budget
        others = self.connection.execute(_OTHERS, (None if lease is None else lease.number, budget, budget))
        last_id, stands, learned, waiters = others.fetchone()
        self.books.last_id = last_id
        self.file.check_entry(last_id)
        self.leases.taken = lease is not None and not stands
        if learned or self.books.learned.factors:
            self.know(self.read_learned())
        if waiters or self.waiters.remote:
            self.waiters.see(self.waiters.heard(), self.line)
        self.unseen = True

    def _as_llm_error(self, error: BaseException) -> LLMError | None:
        """The LLMError for an error of SQLite; None for any other error."""
        if isinstance(error, _UNWRITABLE):
            return LLMConfigurationError(f"A value cannot be written to a budget file ({type(error).__name__}).")
        return store_error(self.terms.path, error) if isinstance(error, sqlite3.Error) else None

    def come_due(self) -> bool:
        return self.leases.due or (self.line.busy_here and self._may_let_in())

    def _may_let_in(self) -> bool:
        """True if a waiting caller of this process may fit now, or must renew its row."""
        due = self.unseen or self.waiters.due or self.leases.look_due
        return due or self.next_window <= 0 or self._others_wrote()

    def _others_wrote(self) -> bool:
        return self.gate.run(lambda: data_version(self.connection), looks=True) != self.file.version

    def looked(self) -> None:
        self.unseen: bool = False

    @property
    def pause(self) -> float:
        return _POLL_SECONDS if self.line.busy_here else self.leases.pause

    def disconnect(self) -> None:
        self.file.disconnect()

    def leave_connection(self) -> None:
        self.file.leave_to_parent()

    def __del__(self) -> None:
        file = self.__dict__.get("file")
        if file is None or not file.connected:
            return
        lease = self.leases.own
        if self.worker.running:
            self.worker.put(partial(file.say_farewell, None if lease is None else lease.number))
            self.worker.put_end()
        else:
            file.disconnect()

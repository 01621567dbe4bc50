"""The parts of a budget in a store, in one process: its copy of the state, and the changes of the current step."""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from operator import attrgetter
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, NoReturn, cast

from llm_connect import _forks
from llm_connect.budget.accounting.bounds import CallFacts, Demand, PlainDemand
from llm_connect.budget.accounting.ledger import Ended, Entries, Kind, LedgerEntry, Sums
from llm_connect.budget.accounting.prices import Price
from llm_connect.budget.accounting.windows import period_of
from llm_connect.budget.admission.booking import Books
from llm_connect.budget.admission.children import Allotments
from llm_connect.budget.admission.holds import NO_ENDING, RELEASED, Ending, Hold
from llm_connect.budget.admission.holds import lost as lost_holds
from llm_connect.budget.admission.refusals import refusal_of
from llm_connect.budget.tracker import BudgetTracker
from llm_connect.errors import LLMError
from llm_connect.stores.serialization import Row, bring_up_to_date, facts_of, start_anew
from llm_connect.types.amounts import NOTHING, Amount

if TYPE_CHECKING:
    from llm_connect.budget.accounting.accounts import Scope
    from llm_connect.budget.admission.controller import Gate
    from llm_connect.stores.worker import StoreWorker

#: The process renews its lease three times before it would end.
RENEWALS = 3
#: The interval in which the worker looks for lost holds, whose finalizers cannot wake it.
_LOOK_SECONDS = 1.0


class Again(Exception):
    """Conflict: the decision was based on stale state, or on too few trackers."""


class StoreParts:
    """The parts of one budget in a store, in one process; each kind of store makes parts of its own kind."""

    gate: Gate
    worker: StoreWorker
    changes: Changes
    trackers: Trackers
    leases: Leases
    books: Books
    entries: StoredEntries
    allotments: StoredAllotments


class Lease:
    """The lease of one process. A process that has lost its lease, or that was forked, gets a new one."""

    def __init__(self, number: Any, expires_at: float) -> None:
        #: Its number or name in the store.
        self.number = number
        self.expires_at = expires_at
        self.generation: int = _forks.generation


class Before(NamedTuple):
    """The state of a hold before a step."""

    ended: bool
    dispatched: bool
    bound: Amount
    row: int | str | None
    lease: Lease | None


def _noted(name: str) -> Any:
    """An attribute of a hold, kept under another name. Assigning it notes the hold for the current step."""

    def assign(hold: StoredHold, value: object) -> None:
        hold._session.changes.note(hold)
        setattr(hold, name, value)

    return property(attrgetter(name), assign)


class StoredHold(Hold):
    """A persisted hold. Assigning its state or bound notes the change for the current step."""

    __slots__ = ("_bound", "_dispatched", "_ended", "_session", "lease", "row")
    dispatched: bool = _noted("_dispatched")
    bound: Amount = _noted("_bound")

    def __init__(
        self,
        keeper: Any,
        tracker: Scope,
        bound: Amount,
        max_tokens: int | None,
        demand: Demand,
        facts: CallFacts,
    ) -> None:
        self._session: StoreParts = keeper.session
        #: Its number or name in the store; None until it is written.
        self.row: int | str | None = None
        #: Its lease in the store.
        self.lease: Lease | None = None
        #: A hold counts as ended until a step grants it.
        self._ended: bool = True
        self._dispatched: bool = False
        self._bound: Amount = NOTHING
        super().__init__(keeper, tracker, bound, max_tokens, demand, facts)

    @property
    def ended(self) -> bool:
        return self._ended or self.lost

    @ended.setter
    def ended(self, ended: bool) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        self._session.changes.note(self)
        self._ended = ended

    def stay_dispatched(self, dispatched: bool) -> None:
        """Show this state to the caller, even if the store has another one."""
        self._dispatched = dispatched

    def undo(self, before: Before) -> None:
        """Restore the state before a step that was rolled back."""
        self._ended, self._dispatched, self._bound, self.row, self.lease = before
        self.entry_id: int = 0
        self.ending: Ending = NO_ENDING
        self.ended_at: float = 0.0

    @property
    def lost(self) -> bool:
        """True if its lease was lost, so that another process has ended it."""
        return self.lease is not None and self.lease is not self._session.leases.own

    @property
    def late(self) -> bool:
        """True if it was lost and its owner has not ended it yet."""
        return self.lost and not self._ended

    def leave_row(self) -> None:
        """End it without its row, which is gone or belongs to another hold by now."""
        self.ended = True  # pyright: ignore[reportIncompatibleVariableOverride]
        self.row = None

    def given_back(self) -> LLMError:
        if self.lost:
            return refusal_of(self.tracker.accounts, self.demand, self.facts, "lease_lost")
        return super().given_back()

    def __reduce__(self) -> NoReturn:
        raise TypeError("A hold cannot be pickled: it ends in the process that reserved it. Pickle its tracker.")


class OpenStoredHold(StoredHold):
    """A persisted hold until a step has written its end; then it becomes a `StoredHold`. Like `OpenHold`."""

    __slots__ = ()
    __del__: ClassVar[Callable[[Any], None]] = lru_cache(maxsize=0)(lost_holds.append)


def rebuilt(session: StoreParts, tracker: int, bound: Amount, facts: CallFacts) -> StoredHold:
    """A hold that a row describes, on the tracker with this number."""
    return StoredHold(session.gate, session.trackers.find(tracker), bound, None, PlainDemand(*bound), facts)


class Changes(ABC):
    """The holds and trackers that the current step has changed. A commit writes them; a failure undoes them."""

    def __init__(self) -> None:
        self._holds: dict[StoredHold, Before] = {}
        self._trackers: dict[Scope, None] = {}

    def note(self, hold: StoredHold) -> None:
        """Remember the state of a hold that is about to change."""
        if hold not in self._holds:
            self._holds[hold] = Before(hold._ended, hold._dispatched, hold._bound, hold.row, hold.lease)

    def note_trackers(self, trackers: Iterable[Scope]) -> None:
        """Note trackers whose figures have changed, or may have."""
        self._trackers.update(dict.fromkeys(trackers))

    @abstractmethod
    def note_allotment(self, share: Scope, lease: Any) -> None:
        """Note that the step has opened an allotment under a lease; None means that it has closed it."""

    def clear(self) -> None:
        """Forget the changes: the store has them."""
        for hold in self._holds:
            if hold._ended:
                hold.__class__ = StoredHold
        self._holds.clear()
        self._trackers.clear()

    def undo(self) -> None:
        """Restore all holds, and reset trackers that have no row; the session reads the others again."""
        for hold, before in self._holds.items():
            self.note_trackers(hold.tracker.lineage)
            hold.undo(before)
        for tracker in self._trackers:
            if not tracker.number:
                start_anew(tracker)
        self.clear()

    @property
    def touched(self) -> list[Scope]:
        """The trackers whose figures this step has changed, or may have."""
        of_holds = (each for hold in self._holds for each in hold.tracker.lineage)
        return list(dict.fromkeys((*self._trackers, *of_holds)))

    def granted(self) -> list[StoredHold]:
        """The open holds that this step has granted."""
        return [hold for hold, before in self._holds.items() if before.row is None and not hold.ended]


class Trackers(ABC):
    """The loaded trackers by their number in the store. A tracker gets its number with its first hold or booking."""

    def __init__(self, session: StoreParts, prices: Mapping[str, Price], *, strict: bool) -> None:
        self._gate = session.gate
        self._prices = prices
        self._strict = strict
        #: The trackers that this process has loaded.
        self.known: weakref.WeakValueDictionary[int, BudgetTracker] = weakref.WeakValueDictionary()
        self._inserted: list[Scope] = []

    def find(self, number: int) -> BudgetTracker:
        """The tracker with this number, up to date."""
        known = self.known.get(number)
        if known is not None:
            self.refresh(known.lineage)
            return known
        parent, name, state, window = self._read(number)
        period = None if window is None else period_of(window[0])
        above = None if parent is None else self.find(parent)
        tracker = BudgetTracker.__new__(BudgetTracker)
        tracker.prices = self._prices
        tracker.strict = self._strict
        # Only an open allotment has a lease.
        is_allotment = state[1] is not None
        tracker._become(name, above, self._gate, (None, None, None), period, is_allotment=is_allotment)
        self._load(tracker, number, state, window)
        self._enter(tracker, number)
        if window is not None:
            # The next booking must not count in a part of the window that has ended.
            self._gate.move((tracker,))
        return tracker

    def number_of(self, tracker: Scope, *, joined: bool = False) -> int:
        """The number of a tracker; a new tracker gets one."""
        if not tracker.number:
            parent = None if tracker.parent is None else self.number_of(tracker.parent)
            # First, so that `undo` knows of it if an interruption follows.
            self._inserted.append(tracker)
            self._enter(tracker, self._insert(tracker, parent, joined))
        return tracker.number

    def joined(self, child: Scope) -> BudgetTracker | None:
        """The open joined child of this name, if there is one."""
        assert child.parent is not None
        number = self._joined(self.number_of(child.parent), child.name)
        return None if number is None else self.find(number)

    def deepest_first(self) -> list[BudgetTracker]:
        """All trackers that have spent, children before their parents."""
        every = map(self.find, self._numbers())
        spent = [each for each in every if any(account.spent for account in each.own_accounts)]
        # Include all parents: their windows may contain less spend than those of their children.
        found = {above: None for each in spent for above in each.lineage}
        return sorted(found, key=lambda tracker: len(tracker.lineage), reverse=True)

    def open_allotments(self, *, at: Scope | None = None, lease: object = None) -> list[BudgetTracker]:
        """The open allotments `at` a tracker and below it, of all processes, or the allotments of one lease."""
        found = map(self.find, self._allotted(at, lease))
        # An earlier tracker may have had the same path.
        return [each for each in found if at is None or at in each.lineage]

    def keeps_allotments(self, lease: object) -> bool:
        """True if allotments are open under a lease."""
        return bool(self._allotted(None, lease))

    def commit(self) -> None:
        """Keep the inserted trackers: they are in the store."""
        self._inserted.clear()

    def undo(self, touched: Iterable[Scope]) -> None:
        """Forget inserted trackers. Restore touched ones, now or in the next step."""
        for tracker in self._inserted:
            self.known.pop(tracker.number, None)
            tracker.number = 0
        self._inserted.clear()

    def _load(self, tracker: Scope, number: int, state: Row, window: Row | None) -> None:
        """Load `tracker` from its rows."""
        bring_up_to_date(tracker, state)
        if tracker.window is not None and window is not None:
            tracker.window.become(*window[1:])

    def _enter(self, tracker: Scope, number: int) -> None:
        tracker.number = number
        # In a store, all scopes are trackers.
        self.known[number] = cast("BudgetTracker", tracker)

    @abstractmethod
    def refresh(self, trackers: Iterable[Scope]) -> None:
        """Update these trackers within a step, except those that the step has changed."""

    @abstractmethod
    def _read(self, number: int) -> tuple[int | None, str, Row, Row | None]:
        """Read a tracker: the number of its parent, its name, its state, and the row of its window."""

    @abstractmethod
    def _insert(self, tracker: Scope, parent: int | None, joined: bool) -> int:
        """Add a tracker to the store and return its number."""

    @abstractmethod
    def _joined(self, parent: int, name: str) -> int | None:
        """The number of the open joined child of this name, if there is one."""

    @abstractmethod
    def _numbers(self) -> Iterable[int]:
        """The numbers of all trackers that may have spent."""

    @abstractmethod
    def _allotted(self, at: Scope | None, lease: object) -> list[int]:
        """The numbers of the open allotments at a path, or of one lease."""


class Leases(ABC):
    """The lease of this process, and the end of holds whose lease has ended.

    A process that shares a budget may die at any moment, by `kill -9` or a power cut. Its holds stay in the store, and
    nobody is left to end them. Some other process has to, but it cannot know that the first one is dead: it may be
    slow, stopped by a debugger, asleep with its laptop, or cut off from the server. So the rules must also be right for
    a process that was taken for dead and comes back.

    Other ways to notice a death do not fit.

    - Check that the process id still exists. That works on one machine only, and ids are reused.
    - End the holds with the connection. Connections break without a death, and a file has no server that would notice.
    - A time limit for each hold. A thousand open calls would write a thousand rows every few seconds, and a call that
      takes longer than its limit would be ended while it runs.

    So a lease belongs to a process: one row with the moment at which it ends. All holds of the process point to it. The
    transactions of the process renew it as they go, and the worker does when a third of its time has passed without any
    (`RENEWALS`). A process without holds and allotments gives it up. Every process looks for expired leases, and ends
    them with their holds. A reserved hold is released, since nothing was sent. A dispatched hold is presumed, since the
    provider may bill it (`budget/admission/booking.py`); with `on_unknown="release"` it is released.

    **Fencing.** The dangerous process is one that was stopped for longer than its lease, and continues as if nothing
    had happened. Its objects still say "reserved", while others were given that budget. Comparing clocks is not enough,
    because the process can be stopped between the comparison and the next step. Therefore the number of a lease is
    never reused, and every transaction checks that the own lease is still in the store. If it is not, the process
    continues under a new one. Each hold remembers its `Lease`, so from that moment `StoredHold.lost` is true for all
    holds under the old one, and they cannot be dispatched any more: `dispatch` raises before a request leaves, and an
    adapter reserves again. Fencing ends there. The provider knows no lease numbers, so a request that was dispatched
    before cannot be called back. This is why a dispatched hold counts as spent.

    **Late ends.** The process that comes back may still learn the cost of such a request. Its `settle` must count, and
    must count once, although the hold was ended for it. `end_late` looks up the entry by which that was done.

    - The entry is an open presumption, and the late end knows more: it corrects the entry, by the difference.
    - The entry released the hold, and the call has cost something after all: the late end is recorded as spent.
    - The presumption was corrected already, or the late end is a presumption itself: nothing more is booked.

    The clock is the machine's for a file, whose processes all run there, and the server's for Redis. A fork has no part
    in the lease of its parent; its first hold takes a new one.

    Chubby and ZooKeeper end the sessions of their clients in this way, and Kleppmann explains why a lock that expires
    needs a fencing number ("How to do distributed locking", 2016). Late ends are our own: a lock service may forget a
    client that comes too late, but a provider's bill arrives all the same.
    """

    def __init__(self, session: StoreParts, seconds: float) -> None:
        self._session = session
        self.seconds = seconds
        self.own: Lease | None = None
        #: The number of open holds under the own lease.
        self.open_holds: int = 0
        self._before: tuple[Lease | None, int] = (None, 0)

    @property
    @abstractmethod
    def due(self) -> bool:
        """True if this process has to renew its lease."""

    @abstractmethod
    def _take(self) -> Lease:
        """Take a new lease."""

    @abstractmethod
    def end(self, numbers: list[Any]) -> None:
        """End leases: release their reserved holds, presume their dispatched ones, and return their allotments."""

    @abstractmethod
    def _left(self, hold: StoredHold) -> tuple[int, str, bool] | None:
        """Return the number and outcome of the entry that ended a lost hold, and True if it is an open presumption."""

    @property
    def pause(self) -> float:
        """The seconds until the worker should look again."""
        return min(_LOOK_SECONDS, self.seconds / RENEWALS / 2)

    @property
    def needed(self) -> bool:
        """True if holds or allotments are open under this process's lease."""
        own = self.own
        return self.open_holds > 0 or (own is not None and self._session.trackers.keeps_allotments(own.number))

    def have(self) -> Lease:
        """Return this process's lease; take a new one if it has none."""
        if self.own is None:
            self.own, self.open_holds = self._take(), 0
            self._session.worker.start()
        return self.own

    def give_up(self) -> None:
        """End the own lease and all holds under it."""
        if self.own is not None:
            number, self.own = self.own.number, None
            self.end([number])

    def commit(self) -> None:
        """Keep the changes: the step was committed."""
        self._before = (self.own, self.open_holds)

    def undo(self) -> None:
        """Undo the changes: the step was rolled back."""
        self.own, self.open_holds = self._before

    def forget(self) -> None:
        """Forget the lease, which has ended, or belongs to the parent of a forked process."""
        self.own, self.open_holds, self._before = None, 0, (None, 0)

    def end_late(self, hold: StoredHold, ending: Ending) -> bool:
        """End a lost hold: correct the entry by which another process has ended it. False if there is no such entry."""
        left = self._left(hold)
        hold.leave_row()
        if left is None:
            return False
        hold.entry_id, outcome, is_open = left
        hold.ending = ending
        if is_open and ending.outcome != "presumed":
            self._session.books.correct(hold.entry_id, ending.amount)
        elif outcome == "released" and ending.amount != NOTHING:
            self._session.books.record(hold.tracker, ending.amount, hold.facts)
        return True

    def _end_hold(self, lease: Lease, row: Row) -> None:
        """End a hold whose lease has ended: release it if it was reserved, presume it if it was dispatched."""
        number, _, tracker, state, tokens, calls, nano_usd, max_tokens, grade, adapter, model, labels, reserved_at = row
        bound = Amount(tokens, calls, nano_usd)
        hold = rebuilt(self._session, tracker, bound, facts_of(grade, adapter, model, labels))
        hold.max_tokens, hold.reserved_at = max_tokens, reserved_at
        hold.row, hold.lease = number, lease
        presumed = state == "dispatched" and self._session.gate.on_unknown == "presume"
        self._session.books.end(hold, Ending("presumed", bound) if presumed else RELEASED)


class StoredAllotments:
    """The open allotments of all processes. The current step writes their changes."""

    def __init__(self, session: StoreParts) -> None:
        self._session = session
        self._inner = Allotments()

    def open(self, share: Scope) -> bool:
        """Set the limits of `share` aside above it. False if they do not fit now."""
        session = self._session
        opened = self._inner.open(share)
        if opened:
            session.trackers.number_of(share)
            session.changes.note_allotment(share, session.leases.have().number)
        session.changes.note_trackers(share.lineage)
        return opened

    def close(self, tracker: Scope) -> None:
        """Close `tracker` and return the allotments below it. A root closes only for its own process."""
        session = self._session
        tracker.closed_itself = True
        if tracker.parent is not None:
            session.changes.note_trackers((tracker,))
            self._close(tracker)
        elif session.leases.own is not None:
            self.close_of(session.leases.own.number)
            if not session.leases.open_holds:
                session.leases.give_up()

    def close_of(self, lease: object) -> None:
        """Return the allotments that a process has open under this lease."""
        for tracker in self._session.trackers.open_allotments(lease=lease):
            tracker.closed_itself = True
            self._close(tracker)

    def _close(self, tracker: Scope) -> None:
        """Return the open allotments at `tracker` and below it, of all processes."""
        session = self._session
        closed = session.trackers.open_allotments(at=tracker)
        self._inner.opened = closed
        self._inner.close(tracker)
        for share in sorted(closed, key=lambda share: -len(share.lineage)):
            session.changes.note_trackers(share.lineage)
            session.changes.note_allotment(share, None)


class StoredEntries(Entries):
    """The entries of a budget in a store, of all processes; the last `keep` of them are shown."""

    def __init__(self, keep: int, session: StoreParts) -> None:
        self._keep = keep
        self._changes = session.changes
        #: Empty, like the sums: the store has both.
        self.lines: deque[LedgerEntry | Ended] = deque()
        self.kinds: dict[Kind, Sums] = {}

    def posting(self, tracker: Scope, kind: Kind, labels: Mapping[str, str], amount: Amount, presumed: Amount) -> Any:
        """Return the arguments: the store updates its sums itself, if it has any."""
        return tracker, kind, labels, amount, presumed

    def touch(self, tracker: Scope) -> None:
        self._changes.note_trackers(tracker.lineage)

    def leave(self, tracker: Scope, spent: Amount, presumed: Amount) -> None:
        self._changes.note_trackers((tracker,))

    def presume(self, entry_id: int, hold: Ended) -> None:
        """Do nothing: the entry itself is marked as an open presumption."""

    def correct(self, entry_id: int) -> None:
        """Do nothing: `find` has marked the entry as corrected."""

    @abstractmethod
    def open_presumptions(self) -> list[int]:
        """The ids of the presumed entries that are not corrected yet."""


def ended_hold(session: StoreParts, tracker: int, entry: LedgerEntry) -> StoredHold:
    """Rebuild the ended hold of an entry that will be corrected, on the tracker with this number."""
    facts = CallFacts(adapter=entry.adapter, model=entry.model, labels=entry.labels, grade=entry.grade)
    hold = rebuilt(session, tracker, entry.bound, facts)
    hold.leave_row()
    hold.entry_id, hold.ending = entry.id, Ending(entry.outcome, entry.amount)
    hold.request_id, hold.reserved_at = entry.request_id, entry.reserved_at
    return hold

"""A step on a budget in a store is exact: it is one transaction, and memory follows it.

The controller decides on objects in memory: trackers with their figures, holds, the wait queue. For a budget in a store
these are a copy of the store's state. A step changes the copy first and writes the difference last. If the write fails,
or anything raises before it, the copy is wrong and must be restored. Otherwise a hold that no other process knows of
would keep budget here, or a waiter would be told of a grant that does not exist.

Three ways to restore it do not work.

- Undo each change by its opposite. The exception came between two changes, and it is unknown how many were made.
- Copy everything before each step. Budgets have thousands of trackers, and a step touches a few of them.
- Throw the copy away and read it again. That is right for trackers, but callers have their holds and waiters in hand,
  and no row contains a callback, a deadline of this process, or an event loop.

So the two kinds of state are treated differently. Trackers return to the last state from the store and are read again;
a tracker without a row starts over. Holds, waiters, the lease, thresholds and staged callbacks belong to this process.
`Changes` knows how each hold was before the step touched it, and every other part has an `undo` for its own. A waiter
that was admitted waits on. Callbacks are staged until the commit (`Outbox`) and waiters are woken after it, so
nobody learns of a grant or an entry that is then undone. Notes that the step has done go back to the front.

`run` defines the order. Three rules make it exact wherever an exception arrives.

1. Before the commit, an exception rolls back (`roll_back`). The store comes first, with few and shallow calls
   (`BudgetFile.let_go`), so that a file does not stay locked for other processes even if a RecursionError leaves hardly
   a stack frame. Memory follows.
2. After the commit, an exception completes. The step counts, so undoing it in memory would be wrong. The store itself
   tells on which side the exception came. `commit` notes that it begins; if SQLite's connection is in no transaction
   afterwards, the commit was done. A server may have applied a step whose reply was lost. Then nothing is undone or
   completed yet: the next step sends it again under its old number (`redis/session.py`).
3. If others have overtaken a step (`Again`), it is undone and decided again, on the store's new state.

The handler may be interrupted as well. Then the controller knows that a step has begun and not ended, and handles the
failure once more before the next one (`repair`). Rolling back twice is harmless: it restores old values, and forgets
them last.

A note may make every step fail, such as an end with a figure that is too large for the store. It must not come back for
ever and stop all others. If a step fails with an error that will not pass, its notes become suspects. Each of them is
done in a step of its own, and if that fails, its hold is presumed (`_do_suspects`).

SQLAlchemy's session has the same task: a rollback expires its objects, so that they are read again, and throws new ones
out. Here the callers keep their holds, so holds get their old values instead.
"""

# Each session has parts of its own kind, and never replaces them.
# pyright: reportIncompatibleVariableOverride=false

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, cast

from llm_connect import _forks
from llm_connect.budget.accounting.accounts import amount_of
from llm_connect.budget.accounting.prices import Price
from llm_connect.budget.admission.booking import Books, Sink
from llm_connect.budget.admission.callbacks import Outbox, Threshold
from llm_connect.budget.admission.holds import NO_ENDING, Ending, Hold, gather_lost, in_running_loop, lost
from llm_connect.budget.admission.log import BOOKED_LATER, DONE_LATER, NOT_BOOKED, log_event, tell
from llm_connect.budget.admission.session import Parts
from llm_connect.errors import LLMConfigurationError, LLMError, LLMStoreError
from llm_connect.stores.parts import Again, OpenStoredHold, StoredAllotments, StoredHold, StoreParts
from llm_connect.stores.waiting import RevisableLine, Waiters
from llm_connect.stores.worker import Courier, StoreWorker, look_after, nothing
from llm_connect.types.amounts import MOST_LIMIT, NOTHING

if TYPE_CHECKING:
    from llm_connect.budget.accounting.accounts import Scope
    from llm_connect.budget.accounting.bounds import CallFacts, Key, LearnedFactor
    from llm_connect.budget.accounting.windows import Period
    from llm_connect.budget.admission.arguments import Limits, OnUnknown
    from llm_connect.budget.admission.controller import Gate
    from llm_connect.budget.admission.session import Note
    from llm_connect.budget.tracker import BudgetTracker

T = TypeVar("T")
S = TypeVar("S", bound="Scope")

#: The longest time for which the worker waits for callbacks, in seconds.
_PATIENCE_SECONDS = 1.0
#: The pause before the worker tries a lost store again.
_RETRY_SECONDS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms(ABC):
    """The options of a process for a budget in a store. Each kind of store adds the place."""

    #: The largest limit that the store can count.
    most_limit: ClassVar[int] = MOST_LIMIT
    name: str
    prices: Mapping[str, Price]
    strict: bool = False
    keep_entries: int = 1000
    sink: Sink | None = None
    lease_seconds: float = 60.0
    #: True if a server may evict budgets when it is full.
    allow_eviction: bool = False

    @property
    def busy_seconds(self) -> float:
        """The longest time to wait for a busy store. It is far shorter than a lease, so a slow store costs no lease."""
        return min(5.0, self.lease_seconds / 6)

    @property
    @abstractmethod
    def shown(self) -> str:
        """The URL of the store, without credentials."""

    @abstractmethod
    def make(self, limits: Limits, period: Period | None, on_unknown: OnUnknown) -> bool:
        """Create the budget; return False if it exists."""

    @abstractmethod
    def session(self) -> StoreSession:
        """A new session of the budget. Raises LLMStoreError if the budget does not exist."""


class StoreSession(StoreParts, ABC):
    """One process's use of a budget in a store. Each step of the controller is a transaction in the store.

    Waiters, callbacks and notes belong to the process.
    """

    hold_type: type[Hold] = OpenStoredHold
    terms: Terms
    waiters: Waiters
    line: RevisableLine
    #: Finds the tracker of a pickle, by terms and number, in the process that loads it.
    reopen: Callable[[Any, int], BudgetTracker]

    def __init__(self, terms: Terms, root: int) -> None:
        self.most_limit: int = terms.most_limit
        #: The number of the root.
        self.root = root
        self.worker: StoreWorker = StoreWorker(self)
        self.outbox: Outbox = Outbox(staged=deque())
        self.courier: Courier = Courier(self.outbox, min(_PATIENCE_SECONDS, terms.busy_seconds))
        #: The time at which the present outage of the store began, and the URL of the store.
        self._lost: tuple[float, str] | None = None
        self._learned_before: dict[Key, LearnedFactor] = {}
        #: The thresholds after the last step, with the times until which they have fired.
        self._thresholds_before: list[tuple[Threshold, float]] = []
        #: The tracker of the current step. The step may change it before it has a row.
        self._on: Scope | None = None
        #: Further trackers that an earlier try of the current step has changed.
        self._wanted: set[Scope] = set()
        #: The notes that the current step has done.
        self._worked_off: list[Note] = []
        #: Notes that may have made a step fail. Each is done in a step of its own.
        self._suspects: deque[Note] = deque()
        #: True after this process has closed the budget.
        self.closed: bool = False

    def open(self, gate: Gate, keep_entries: int, sink: Sink | None) -> Parts:
        self.gate = gate
        self._open_parts(keep_entries)
        self.books: Books = Books(self.entries, self.outbox, sink)
        # Other processes may have booked an overrun.
        self.books.surprised = True
        self.allotments: StoredAllotments = StoredAllotments(self)
        self.line = RevisableLine(gate, self.sure)
        look_after(self)
        return Parts(self.entries, self.outbox, self.courier.deliver, self.books, self.line, self.allotments)

    # Each kind of store implements these.

    @abstractmethod
    def _open_parts(self, keep_entries: int) -> None:
        """Make the parts of this kind of store."""

    @property
    @abstractmethod
    def gone(self) -> bool:
        """True if the store has lost the budget that was opened."""

    @abstractmethod
    def arrive(self) -> int:
        """The next arrival number, which orders the callers of all processes."""

    @abstractmethod
    def begin(self, informed: bool) -> None:
        """Update the copy in memory. With `informed`, the copy must match the store's present state."""

    @abstractmethod
    def commit(self) -> None:
        """Write the changes of the step."""

    @abstractmethod
    def roll_back(self, error: BaseException) -> Exception | None:
        """Release the store, restore the state in memory, and return a better error if there is one.

        The store is released with as few stack frames as `begin` needs.
        """

    def passes(self, error: Exception) -> bool:
        """True if the same step may succeed later."""
        return False

    @abstractmethod
    def sure(self) -> None:
        """Raise Again if a refusal would rest on a state that may be stale."""

    @abstractmethod
    def listen(self) -> None:
        """Listen for budget that other processes free, while a caller waits."""

    @abstractmethod
    def come_due(self) -> bool:
        """True if the worker now has to look at the store, for the lease or for waiting callers."""

    @abstractmethod
    def looked(self) -> None:
        """Note, within the step, that the worker has looked for waiters to admit."""

    @property
    @abstractmethod
    def pause(self) -> float:
        """The seconds until the worker looks again."""

    @property
    def unsettled(self) -> bool:
        """True if the outcome of the last step is unknown."""
        return False

    @abstractmethod
    def disconnect(self) -> None:
        """Close the connection; a later step opens another one."""

    @abstractmethod
    def leave_connection(self) -> None:
        """Let go of the connection in a forked process: it belongs to the parent."""

    # Steps.

    def run(self, first: Callable[[], None], step: Callable[[], T], on: Scope | None, informed: bool) -> T:
        while True:
            self._on = on
            try:
                self.begin(informed)
                first()
                result = step()
                self.commit()
            except BaseException as error:
                better = self.roll_back(error)
                if isinstance(error, Again):
                    informed = True
                    continue
                self._tell_of_outage(better or error)
                self.gate.undone()
                if better is not None:
                    raise better from None
                raise
            if self._lost is not None:
                self._tell_of_outage(None)
            return result

    def _tell_of_outage(self, error: BaseException | None) -> None:
        """Tell of an outage of the store once when it begins, and once when it ends."""
        if isinstance(error, LLMStoreError) and self._lost is None:
            self._lost = (time.monotonic(), error.store)
            self._tell(store=error.store)
        elif error is None and self._lost is not None:
            (since, store), self._lost = self._lost, None
            self._tell(store=store, seconds=time.monotonic() - since)

    def _tell(self, **fields: Any) -> None:
        """Tell the log and the observers of an outage after the lock is released, even if the step fails."""
        self.outbox.calls.append((lambda _: tell("outage", self.outbox.owed, **fields), lambda: None, object()))

    def repair(self) -> bool:
        """Roll back or complete a step whose rollback was interrupted."""
        self.roll_back(KeyboardInterrupt())
        return True

    def do_notes(self) -> None:
        notes = self.gate.notes
        while notes:
            # In this order, no note is lost: undoing the step brings the done ones back.
            note = notes[0]
            self._worked_off.append(note)
            notes.popleft()
            self.gate.do(note)

    def interest(self) -> Sequence[Scope]:
        """The trackers on which a step may depend: its own, those of waiters, and those with thresholds."""
        waiting = self.line.trackers() if self.line.busy or self.line.untaken else ()
        watched = self.books.watched if self.books.thresholds else ()
        others = (*waiting, *watched, *self._wanted)
        if not others:
            return () if self._on is None else self._on.lineage
        scopes = others if self._on is None else (self._on, *others)
        return list(dict.fromkeys(above for scope in scopes for above in scope.lineage))

    @property
    def next_window(self) -> float:
        """The seconds until spend may leave a window that keeps a caller waiting."""
        if not self.gate.windowed:
            return math.inf
        waited_for = self.gate.run(self.line.trackers, looks=True)
        windows = (above.window for tracker in waited_for for above in tracker.lineage)
        return min((each.due_at - each.clock() for each in windows if each is not None), default=math.inf)

    def settled(self) -> None:
        """Keep all changes: the step was committed."""
        self._wanted.clear()
        self._learned_before = dict(self.books.learned.factors)
        if self.books.thresholds or self._thresholds_before:
            self._thresholds_before = [(each, each.told_until) for each in self.books.thresholds]
        if self.line.noted or self.line.ready:
            self.line.commit()
        if self.waiters.told or self.waiters.told_before or self.waiters.withdrawn:
            self.waiters.commit()
        self.trackers.commit()
        self.changes.clear()
        self.leases.commit()
        if self.outbox.staged:
            self.outbox.commit()
        self._worked_off.clear()

    def undo(self, error: BaseException, told: LLMError | None = None) -> None:
        """Undo a step that was rolled back. Its notes come first again, unless one of them may have made it fail.

        told: the error for the callers that the step had admitted; None lets them wait on.
        """
        touched = [*self.changes.touched, *self.interest()]
        if isinstance(error, Again):
            self._wanted.update(touched)
        self.line.undo(told)
        self.trackers.undo(touched)
        if self._on is not None:
            # The step may have been interrupted before it noted a change of its tracker.
            self.changes.note_trackers(self._on.lineage)
        self.changes.undo()
        self.leases.undo()
        if self.outbox.staged:
            self.outbox.staged.clear()
        self.books.thresholds[:] = [threshold for threshold, _ in self._thresholds_before]
        for threshold, told_until in self._thresholds_before:
            threshold.told_until = told_until
        self.waiters.undo()
        self.gate.journal.intent = self.gate.journal.hold = None
        if isinstance(error, Exception) and not self._may_pass(error):
            for note in self._worked_off:
                self._suspect(note)
        else:
            self.gate.notes.extendleft(reversed(self._worked_off))
        self._worked_off.clear()

    def touch(self, tracker: Scope) -> None:
        self.changes.note_trackers((tracker,))

    def know(self, learned: dict[Key, LearnedFactor]) -> None:
        """Take over the factors that other processes have learned."""
        if learned != self.books.learned.factors:
            self.gate.know(learned)
        self._learned_before = learned

    @property
    def taught(self) -> bool:
        """True if the current step has learned a factor."""
        return self.books.learned.factors != self._learned_before

    def joined(self, joined: dict[str, S], child: S) -> S | None:
        return cast("S | None", self.trackers.joined(child))

    def join(self, child: Scope) -> None:
        self.trackers.number_of(child, joined=True)

    def undispatch(self, hold: Hold, dispatched: bool) -> None:
        if isinstance(hold, StoredHold):
            hold.stay_dispatched(dispatched)

    def has_lost(self, hold: Hold) -> bool:
        return isinstance(hold, StoredHold) and hold.late

    def end_late(self, hold: Hold, ending: Ending) -> None:
        assert isinstance(hold, StoredHold)
        self.leases.end_late(hold, ending)

    def _may_pass(self, error: Exception) -> bool:
        return isinstance(error, LLMStoreError | Again | RecursionError | MemoryError) or self.passes(error)

    # Work that cannot be done now.

    def check(self, hold: Hold) -> None:
        lease = getattr(hold, "lease", None)
        if lease is not None and lease.generation != _forks.generation:
            raise LLMConfigurationError("This hold belongs to the parent process: reserve a new one after os.fork.")

    def end(self, hold: Hold, ending: Ending) -> None:
        """End a hold. The worker does it if an event loop runs here or the store cannot be reached."""
        self.check(hold)
        if in_running_loop() or self.gate.within:
            self.gate.lose(hold, ending)
            return
        step = self.gate.finish(hold, ending)
        try:
            self.gate.run(step, on=hold.tracker)
        except LLMStoreError as error:
            self.gate.lose(hold, ending)
            log_event(BOOKED_LATER, self.outbox.owed, error=str(error))
        except BaseException as error:
            # The next step ends the hold. If the failure may repeat, the worker ends it in a step of its own.
            if isinstance(error, Exception) and not self._may_pass(error):
                self._suspect(step)
            else:
                self.gate.lose(hold, ending)
            raise

    def note_lost(self, hold: Hold, ending: Ending) -> None:
        if hold.ending is NO_ENDING:
            hold.ending = ending
        self.keep_working()

    def keep_working(self) -> None:
        """Keep this session alive until the worker has done its pending work."""
        self.worker.put(partial(id, self))

    def _suspect(self, note: Note) -> None:
        self._suspects.append(note)
        self.worker.start()
        self.keep_working()

    def _do_suspects(self) -> None:
        """Do each suspect note in a step of its own. Raises LLMStoreError; `tick` tries again later."""
        while self._suspects:
            note = self._suspects[0]
            try:
                self.gate.run(partial(self.gate.do, note), alone=True)
            except LLMStoreError:
                raise
            except Exception as error:
                log_event(NOT_BOOKED, self.outbox.owed, error=type(error).__name__)
                self._presume(note)
            with suppress(ValueError):
                # Another thread may have removed it.
                self._suspects.remove(note)

    def _presume(self, note: Note) -> None:
        """Presume the hold that `note` would end. If that fails too, the hold stays open until its lease ends."""
        hold = next(iter(getattr(note, "args", ())), None)
        if isinstance(hold, Hold):
            with suppress(LLMConfigurationError, ArithmeticError, ValueError):
                self.gate.run(self.gate.finish(hold, Ending("presumed", hold.bound)), alone=True)

    def work_off(self) -> None:
        if in_running_loop():
            self.keep_working()
        else:
            self.flush()

    def flush(self) -> None:
        """Do the pending work. If the store cannot be reached, the worker does it later."""
        if self.gate.within:
            return
        try:
            if lost:
                gather_lost()
            if self._suspects:
                self._do_suspects()
            if self.gate.notes:
                self.gate.run(nothing)
            elif self.gate.begun:
                # Another thread, perhaps the worker, is doing it now, or was interrupted.
                self.gate.run(nothing, looks=True)
        except LLMStoreError as error:
            log_event(DONE_LATER, self.outbox.owed, error=str(error))

    def watch(self) -> None:
        # Other processes may free the budget that the caller waits for.
        self.worker.start()
        self.keep_working()
        self.listen()

    def tick(self) -> float:
        """Do the worker's regular tasks: pending notes, the lease, and waiting callers."""
        gather_lost()
        if self.gone:
            return self.leases.pause
        try:
            self._do_suspects()
            due = self.come_due()
            if self.gate.notes or due:
                self.gate.run(self._look_after, informed=due)
        except LLMStoreError as error:
            log_event(DONE_LATER, self.outbox.owed, error=str(error))
            return _RETRY_SECONDS
        return self.pause

    def _look_after(self) -> None:
        """Admit waiting callers. The step itself does the pending notes, and renews the lease or gives it up."""
        self.line.close()
        self.looked()

    # The end of a session.

    def close(self, tracker: Scope, note: Note) -> None:
        """Close a tracker by doing `note`. A root closes only for this process; others continue to use it."""
        tracker.closed_itself = True
        self.closed = self.closed or tracker.parent is None
        self.gate.notes.append(note)
        self.worker.start()
        self.work_off()
        if self.idle and not in_running_loop():
            self.part()

    @property
    def idle(self) -> bool:
        """True if this process has closed the budget and has no open holds or pending work."""
        left = self.gate.notes or self._suspects or self.leases.open_holds or self.unsettled
        return self.closed and not left

    def part(self) -> None:
        """End the thread and the connection; a later operation starts them again."""
        self.worker.stop(self.terms.busy_seconds)
        self.gate.run(self.disconnect, looks=True)

    def shut(self) -> None:
        """Do the pending work, end all holds and disconnect. A later step connects again."""
        self.worker.stop(self.terms.busy_seconds)
        with suppress(LLMStoreError):
            self._do_suspects()
            self.gate.run(nothing)
            # In a second step: the first has written the ended holds, so this one does not end them again.
            self.gate.run(self._give_up)
        self.courier.wait(self.terms.busy_seconds)
        self.disconnect()

    def _give_up(self) -> None:
        """Remove the lease, the holds and the waiters of this process from the store."""
        self.leases.give_up()
        self.waiters.withdraw()

    def leave_to_parent(self) -> None:
        """Start over in a forked process: connection, lease, waiters and pending work belong to the parent."""
        self.leave_connection()
        self.worker = StoreWorker(self)
        self.leases.forget()
        self.changes.clear()
        self.trackers.undo(())
        self.waiters.leave_to_parent()
        self._worked_off.clear()
        self._suspects.clear()
        self.courier.leave_to_parent()
        self.line = RevisableLine(self.gate, self.sure)
        self.gate.leave_to_parent(self.line)

    # For users.

    def reset(self, facts: CallFacts) -> None:
        """Reset `spent` to zero, by ledger entries with these facts. Open holds stay open."""
        self.gate.run(self._reset, facts, informed=True)

    def _reset(self, facts: CallFacts) -> None:
        for entry_id in self.entries.open_presumptions():
            self.books.correct(entry_id, NOTHING)
        for tracker in self.trackers.deepest_first():
            self.books.record(tracker, NOTHING.minus(amount_of(tracker.own_accounts, "spent")), facts)
            if tracker.window is not None:
                tracker.window.forget(self.entries.number())
        self.line.scan()

    def handle(self, tracker: Scope) -> Any:
        """Return the pickled form of `tracker`: the same budget, for the process that unpickles it."""
        number = self.gate.run(self.trackers.number_of, tracker, on=tracker)
        return self.reopen, (replace(self.terms, sink=None), number)

    def tracker(self, number: int) -> BudgetTracker:
        """The tracker with this number."""
        return self.gate.run(self.trackers.find, number, on=self.trackers.known.get(number), informed=True)

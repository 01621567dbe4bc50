"""The gate of a budget in a store: what `Gate` decides, decided on the state of the store."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from llm_connect import _forks
from llm_connect.budget.accounting.accounts import amount_of
from llm_connect.budget.accounting.windows import Clock
from llm_connect.budget.admission.backend import Note
from llm_connect.budget.admission.backoff_lock import TreeLock
from llm_connect.budget.admission.callers import in_running_loop
from llm_connect.budget.admission.clocks import wall_clock
from llm_connect.budget.admission.controller import OnUnknown, S
from llm_connect.budget.admission.holds import NO_ENDING, Ending, Hold, gather_lost, lost
from llm_connect.budget.admission.log import write
from llm_connect.errors import LLMConfigurationError, LLMStoreError
from llm_connect.stores.holds import StoredHold
from llm_connect.stores.outbox import StagedOutbox
from llm_connect.stores.processes import look_after
from llm_connect.stores.tentative_queue import RevisableLine
from llm_connect.stores.transaction import AtomicGate
from llm_connect.stores.worker import StoreWorker
from llm_connect.types.amounts import NOTHING

if TYPE_CHECKING:
    from llm_connect.budget.accounting.accounts import Account
    from llm_connect.budget.accounting.calibration import Key, LearnedFactor
    from llm_connect.budget.accounting.demands import CallFacts, Demand
    from llm_connect.budget.accounting.scope import Scope
    from llm_connect.budget.admission.waiters import Waiter
    from llm_connect.budget.tracker import BudgetTracker
    from llm_connect.stores.books import StoredBooks
    from llm_connect.stores.changes import Changes
    from llm_connect.stores.leases import Leases
    from llm_connect.stores.terms import Terms
    from llm_connect.stores.trackers import Trackers

_NOT_BOOKED = "What a call came to cannot be booked, so its bound is presumed: %s"
_BOOKED_LATER = "What a call came to is booked as soon as the store can be reached: %s"
_DONE_LATER = "What is left to do is done as soon as the store can be reached: %s"
#: How long the worker waits for callbacks at most.
_PATIENCE_SECONDS = 1.0


class Again(Exception):
    """What was decided is not so any more, or was decided on too little: decide anew."""


class StoreGate(AtomicGate, ABC):
    """The gate of one budget in a store, in one process.

    Every operation of `Gate` is a transaction of the store here: `begin` brings the trackers up to
    date with the store, `commit` writes what the operation has changed. Waiters, callbacks and notes are the process's
    own.
    """

    hold_type: type[Hold] = StoredHold
    changes: Changes
    leases: Leases
    trackers: Trackers
    books: StoredBooks
    #: Finds a tracker again by these terms and its number, in the process that a pickled one comes to.
    reopen: Callable[[Any, int], BudgetTracker]

    def __init__(self, terms: Terms, on_unknown: OnUnknown, root: int, clock: Clock = wall_clock) -> None:
        super().__init__(terms.keep_entries, on_unknown, terms.sink, clock)
        self.terms: Terms = terms
        self.most_limit: int = terms.most_limit
        #: The number of its root.
        self.root = root
        self._worker = StoreWorker(self)
        self._outbox = self._staged = StagedOutbox(min(_PATIENCE_SECONDS, terms.busy_seconds))
        self._line: RevisableLine = RevisableLine(self, self.sure)
        self._learned_before: dict[Any, LearnedFactor] = {}
        #: The tracker that was last asked for budget: it may have changed and have no row yet.
        self._asking: Scope | None = None
        #: Notes that this transaction has worked off.
        self._worked_off: list[Note] = []
        #: Notes by which a transaction may have failed: each is done in one of its own.
        self._suspects: deque[Note] = deque()
        #: Whether this process is done with it.
        self.closed: bool = False
        look_after(self)

    @property
    def worker(self) -> StoreWorker:  # type: ignore[override]
        return self._worker

    @property
    def gone(self) -> bool:
        """Whether the store has not the budget any more that was opened."""
        return False

    @abstractmethod
    def tick(self) -> float:
        """What the worker does now and then; seconds after which to come again."""

    @abstractmethod
    def disconnect(self) -> None:
        """Let the store go; a later operation reaches for it again."""

    @abstractmethod
    def leave_connection(self) -> None:
        """In a forked process: what is connected to the store is the parent's."""

    def sure(self) -> None:
        """Go on only when what would be refused is so by what the store says now."""

    def _settled(self) -> None:
        """A transaction is committed."""
        self._line.commit()
        self._learned_before = dict(self._learned)
        self.changes.clear()
        self.leases.commit()
        self._staged.commit()
        self._worked_off.clear()

    def _undo(self, error: BaseException) -> None:
        """A transaction is rolled back; what is left to do comes first again, unless it may be why."""
        self._line.undo()
        self.trackers.undo()
        if self._asking is not None:
            # Interrupted before its hold was made, so that no change of it was noted.
            self.changes.note_trackers(self._asking.lineage)
        self.changes.undo()
        self.leases.undo()
        self._staged.roll_back()
        self.journal.intent = self.journal.hold = None
        if isinstance(error, Exception) and not self._passes(error):
            for note in self._worked_off:
                self._suspect(note)
        else:
            self.notes.extendleft(reversed(self._worked_off))
        self._worked_off.clear()

    def _passes(self, error: Exception) -> bool:
        """Whether the same may succeed later, or when it is decided anew."""
        return isinstance(error, LLMStoreError | Again | RecursionError | MemoryError)

    def _suspect(self, note: Note) -> None:
        self._suspects.append(note)
        self._worker.start()
        self._worker.put(self.stay)

    def _do_suspects(self) -> None:
        """Do each note by which a transaction may have failed. Raises LLMStoreError; `tick` tries again later."""
        while self._suspects:
            note = self._suspects[0]
            try:
                self._run_apart(self._note, note)
            except LLMStoreError:
                raise
            except Exception as error:
                write(logging.ERROR, _NOT_BOOKED, type(error).__name__, owed=self.owed)
                self._presume(note)
            with suppress(ValueError):
                # Another thread may do the same.
                self._suspects.remove(note)

    def _presume(self, note: Note) -> None:
        """Presume the hold that `note` would end; when even that fails, it is held until its lease is over."""
        if isinstance(note, partial) and note.func == self._end:
            hold = note.args[0]
            with suppress(LLMConfigurationError, ArithmeticError, ValueError):
                self._run_apart(self._end, hold, Ending("presumed", hold.bound))

    def _know(self, learned: dict[Key, LearnedFactor]) -> None:
        """Know what others have learned."""
        if learned != self._learned:
            changed = [key for key in {*learned, *self._learned} if learned.get(key) != self._learned.get(key)]
            self._books.learned.become(learned)
            for key in changed:
                self._line.raise_demands(key, learned.get(key))
        self._learned_before = learned

    def check_process(self) -> None:
        """A forked process has a connection and a lease of its own."""

    def admit(self, tracker: Scope, demand: Demand, facts: CallFacts, replaces: Hold | None = None) -> Hold | None:
        return self._run(self._admit, tracker, demand, facts, replaces)

    def _admit(self, tracker: Scope, demand: Demand, facts: CallFacts, replaces: Hold | None = None) -> Hold | None:
        self._asking = tracker
        return super()._admit(tracker, self._raised(demand, facts), facts, replaces)

    def dispatch(self, hold: Hold) -> bool:
        """Like `Gate.dispatch`; False as well for a hold whose lease was lost, and that has been ended for that."""
        _check_own(hold)
        before = hold.dispatched
        try:
            return super().dispatch(hold)
        except LLMConfigurationError:
            if isinstance(hold, StoredHold) and hold.late:
                return False
            raise
        except BaseException:
            # Nothing is sent, whatever the store may say of it.
            if isinstance(hold, StoredHold):
                hold.stay_dispatched(before)
            raise

    def end(self, hold: Hold, ending: Ending) -> None:
        """Like `Gate.end`. In a running event loop, or when the store cannot be reached, the worker does it."""
        _check_own(hold)
        if in_running_loop() or (self._inside and self._lock.owned()):
            self.lose(hold, ending)
            return
        try:
            self._run(self._end, hold, ending)
        except LLMStoreError as error:
            self.lose(hold, ending)
            write(logging.WARNING, _BOOKED_LATER, error, owed=self.owed)
        except BaseException as error:
            # What is not written now the next operation does, or the worker, when it is for others to fail by it.
            if isinstance(error, Exception) and not self._passes(error):
                self._suspect(partial(self._end, hold, ending))
            else:
                self.lose(hold, ending)
            raise

    def lose(self, hold: Hold, ending: Ending) -> None:
        super().lose(hold, ending)
        if hold.ending is NO_ENDING:
            hold.ending = ending
        self._worker.put(self.stay)

    def stay(self) -> None:
        """Be there until the worker has looked after what is left to do."""

    def tidy(self) -> None:
        self.work_off()

    def flush(self) -> None:
        """Like `Gate.flush`; what cannot be done because the store cannot be reached is left to the worker."""
        if self._inside and self._lock.owned():
            return
        try:
            self._do_suspects()
            if self.notes or lost:
                self._run(_nothing)
            elif self._inside:
                # Another thread, the worker perhaps, is just doing it; or what did it was interrupted.
                self.alone(_nothing)
        except LLMStoreError as error:
            write(logging.WARNING, _DONE_LATER, error, owed=self.owed)

    def work_off(self) -> None:
        if in_running_loop():
            self._worker.put(self.stay)
        else:
            self.flush()

    def close(self, tracker: Scope) -> None:
        """Like `Gate.close`. A budget itself is closed for this process only; others go on with it."""
        tracker.closed_itself = True
        self.closed = self.closed or tracker.parent is None
        self.notes.append(partial(self._close, tracker))
        self._worker.start()
        self.work_off()
        if self.idle and not in_running_loop():
            self.part()

    @property
    def idle(self) -> bool:
        """Whether this process is done with the budget, and nothing is held or left to do."""
        return self.closed and not (self.notes or self._suspects or self.leases.open_holds)

    def part(self) -> None:
        """Give back the thread and the connection; whoever asks once more gets them again."""
        self._worker.stop(self.terms.busy_seconds)
        self.alone(self.disconnect)

    def _open_slice(self, child: Scope, kept: Hold) -> bool:
        opened = super()._open_slice(child, kept)
        if opened:
            number = self.trackers.number_of(child)
            self.trackers.slices[number] = self.leases.have().number
        self.changes.note_trackers(child.lineage)
        return opened

    def _change_limits(self, tracker: Scope, limits: dict[Account, int | None]) -> None:
        self.changes.note_trackers((tracker,))
        super()._change_limits(tracker, limits)

    def _join(self, joined: dict[str, S], child: S) -> S:
        shared = cast("S | None", self.trackers.joined(child))
        if shared is None or shared.closed:
            shared = child
            self.trackers.number_of(child, joined=True)
        joined[child.name] = shared
        return shared

    def reset(self, facts: CallFacts) -> None:
        """Begin anew: take what is spent off the books, by entries that say so. What is held stays held."""
        self._run(self._reset, facts)

    def _reset(self, facts: CallFacts) -> None:
        for entry_id in self.books.open_presumptions():
            self.books.correct(entry_id, NOTHING)
        for tracker in self.trackers.deepest_first():
            self.books.record(tracker, NOTHING.minus(amount_of(tracker.own_accounts, "spent")), facts)
            if tracker.window is not None:
                tracker.window.forget(self.books.number())
        self._line.scan()

    def _close(self, tracker: Scope) -> None:
        tracker.closed_itself = True
        if tracker.parent is not None:
            self.changes.note_trackers((tracker,))
            self._close_slices(tracker)
        elif self.leases.own is not None:
            self.close_slices_of(self.leases.own.number)
            if not self.leases.open_holds:
                self.leases.give_up()
        self._line.close()

    def _end(self, hold: Hold, ending: Ending) -> None:
        if isinstance(hold, StoredHold) and hold.late:
            self.leases.end_late(hold, ending)
            self._line.scan()
        else:
            super()._end(hold, ending)

    def _work_off(self) -> None:
        self._line.reclaim()
        gather_lost()
        while self.notes:
            # In this order, so that none gets lost: what is worked off comes back when the transaction is undone.
            note = self.notes[0]
            self._worked_off.append(note)
            self.notes.popleft()
            self._note(note)

    def _tell(self) -> None:
        if not self._lock.owned():
            self._wake_all(self._line.told)
            self._outbox.deliver()

    def _take(self, waiter: Waiter) -> Hold | None:
        self._line.note(waiter)
        return super()._take(waiter)

    def queue(self, waiter: Waiter, *, may_wait: bool) -> None:
        super().queue(waiter, may_wait=may_wait)
        if waiter.waiting:
            # Others may free what it waits for.
            self._worker.start()
            self._worker.put(self.stay)

    def handle(self, tracker: Scope) -> Any:
        """What `tracker` is pickled as: the same budget for the process that opens it."""
        number = self._run(self.trackers.number_of, tracker)
        return self.reopen, (replace(self.terms, sink=None), number)

    def shut(self) -> None:
        """Write what is left to do, end what is held, and let the store go. A later operation reaches for it again."""
        self._worker.stop(self.terms.busy_seconds)
        with suppress(LLMStoreError):
            self._do_suspects()
            self._run(_nothing)
            # What has ended is no longer in the store by now, so that it is not ended again.
            self._run(self._give_up)
        self._staged.wait(self.terms.busy_seconds)
        self.disconnect()

    def _give_up(self) -> None:
        """Leave nothing of this process in the store."""
        self.leases.give_up()

    def leave_to_parent(self) -> None:
        """In a forked process: connection, lease, waiters and what is left to do are the parent's."""
        self.leave_connection()
        self._lock, self._inside = TreeLock(), False
        self._worker = StoreWorker(self)
        self.leases.forget()
        self.changes.clear()
        self.trackers.undo()
        self._worked_off.clear()
        self.notes.clear()
        self._suspects.clear()
        self._line = RevisableLine(self, self.sure)
        self._staged.leave_to_parent()
        self._generation = _forks.generation

    def roll(self) -> None:
        """Let leave windows what is over, as every transaction does when it begins."""
        self._roll()

    def close_slices_of(self, lease: object) -> None:
        """Return the slices that a process keeps open."""
        for tracker in self.trackers.open_slices():
            if self.trackers.slices.get(tracker.number) == lease:
                tracker.closed_itself = True
                self._close_slices(tracker)

    def _close_slices(self, tracker: Scope) -> None:
        """Return the open slices at `tracker` and below it, whoever keeps them open."""
        opened = self.trackers.open_slices()
        self._slices.opened[:] = opened
        self._slices.close(tracker)
        for child in opened:
            if tracker in child.lineage:
                self.trackers.slices.pop(child.number, None)
                self.changes.note_trackers(child.lineage)

    def tracker(self, number: int) -> BudgetTracker:
        """The tracker of this number."""
        return self._run(self.trackers.find, number)


def _nothing() -> None:
    pass


def _check_own(hold: Hold) -> None:
    lease = getattr(hold, "lease", None)
    if lease is not None and lease.generation != _forks.generation:
        raise LLMConfigurationError("This hold is that of the process before os.fork: reserve anew in this one.")

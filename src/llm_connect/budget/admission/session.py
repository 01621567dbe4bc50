"""Sessions: a session keeps the state of a budget, and runs the steps of its controller on that state.

`Gate` decides, and is the same for a budget in memory, in a file and in a server. Only its session differs. A session
provides three things.

- *Steps* (`run`): first the notes, then the decision. In memory that is all, because the lock of the tree excludes
  other threads. In a store the session reads the present state before the decision, and commits the changes after it.
  If the commit fails, the session restores the old state. If another process was faster, the session runs the step
  again on the new state. So a step may run several times, and nobody outside is informed before the commit.
- *Parts* (`open`): the ledger, the books and the wait queue. The parts of a store record the changes of a step.
- *Late ends*: if a finalizer, a signal handler or an outage prevents the end of a hold, the session does it later.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, Protocol, TypeVar

from llm_connect.budget.accounting.ledger import Ledger
from llm_connect.budget.admission.allotments import Allotments, Allotting
from llm_connect.budget.admission.backend import BudgetGate, Note
from llm_connect.budget.admission.booking import Books, Sink
from llm_connect.budget.admission.callbacks import Outbox
from llm_connect.budget.admission.holds import Ending, Hold, OpenHold, Worker
from llm_connect.budget.admission.wait_queue import Line
from llm_connect.types.amounts import MOST_LIMIT

if TYPE_CHECKING:
    from llm_connect.budget.accounting.calibration import Key, LearnedFactor
    from llm_connect.budget.accounting.scope import Scope

T = TypeVar("T")
S = TypeVar("S", bound="Scope")


class Controller(BudgetGate, Protocol):
    """The operations of `Gate` that a session uses."""

    @property
    def session(self) -> Session: ...
    @property
    def within(self) -> bool: ...
    @property
    def windowed(self) -> bool: ...
    @property
    def free(self) -> bool: ...
    @property
    def begun(self) -> bool: ...
    def run(
        self,
        step: Callable[..., T],
        *args: Any,
        on: Scope | None = None,
        informed: bool = False,
        alone: bool = False,
        looks: bool = False,
    ) -> T: ...
    def undone(self) -> None: ...
    def do(self, note: Note) -> None: ...
    def finish(self, hold: Hold, ending: Ending) -> Callable[[], None]: ...
    def know(self, learned: dict[Key, LearnedFactor]) -> None: ...
    def move(self, trackers: Iterable[Scope]) -> None: ...
    def leave_to_parent(self, line: Line) -> None: ...


class Parts(NamedTuple):
    """The parts on which a controller decides."""

    ledger: Ledger
    outbox: Outbox
    books: Books
    line: Line
    allotments: Allotting


class Session(Protocol):
    """The state of one budget, and the way in which a step on it runs."""

    @property
    def worker(self) -> Worker | None:
        """Runs operations for coroutines; None if operations do no I/O."""
        ...

    @property
    def most_limit(self) -> int: ...
    @property
    def hold_type(self) -> type[Hold]: ...
    def open(self, gate: Controller, keep_entries: int, sink: Sink | None) -> Parts:
        """Return the parts of `gate`, which is being made."""
        ...

    # Steps. The gate calls all of these except `run` inside a step.
    def run(self, first: Callable[[], None], step: Callable[[], T], on: Scope | None, informed: bool) -> T:
        """Do `first` and then `step`, and return its result; the caller has the lock of the tree."""
        ...

    def repair(self) -> bool:
        """Roll back an interrupted step; False if the journal of the tree completes it instead."""
        ...

    def do_notes(self) -> None:
        """Do all notes, each once."""
        ...

    def sure(self) -> None:
        """Make sure that a refusal rests on the present state of the store; if it does not, run the step again."""
        ...

    def touch(self, tracker: Scope) -> None:
        """Note that the step is about to change `tracker`."""
        ...

    def joined(self, joined: dict[str, S], child: S) -> S | None:
        """The child that is already joined under this name; None if there is none."""
        ...

    def join(self, child: Scope) -> None:
        """Publish `child` under its name, so that others can join it."""
        ...

    def has_lost(self, hold: Hold) -> bool:
        """True if another process has ended the hold, because it took this one for dead."""
        ...

    def end_late(self, hold: Hold, ending: Ending) -> None:
        """End a hold that this process has lost."""
        ...

    # Around steps.
    def undispatch(self, hold: Hold, dispatched: bool) -> None:
        """Restore the mark of a hold whose dispatch has failed: nothing is sent, even if the store says otherwise."""
        ...

    def check(self, hold: Hold) -> None:
        """Raise LLMConfigurationError for a hold of the process that this one was forked from."""
        ...

    def arrive(self) -> int:
        """Return the next arrival number."""
        ...

    def watch(self) -> None:
        """Note that a caller has begun to wait."""
        ...

    def end(self, hold: Hold, ending: Ending) -> None:
        """End a hold now, or as soon as possible; only in a store."""
        ...

    def note_lost(self, hold: Hold, ending: Ending) -> None:
        """React to a new note that ends a lost hold; only in a store."""
        ...

    def work_off(self) -> None:
        """Do the notes, unless this thread must not wait."""
        ...

    def flush(self) -> None:
        """Do the notes, even in a running event loop."""
        ...

    def close(self, tracker: Scope, note: Note) -> None:
        """Do `note`, which closes a tracker."""
        ...

    def handle(self, tracker: Scope) -> Any:
        """Return the pickled form of `tracker`."""
        ...


class MemorySession:
    """The session of a budget in memory, whose steps need only the lock of the tree."""

    worker: Worker | None = None
    most_limit: int = MOST_LIMIT
    hold_type: type[Hold] = OpenHold
    _gate: Controller
    _notes: deque[Note]

    def __init__(self) -> None:
        #: A function in C, which is fast and cannot be interrupted.
        self.arrive: Callable[[], int] = itertools.count(1).__next__

    def open(self, gate: Controller, keep_entries: int, sink: Sink | None) -> Parts:
        self._gate = gate
        ledger, outbox = Ledger(keep_entries, gate.run), Outbox()
        return Parts(ledger, outbox, Books(ledger, outbox, sink), Line(gate), Allotments())

    def run(self, first: Callable[[], None], step: Callable[[], T], on: Scope | None, informed: bool) -> T:
        first()
        return step()

    def repair(self) -> bool:
        return False

    def do_notes(self) -> None:
        notes = self._gate.notes
        while notes:
            # After an interruption a note is done again.
            self._gate.do(notes[0])
            notes.popleft()

    def work_off(self) -> None:
        if self._gate.free:
            self._gate.run(_nothing)

    def flush(self) -> None:
        self._gate.tidy()

    def close(self, tracker: Scope, note: Note) -> None:
        self._gate.notes.append(note)
        self.work_off()

    def joined(self, joined: dict[str, S], child: S) -> S | None:
        return joined.get(child.name)

    def handle(self, tracker: Scope) -> NoReturn:
        raise TypeError(
            "A BudgetTracker cannot be pickled, because a copy in another process would double the budget: make one "
            "with a share of the limit in each process, or share one with open_budget."
        )

    def undispatch(self, hold: Hold, dispatched: bool) -> None:
        hold.dispatched = dispatched

    def has_lost(self, hold: Hold) -> bool:
        return False

    # No other process has the state, so these have nothing to do.

    def check(self, hold: Hold) -> None: ...
    def sure(self) -> None: ...
    def touch(self, tracker: Scope) -> None: ...
    def join(self, child: Scope) -> None: ...
    def watch(self) -> None: ...
    def end(self, hold: Hold, ending: Ending) -> None: ...
    def end_late(self, hold: Hold, ending: Ending) -> None: ...
    def note_lost(self, hold: Hold, ending: Ending) -> None: ...


def _nothing() -> None:
    pass

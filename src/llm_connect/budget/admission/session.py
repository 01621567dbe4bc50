"""A session: where the state of a budget is kept, and how a step of its controller is done there.

`Gate` decides, and is the same for a budget in memory, in a file and in a server. Its session differs. It gives three
things.

- *A step* (`run`): what was left to do, then the decision. In memory that is all, since the lock of the tree keeps
  others out. In a store the session brings what is known of the state up to date before it, and commits afterwards what
  the decision has changed. When the commit fails, everything is as before. When others have overtaken it, the session
  decides once more, on what is so now; so a step may be run several times, and tells nobody of what it does.
- *Parts* (`open`): the ledger, the books, the line of waiters. Those of a store note what a step changes.
- *Ends that come late*: what a finalizer, a signal handler or an outage keeps from being done now is done later.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, Protocol, TypeVar

from llm_connect.budget.accounting.ledger import Ledger
from llm_connect.budget.admission.backend import BudgetGate, Note
from llm_connect.budget.admission.booking import Books, Sink
from llm_connect.budget.admission.callbacks import Outbox
from llm_connect.budget.admission.earmarks import Earmarks, Slices
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
    slices: Earmarks


class Session(Protocol):
    """The state of one budget, and how a step on it is done."""

    @property
    def worker(self) -> Worker | None:
        """Does operations for coroutines, where they do I/O."""
        ...

    @property
    def most_limit(self) -> int: ...
    @property
    def hold_type(self) -> type[Hold]: ...
    def open(self, gate: Controller, keep_entries: int, sink: Sink | None) -> Parts:
        """Return the parts of `gate`, which is being made."""
        ...

    # Steps; but for `run`, these are called in the midst of one.
    def run(self, first: Callable[[], None], step: Callable[[], T], on: Scope | None, informed: bool) -> T:
        """Do `first` and then `step`, and return its result; the caller has the lock of the tree."""
        ...

    def repair(self) -> bool:
        """Go back to before a step that was interrupted; False where the journal of the tree completes it."""
        ...

    def do_notes(self) -> None:
        """Do what is left to do, each once."""
        ...

    def sure(self) -> None:
        """A refusal rests on what is known: go on only if that is what the store says now."""
        ...

    def touch(self, tracker: Scope) -> None:
        """`tracker` is about to change."""
        ...

    def joined(self, joined: dict[str, S], child: S) -> S | None:
        """The child that others have joined by this name."""
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
        """The next arrival number."""
        ...

    def watch(self) -> None:
        """Somebody has begun to wait."""
        ...

    def end(self, hold: Hold, ending: Ending) -> None:
        """End a hold, now or as soon as that can be; only in a store."""
        ...

    def note_lost(self, hold: Hold, ending: Ending) -> None:
        """There is a note by now that ends a hold; only in a store."""
        ...

    def work_off(self) -> None:
        """Do what is left to do, unless this thread must not wait."""
        ...

    def flush(self) -> None:
        """Do what is left to do, also in a running event loop."""
        ...

    def close(self, tracker: Scope, note: Note) -> None:
        """Do `note`, which closes a tracker."""
        ...

    def handle(self, tracker: Scope) -> Any:
        """Return the pickled form of `tracker`."""
        ...


class MemorySession:
    """A budget in memory: the lock of its tree is all that a step needs."""

    worker: Worker | None = None
    most_limit: int = MOST_LIMIT
    hold_type: type[Hold] = OpenHold
    _gate: Controller
    _notes: deque[Note]

    def __init__(self) -> None:
        #: A function in C.
        self.arrive: Callable[[], int] = itertools.count(1).__next__

    def open(self, gate: Controller, keep_entries: int, sink: Sink | None) -> Parts:
        self._gate = gate
        ledger, outbox = Ledger(keep_entries, gate.run), Outbox()
        return Parts(ledger, outbox, Books(ledger, outbox, sink), Line(gate), Slices())

    def run(self, first: Callable[[], None], step: Callable[[], T], on: Scope | None, informed: bool) -> T:
        first()
        return step()

    def repair(self) -> bool:
        return False

    def do_notes(self) -> None:
        notes = self._gate.notes
        while notes:
            # One that is interrupted is done again.
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
            "A BudgetTracker cannot be pickled: a copy in another process would be a second budget of the same "
            "size. Make one in each process, with its share of the limit, or share one by open_budget."
        )

    def undispatch(self, hold: Hold, dispatched: bool) -> None:
        hold.dispatched = dispatched

    def has_lost(self, hold: Hold) -> bool:
        return False

    # Nobody else has the state, so there is nothing to do.

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

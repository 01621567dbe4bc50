"""Sessions: a session keeps the state of a budget, and runs the steps of its controller on that state.

`Gate` decides, and is the same for a budget in memory, in a file and in a server. Only its session differs. A session
provides three things.

- *Steps* (`run`): first the notes, then the decision. In memory that is all, because the lock of the tree excludes
  other threads. In a store the session reads the present state before the decision, and commits the changes after it.
  If the commit fails, the session restores the old state. If another process was faster, the session runs the step
  again on the new state. So a step may run several times, and nobody outside is informed before the commit.
- *Parts* (`open`): the entries, the books and the wait queue. The parts of a store record the changes of a step.
- *Late ends*: if a finalizer, a signal handler or an outage prevents the end of a hold, the session does it later.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias, TypeVar

from llm_connect.budget.accounting.ledger import Entries
from llm_connect.budget.admission.booking import Books, Sink
from llm_connect.budget.admission.callbacks import Outbox
from llm_connect.budget.admission.children import Allotting
from llm_connect.budget.admission.holds import Ending, Hold, Worker
from llm_connect.budget.admission.wait_queue import Line, Waiter

if TYPE_CHECKING:
    from llm_connect.budget.accounting.accounts import Scope

T = TypeVar("T")
S = TypeVar("S", bound="Scope")
#: The controller: `Gate`, which imports this module.
G = TypeVar("G", contravariant=True)


#: Work that the next operation does: a function to call, or a waiter that leaves.
Note: TypeAlias = Callable[[], None] | Waiter


class Parts(NamedTuple):
    """The parts on which a controller decides."""

    entries: Entries
    outbox: Outbox
    #: Runs the callbacks in the outbox.
    deliver: Callable[[], None]
    books: Books
    line: Line
    allotments: Allotting


class Session(Protocol[G]):
    """The state of one budget, and the way in which a step on it runs."""

    @property
    def worker(self) -> Worker | None:
        """Runs operations for coroutines; None if operations do no I/O."""
        ...

    @property
    def most_limit(self) -> int: ...
    @property
    def hold_type(self) -> type[Hold]: ...
    def open(self, gate: G, keep_entries: int, sink: Sink | None) -> Parts:
        """Return the parts of `gate`, which is being made."""
        ...

    # A method that has a body here does this in a session whose state no other process has.

    # Steps. The gate calls all of these except `run` inside a step.
    def run(self, first: Callable[[], None], step: Callable[[], T], on: Scope | None, informed: bool) -> T:
        """Do `first` and then `step`, and return its result; the caller has the lock of the tree."""
        ...

    def repair(self) -> bool:
        """Roll back an interrupted step; False if the journal of the tree completes it instead."""
        return False

    def do_notes(self) -> None:
        """Do all notes, each once."""
        ...

    def sure(self) -> None:
        """Make sure that a refusal rests on the present state of the store; if it does not, run the step again."""
        return

    def touch(self, tracker: Scope) -> None:
        """Note that the step is about to change `tracker`."""
        return

    def joined(self, joined: dict[str, S], child: S) -> S | None:
        """The child that is already joined under this name; None if there is none."""
        return joined.get(child.name)

    def join(self, child: Scope) -> None:
        """Publish `child` under its name, so that others can join it."""
        return

    def has_lost(self, hold: Hold) -> bool:
        """True if another process has ended the hold, because it took this one for dead."""
        return False

    def end_late(self, hold: Hold, ending: Ending) -> None:
        """End a hold that this process has lost; only in a store."""
        ...

    # Around steps.
    def undispatch(self, hold: Hold, dispatched: bool) -> None:
        """Restore the mark of a hold whose dispatch has failed: nothing is sent, even if the store says otherwise."""
        hold.dispatched = dispatched

    def check(self, hold: Hold) -> None:
        """Raise LLMConfigurationError for a hold of the process that this one was forked from."""
        return

    def arrive(self) -> int:
        """Return the next arrival number."""
        ...

    def watch(self) -> None:
        """Note that a caller has begun to wait; only in a store."""
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

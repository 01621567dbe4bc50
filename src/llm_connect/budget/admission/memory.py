"""The session of a budget in memory."""

# Its attributes are properties and a method of the protocol.
# pyright: reportIncompatibleMethodOverride=false, reportIncompatibleVariableOverride=false

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn, TypeVar

from llm_connect.budget.accounting.ledger import KeptEntries
from llm_connect.budget.admission.booking import Books, Sink
from llm_connect.budget.admission.callbacks import Outbox
from llm_connect.budget.admission.children import Allotments
from llm_connect.budget.admission.controller import Gate
from llm_connect.budget.admission.holds import Ending, Hold, OpenHold, Worker
from llm_connect.budget.admission.session import Note, Parts, Session
from llm_connect.budget.admission.wait_queue import Line
from llm_connect.types.amounts import MOST_LIMIT

if TYPE_CHECKING:
    from llm_connect.budget.accounting.accounts import Scope

T = TypeVar("T")


class MemorySession(Session[Gate]):
    """The session of a budget in memory, whose steps need only the lock of the tree."""

    worker: Worker | None = None
    most_limit: int = MOST_LIMIT
    hold_type: type[Hold] = OpenHold
    arrive: Callable[[], int]
    _gate: Gate

    def open(self, gate: Gate, keep_entries: int, sink: Sink | None) -> Parts:
        self._gate = gate
        #: A function in C, which is fast and cannot be interrupted.
        self.arrive = itertools.count(1).__next__
        entries, outbox = KeptEntries(keep_entries, gate.run), Outbox()
        return Parts(entries, outbox, outbox.deliver, Books(entries, outbox, sink), Line(gate), Allotments())

    def run(self, first: Callable[[], None], step: Callable[[], T], on: Scope | None, informed: bool) -> T:
        first()
        return step()

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

    def handle(self, tracker: Scope) -> NoReturn:
        raise TypeError(
            "A BudgetTracker cannot be pickled, because a copy in another process would double the budget: make one "
            "with a share of the limit in each process, or share one with open_budget."
        )

    # Only a store does more than its gate here.

    def watch(self) -> None: ...
    def end(self, hold: Hold, ending: Ending) -> None: ...
    def end_late(self, hold: Hold, ending: Ending) -> None: ...
    def note_lost(self, hold: Hold, ending: Ending) -> None: ...


def _nothing() -> None:
    pass

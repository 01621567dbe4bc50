"""Asserts the promise of every budget after each of its operations, while a test runs.

    spent + held + set aside <= limit, or more was spent than was held for it; and no figure is negative

An operation ends where its lock is let go. There, still under the lock, all accounts of its tree are looked at. An
account may be over its limit for two reasons only: a call has cost more than its hold (or was booked by `record` or
`correct`), or the limit was lowered below what is held. So one that is over its limit must not have more held or set
aside than before: that would be a grant that does not fit.

The library has no line for this. `install` puts the look around `release` of each lock that a budget makes.
"""

from __future__ import annotations

import traceback
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from llm_connect.budget.accounting.accounts import Account, figures_of
from llm_connect.budget.admission.controller import Gate
from llm_connect.budget.tracker import BudgetTracker

#: What was found since the test began.
violations: list[str] = []
#: False for tests that inject faults, because one would hit the watch: it replaces a function in C by one in Python.
#: False for the simulation, which looks at the store: a step may change what a process knows by what it hears, too.
watching = True


class Watch:
    """Looks at the accounts of one tree."""

    def __init__(self, gate: Gate) -> None:
        self._gate = weakref.ref(gate)
        self._release: Callable[[], None] = gate._lock.release
        self._nodes: list[Node] = []
        gate._lock.release = self.release

    def add(self, tracker: BudgetTracker) -> None:
        """Look at the accounts of `tracker`, too."""
        self._nodes.append(Node(tracker))

    def release(self) -> None:
        """Let the lock go, at the end of an operation after a look."""
        gate = self._gate()
        # Inside of one that was interrupted the figures are half changed.
        if gate is not None and not gate._inside and gate._lock.owned():
            self._look(sure=gate.worker is None)
        self._release()

    def _look(self, *, sure: bool) -> None:
        alive = [node for node in self._nodes if node.look(sure=sure)]
        if len(alive) != len(self._nodes):
            # Another thread may have added one: only the dead go.
            self._nodes = [node for node in self._nodes if node.alive]


class Node:
    """One tracker, and what its accounts were at the last look."""

    def __init__(self, tracker: BudgetTracker) -> None:
        self._tracker = weakref.ref(tracker)
        self._record = tracker.own_accounts[0].level.record
        self._before = [figures(account) for account in tracker.own_accounts]

    @property
    def alive(self) -> bool:
        return self._tracker() is not None

    def look(self, *, sure: bool) -> bool:
        """Note what breaks the promise; False when the tracker is gone."""
        tracker = self._tracker()
        if tracker is None:
            return False
        if (record := tracker.own_accounts[0].level.record) is self._record:
            return True
        self._record = record
        for place, account in enumerate(tracker.own_accounts):
            before, now = self._before[place], figures(account)
            if before != now:
                self._before[place] = now
                if (wrong := broken(before, now, sure=sure)) is not None:
                    stack = "".join(traceback.format_stack(limit=12)[:-4])
                    violations.append(f"{account.path}: {wrong}: {figures_of(account)}\n{stack}")
        return True


Figures = tuple[int, int, int, int, "int | None"]


def figures(account: Account) -> Figures:
    return account.spent, account.held, account.allotted, account.presumed, account.limit


def broken(before: Figures, now: Figures, *, sure: bool) -> str | None:
    """What is wrong with the figures of an account; None when it keeps the promise.

    sure: all that happens to it happens in this process, one operation for each look.
    """
    spent, held, allotted, presumed, limit = now
    if min(spent, held, allotted, presumed) < 0:
        return "a figure is negative"
    # An operation that lowers a limit may have let a waiting caller in before that.
    if limit is None or before[4] is None or spent + held + allotted <= max(limit, before[4]):
        return None
    # What is corrected in an allotment is set aside above it again.
    freed = max(0, before[0] - spent)
    grown = held + allotted > before[1] + before[2] + freed
    explained = not sure and (spent > before[0] or limit < before[4])
    return "more is held or set aside than fits" if grown and not explained else None


_watches: weakref.WeakKeyDictionary[Any, Watch] = weakref.WeakKeyDictionary()


@contextmanager
def installed() -> Iterator[None]:
    """Watch every budget that is made while the block runs."""
    make_gate, become = Gate.__init__, BudgetTracker._become

    def watched_gate(gate: Gate, *args: Any, **options: Any) -> None:
        make_gate(gate, *args, **options)
        if watching:
            _watches[gate] = Watch(gate)

    def watched_tracker(tracker: BudgetTracker, name: str, parent: Any, gate: Any, *args: Any, **options: Any) -> None:
        become(tracker, name, parent, gate, *args, **options)
        if gate in _watches:
            _watches[gate].add(tracker)

    Gate.__init__ = watched_gate  # type: ignore[method-assign]
    BudgetTracker._become = watched_tracker  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        Gate.__init__ = make_gate  # type: ignore[method-assign]
        BudgetTracker._become = become  # type: ignore[method-assign]


@contextmanager
def expected() -> Iterator[list[str]]:
    """Let a test break the promise on purpose: what was found in the block, and is forgotten after it."""
    found = violations.copy()
    violations.clear()
    try:
        yield violations
    finally:
        violations[:] = found

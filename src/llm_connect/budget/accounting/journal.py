"""Exact books after an interruption: an operation notes its changes before it makes them.

Python may raise an exception between any two steps of an operation: Ctrl-C, a signal handler that raises, an exception
set from another thread, too deep a recursion, no memory left. It does so where a function begins, after a call, and at
a backward jump. So two plain assignments in a row are both made or neither, but code that calls or loops may stop
half-way. `try` and `finally` do not help: a second exception may come while the first is handled. Blocking signals does
not help either: the program's own handler raises, in its own thread.

Therefore an operation is a sequence of steps, and each step has three parts.

1. Compute all results of the step, and change nothing.
2. Write them into the journal, by one assignment. This is the intent.
3. Make the changes, and clear the intent by one assignment.

An exception in the first part changes nothing. An exception in the second or third part leaves the intent in the
journal. The next operation on the budget finds it, in any thread: somebody reads a figure, the next call arrives, or a
lost hold ends. That operation completes the step or undoes it, and only then does its own work. It may be interrupted,
too, so a step done twice must have the same effect as a step done once. For that reason a plan holds resulting
figures and not differences, an entry is appended to the ledger only if it is not yet the last one there, and an item of
a table is set, never increased.

The end of a hold, a booking and every other decision is completed, because it may be the cost of an answer. A grant is
undone, because its caller never received the hold. Every call makes two steps, `accounts.take` and `Books.end`. A
`Plan` would cost microseconds there, so these two have intents of their own and change figures level by level. A level
has one immutable record of its figures, and the record names the step that has changed it last, so the intent tells
done levels from untouched ones (`accounts.py`). All other steps are plans; the plan of an end books in the same way.

`Gate._inside` is set while an operation runs. An operation that takes the lock and finds it set knows that the one
before was interrupted. It finishes the step in the journal, rebuilds the queue from the waiters' own attributes, and
admits the waiters that fit. A thread may also find `_inside` set while it already has the lock: then it has interrupted
its own operation, and runs a signal handler or a finalizer. Such code must not see books that are half changed, so the
gate leaves the end of a hold to the next operation, and refuses a request for budget or for figures.

Nothing may be lost before the lock is taken, either. Code in C appends a lost hold to `holds.lost`, and no exception
can interrupt it (`holds.py`). A waiter that leaves is appended to the notes before anything else happens. Notes,
callbacks, and waiters to be woken stay in their queues until they are done. After an interruption a callback may get an
entry twice, but it never misses one.

A budget in a store has a better journal: its transaction. If an operation is interrupted before the commit, the store
rolls it back, and this process reads the state again. If it is interrupted after the commit, the next operation does
the rest of it (`stores/session.py`).

In databases the intent is called a write-ahead log, and completing a repeatable step is called redo (Mohan et al.,
"ARIES", 1992). Their log survives the loss of memory; this one only has to survive an exception.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeAlias


class Plan:
    """Changes that are made together; making them twice has the same effect as once."""

    __slots__ = ("_steps", "_values")

    def __init__(self) -> None:
        self._values: dict[tuple[Any, str], Any] = {}
        self._steps: list[tuple[Callable[..., object], tuple[Any, ...]]] = []

    def get(self, thing: Any, name: str) -> Any:
        """The value of an attribute once the plan is carried out."""
        key = (thing, name)
        return self._values[key] if key in self._values else getattr(thing, name)

    def set(self, thing: Any, name: str, value: Any) -> None:
        """Plan to assign `value` to an attribute."""
        self._values[thing, name] = value

    def add(self, thing: Any, name: str, more: int) -> None:
        """Plan to increase a figure by `more`."""
        self._values[thing, name] = self.get(thing, name) + more

    def then(self, step: Callable[..., object], *args: Any) -> None:
        """Plan to call `step` after all assignments; the call must be repeatable."""
        self._steps.append((step, args))

    def before(self) -> Plan:
        """The plan that restores the attributes that this one will assign; call it before carrying this one out."""
        plan = Plan()
        for thing, name in self._values:
            plan.set(thing, name, getattr(thing, name))
        return plan

    def carry_out(self) -> None:
        for (thing, name), value in self._values.items():
            setattr(thing, name, value)
        for step, args in self._steps:
            step(*args)


#: The plan of a step, or a function that makes it from the journal, followed by the function's other arguments.
Intent: TypeAlias = "Plan | tuple[Any, ...] | None"


class Granted(Protocol):
    """A hold that a step grants; undoing the step ends it before its caller receives it."""

    ended: bool


class Journal:
    """The present step of a tree of trackers; the caller of every method has the lock of the tree."""

    intent: Intent = None
    #: The hold that the step grants.
    hold: Granted | None = None

    def carry_out(self, plan: Plan) -> None:
        """Make all changes of `plan`, even if an exception interrupts this call: then the next operation makes them."""
        self.intent = plan
        plan.carry_out()
        self.intent = None

    def finish(self) -> None:
        """Complete or undo the interrupted step, if there is one."""
        intent = self.intent
        if isinstance(intent, tuple):
            plan_of, *details = intent
            self.intent = intent = plan_of(self, *details)
        if intent is not None:
            intent.carry_out()
            self.intent = None
        self.hold = None

"""Exact books after an interruption: an operation writes down what it is about to change before it changes it.

Python may raise an exception between any two steps of an operation: Ctrl-C, a signal handler that raises, an exception
set from another thread, too deep a recursion, no memory left. It does so where a function begins, after a call, and at
a backward jump. So two plain assignments in a row are both made or neither, and whatever calls or loops may stop
half-way. `try` and `finally` do not help: a second exception may come while the first is handled. Blocking signals does
not help either: the program's own handler raises, in its own thread.

So an operation is a row of steps, and each step has three parts.

1. Compute all results of the step, and change nothing.
2. Write them into the journal, by one assignment. This is the intent.
3. Make the changes, and clear the intent by one assignment.

An exception in the first part has changed nothing. An exception in the second or third leaves the intent, and the next
operation on the budget finds it, in whatever thread: somebody reads a figure, the next call arrives, a lost hold is
ended. That operation completes the step or undoes it, and only then does its own work. It may be interrupted, too, so
doing it twice must not matter. Therefore an intent holds the figures that result and not their changes, an entry is
appended to the ledger unless it is the last one there, and an item of a table is set, never increased.

The end of a hold, a booking and every other decision is completed, since it may be the cost of an answer. A grant is
undone, since its caller never got the hold. Every call makes two steps, `accounts.take` and `Books.end`. They have
intents of their own, because a `Plan` costs microseconds. They change figures level by level. Before each level, its
new figures go into `Journal.level`, as one tuple: levels before this one are done, levels behind it are as they were,
and for the level itself the tuple is the truth (`accounts.py`). All other steps are plans.

`Gate._inside` says that an operation has begun and not ended. An operation that takes the lock and finds it set knows
that the one before was interrupted. It looks at the journal, puts the queue in order by the waiters' own attributes
(their last assignment counts; groups and heaps are built again), and looks who fits. If a thread finds it set while it
has the lock itself, it is in the midst of its own operation: a signal handler or a finalizer runs now. Such code must
not see books that are half changed, so the end of a hold is left to the next operation, and a request for budget or
for figures is refused.

Nothing may be lost on the way to the lock, either. Code in C appends a lost hold to `holds.lost`, and no exception
can interrupt it (`holds.py`). A waiter that leaves is appended to the notes before anything else happens. Notes,
callbacks, and waiters that are to be woken stay in their queues until they are done. After an interruption a callback
may get an entry twice, but it never misses one.

A budget in a store has a better journal: its transaction. If an operation is interrupted before the commit, it is
rolled back, and this process reads the state again. If it is interrupted after the commit, the rest of it is done
(`stores/transaction.py`).

Databases know the intent as a write-ahead log, and completing a step that may be done twice as redo (Mohan et al.,
"ARIES", 1992). Theirs survives the loss of memory; this one only has to survive an exception.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeAlias


class Plan:
    """Changes that are made together; making them again makes no difference."""

    __slots__ = ("_steps", "_values")

    def __init__(self) -> None:
        self._values: dict[tuple[Any, str], Any] = {}
        self._steps: list[tuple[Callable[..., object], tuple[Any, ...]]] = []

    def get(self, thing: Any, name: str) -> Any:
        """What an attribute is when the plan is carried out."""
        key = (thing, name)
        return self._values[key] if key in self._values else getattr(thing, name)

    def set(self, thing: Any, name: str, value: Any) -> None:
        """Let an attribute have this value."""
        self._values[thing, name] = value

    def add(self, thing: Any, name: str, more: int) -> None:
        """Let a figure be larger by so much."""
        self._values[thing, name] = self.get(thing, name) + more

    def then(self, step: Callable[..., object], *args: Any) -> None:
        """Let a step be made behind them that may be made twice."""
        self._steps.append((step, args))

    def before(self) -> Plan:
        """The plan that undoes this one, which has not begun yet; its further steps stay."""
        plan = Plan()
        for thing, name in self._values:
            plan.set(thing, name, getattr(thing, name))
        return plan

    def carry_out(self) -> None:
        for (thing, name), value in self._values.items():
            setattr(thing, name, value)
        for step, args in self._steps:
            step(*args)


#: What a step comes to, or a function that makes a plan of it and of the journal, with its further arguments.
Intent: TypeAlias = "Plan | tuple[Any, ...] | None"


class Granted(Protocol):
    """What a step grants: undone, it has ended before anybody had it."""

    ended: bool


class Journal:
    """The step that a tree of trackers is in the midst of; whoever uses it has the lock of the tree."""

    __slots__ = ("hold", "intent", "level")

    def __init__(self) -> None:
        self.intent: Intent = None
        #: The level that the step changes: its first account, and what the figures of the level come to.
        self.level: tuple[Any, ...] | None = None
        #: The hold that the step grants.
        self.hold: Granted | None = None

    def carry_out(self, plan: Plan) -> None:
        """Make the changes of `plan`: all of them, in the end."""
        self.intent = plan
        plan.carry_out()
        self.intent = None

    def finish(self) -> None:
        """Complete or undo the step that was interrupted, if there is one."""
        intent = self.intent
        if isinstance(intent, tuple):
            plan_of, *details = intent
            self.intent = intent = plan_of(self, *details)
        if intent is not None:
            intent.carry_out()
            self.intent = None
        self.hold = None

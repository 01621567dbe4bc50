"""Exact books after an interruption: what is about to change is written down before it does.

Python may raise an exception between any two steps of an operation: Ctrl-C, a signal handler that raises, an exception
set from another thread, too deep a recursion, no memory left. It does so where a function begins, behind a call and at
a jump backwards; so two assignments that stand beside each other are both made or neither, and whatever calls or loops
may stop half-way. Blocking signals would not help: it is the program's own handler, in its own thread, that raises.
So an operation is a row of steps, and each step is made of three parts.

1. Compute everything that the step comes to, and change nothing.
2. Write it into the journal, by one assignment: the intent.
3. Make the changes, and clear the intent by one assignment.

An exception in the first part has changed nothing. One in the second or third leaves the intent, and the next operation
on the budget, of whatever thread, finds it: a figure that is looked at, the next call, the hold's own finalizer. It
completes the step, or undoes it, and only then does its own work. Repeating must not matter, since that operation can
be interrupted, too. So an intent holds what figures come to, not by how much they change; a line is added to the ledger
unless it is its last line; an entry of a table is set, not increased.

Which of the two: the end of a hold, a booking and whatever else was decided is completed, since it may be what an
answer has cost. A grant is undone, since its caller never got the hold. Two steps are made for every call and have an
intent of their own, because a `Plan` costs microseconds: `accounts.take` and `Books.end`. They change figures level by
level. Before each level its new figures go into `Journal.level`, as one tuple: levels above that one are as they were,
levels below it are done, and of the level itself the tuple is the truth. All other steps are plans.

`Gate._inside` says that an operation has begun and not ended. Whoever takes the lock and finds it set knows that the
one before was interrupted: it looks at the journal, puts the line of those who wait in order from the waiters
themselves (what was set last on a waiter counts; groups and heaps are made anew), and looks who fits. The same thread
that finds it set while it has the lock itself is in the midst of an operation: a signal handler, or a finalizer that
runs now. It must not see books that are half changed, so what ends is left to the next operation, and what asks for
budget or books is refused.

Nothing may be lost on the way to the lock, either. A hold that nobody has any more is appended to `holds.lost` by code
in C, which no exception can interrupt; a finalizer in Python could be stopped before its first line. A waiter that
leaves is appended to the notes before anything else. Notes, callbacks and those that are to be woken stay in their
queues until they are done; so after an interruption a callback may get an entry again, but never misses one.

A budget in a store has a journal that is better: its transaction. What was interrupted before the commit is rolled
back, what was interrupted behind it is completed, and what this process knows is read anew (`stores/transaction.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from llm_connect.core.holds import Hold


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


class Journal:
    """The step that a tree of trackers is in the midst of; whoever uses it has the lock of the tree."""

    __slots__ = ("hold", "intent", "level")

    def __init__(self) -> None:
        self.intent: Intent = None
        #: The level that the step changes: its first account, and what the figures of the level come to.
        self.level: tuple[Any, ...] | None = None
        #: The hold that the step grants.
        self.hold: Hold | None = None

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

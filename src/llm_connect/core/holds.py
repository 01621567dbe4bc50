"""A hold: budget set aside for one attempt until its outcome is known."""

from __future__ import annotations

import asyncio
import threading
import time
import weakref
from contextvars import ContextVar
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias

from llm_connect.core.demand import CallFacts
from llm_connect.core.exceptions import LLMConfigurationError
from llm_connect.core.limits import checked_figures
from llm_connect.core.units import NOTHING, Amount
from llm_connect.core.usage import Usage

if TYPE_CHECKING:
    from llm_connect.core.budget import BudgetTracker
    from llm_connect.core.ledger import LedgerEntry, Outcome

State: TypeAlias = Literal["reserved", "dispatched", "ended"]

#: A caller, and the holds that it has taken itself and that may still be open; weak, so that a lost one is noticed.
_own_holds: ContextVar[tuple[int, tuple[weakref.ref[Hold], ...]]] = ContextVar("llm_connect_own_holds", default=(0, ()))


class Hold:
    """Budget set aside for one call, on a tracker and all its ancestors; made by `BudgetTracker.reserve`.

        with tracker.reserve(1_500) as hold:
            hold.dispatch()
            reply = client.responses.create(model=model, input=text, max_output_tokens=1_000)
            hold.settle(reply.usage.total_tokens)

    Call `dispatch` just before the first byte of the request leaves. A hold ends once: by `settle` with what the call
    really used, by `release` when nothing was sent or the provider charges nothing, or by `presume`, which books
    all of it because the outcome is not known. Ending it again changes nothing. Leaving the `with` block without
    an end releases what was not dispatched and presumes what was; so does losing the last reference to it.
    """

    __slots__ = ("__weakref__", "_facts", "_reserved_at", "bound", "entry", "max_tokens", "state", "tracker")

    def __init__(self, tracker: BudgetTracker, bound: Amount, max_tokens: int | None, facts: CallFacts) -> None:
        self.tracker: BudgetTracker = tracker
        #: What is held.
        self.bound: Amount = bound
        #: The output limit that the bound assumes, and that the request must carry; None when it assumes none.
        self.max_tokens: int | None = max_tokens
        self.state: State = "reserved"
        #: The line of the ledger, once the hold has ended.
        self.entry: LedgerEntry | None = None
        self._facts = facts
        self._reserved_at = time.time()

    @property
    def facts(self) -> CallFacts:
        return self._facts

    @property
    def booked(self) -> Amount:
        """What the hold came to; nothing before its end."""
        return NOTHING if self.entry is None else self.entry.amount

    @property
    def reserved_at(self) -> float:
        return self._reserved_at

    def dispatch(self) -> None:
        """Say that the request is about to be sent: from here on an unknown outcome counts as spent.

        Raises LLMConfigurationError when the hold has ended.
        """
        if not self.tracker.gate.dispatch(self):
            raise LLMConfigurationError("This hold has ended: reserve anew for another request.")

    def settle(
        self,
        tokens: int | None = None,
        *,
        calls: int | None = None,
        usd: Any = None,
        usage: Usage | None = None,
        cost_source: str | None = None,
        model: str | None = None,
    ) -> None:
        """Book what the call used and free the rest.

        tokens: input and output together; else those of `usage`; else what was held.
        usd: else what was held counts as spent, since the cost is not known.

        More than was held is booked in full. Raises LLMConfigurationError for figures that are none.
        """
        if tokens is None and usage is not None:
            tokens = usage.total_tokens
        actual = self.bound.but(*checked_figures(tokens, calls, usd))
        cost = None if usd is None else actual.usd
        self.tracker.gate.end(self, "settled", actual, usage=usage, cost=cost, cost_source=cost_source, model=model)

    def release(self) -> None:
        """Free all of it: nothing was sent, or the provider charges nothing for its reply."""
        self.tracker.gate.end(self, "released", NOTHING)

    def presume(self) -> None:
        """Book all of it, since the outcome is not known; `BudgetTracker.correct` amends it later."""
        self.tracker.gate.end(self, "presumed", self.bound)

    def end_unsettled(self) -> None:
        """Release what was not dispatched, presume what was; nothing when it has ended.

        With `BudgetTracker(on_unknown="release")`, what was dispatched is released as well.
        """
        if self.state != "ended":
            self.tracker.gate.end(self, *self._unsettled())

    def _unsettled(self) -> tuple[Outcome, Amount]:
        presumed = self.state == "dispatched" and self.tracker.gate.on_unknown == "presume"
        return ("presumed", self.bound) if presumed else ("released", NOTHING)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end_unsettled()

    def __del__(self) -> None:
        # A finalizer may run in a process that was forked, or while this thread has any lock: it only leaves a note.
        if self.state != "ended":
            self.tracker.gate.lose(self, *self._unsettled())

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __repr__(self) -> str:
        return f"<Hold {self.state} {self.bound} of {self.tracker.path!r}>"


def own_holds() -> tuple[Hold, ...]:
    """The open holds that this task, or this thread outside of a loop, has taken itself.

    A task that inherits the context of another one is not that caller: the other may end its hold meanwhile.
    """
    caller, holds = _own_holds.get()
    if caller != _caller():
        return ()
    return tuple(hold for ref in holds if (hold := ref()) is not None and hold.state != "ended")


def remember_own(hold: Hold) -> None:
    """Count `hold` among the caller's own."""
    _own_holds.set((_caller(), tuple(map(weakref.ref, (*own_holds(), hold)))))


def _caller() -> int:
    try:
        task = asyncio.current_task()
    except RuntimeError:
        task = None
    return threading.get_ident() if task is None else id(task)

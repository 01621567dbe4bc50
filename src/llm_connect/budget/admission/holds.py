"""A hold: budget set aside for one attempt until its outcome is known. And how a hold ends that nobody ends.

Nobody else can spend what an open hold keeps, so every hold must end, also when its owner forgets it: an exception
leaves the code between `reserve` and `settle`, a task is dropped with its event loop, a `return` skips the last line.
When the last reference to a hold goes, the library has to end it: release it if nothing was sent, presume it if
something was. Only a finalizer learns of this moment, and a finalizer is a hard place to write code.

- It runs between any two steps of any thread, also while that thread has the lock of the same tree and has changed
  half of its figures. The lock is reentrant, so a finalizer that took it would see those figures and book on them.
- It runs while its thread has any other lock, of the logging module or of a connection pool. If it waits for a lock
  whose owner waits for that thread, both wait for ever.
- It runs in a forked child, on a copy of the budget, and while the interpreter shuts down.
- It can be interrupted like any other Python code. If Ctrl-C arrives before the first line of a `__del__`, Python
  prints the exception, drops it, and never calls that `__del__` again. The hold would stay open for ever.
- `weakref.finalize` has the same problems, and costs each call an entry in a registry.

So the finalizer does one thing only: it leaves a note, and the next operation does the work.

1. `OpenHold.__del__` appends the hold to `lost`. It is the method `append` of a deque, inside an `lru_cache` of size
   zero. Such a cache stores nothing; it is there because it binds to its instance, as a method must and `append` does
   not. Both are code in C, so no signal handler runs before it is done, and it waits for no lock of ours. The hold is
   reachable again afterwards, which PEP 442 allows.
2. Every operation on a budget begins with a look at `lost` (`gather_lost`). It hands each hold to the gate of its own
   budget, as a note. The hold stays in `lost` until that note is written, and the note stays in `Gate.notes` until it
   is done. An interruption in between only repeats a step, and a hold that has ended ignores a second end.
3. An operation does all notes before its own work. So neither a figure that somebody reads nor a new call counts a lost
   hold. A caller that already waits learns of it by the next operation of any thread, or else when its wait is over:
   then it looks once more, and is let in if it fits.

A hold that is booked becomes a plain `Hold`, which has no finalizer, so the usual case pays nothing when it goes.

The same notes serve all that must not be lost on the way to the lock: `Hold.__exit__`, whose own code may be
interrupted, an end inside a signal handler, and a waiter that leaves (`acquire.py`). In a forked child nobody does the
notes on holds of its parent. A hold in a store has a finalizer in Python (`stores/holds.py`); if that is interrupted,
the hold ends with the lease of its process.

The documentation of `object.__del__` warns of the first two points: it can be invoked while any code runs, in any
thread, and may deadlock if it needs a lock.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol, Self, TypeAlias, TypeVar

from llm_connect._validation import checked_text, encodable
from llm_connect.budget.accounting.accounts import hopeless
from llm_connect.budget.accounting.arguments import check_usage, checked_figures
from llm_connect.budget.accounting.demands import CallFacts, Demand
from llm_connect.budget.accounting.ledger import LedgerEntry, Outcome
from llm_connect.budget.accounting.money import nano_usd_of
from llm_connect.budget.admission.log import IMPLAUSIBLE, OVERRUN, PRESUMED, Event, Owed, tell, tell_of_refusal
from llm_connect.budget.admission.refusals import refusal_of
from llm_connect.budget.admission.unbilled import not_billed
from llm_connect.errors import LLMError
from llm_connect.types.amounts import MOST, NOTHING, Amount, usd_of
from llm_connect.types.usage import Usage

if TYPE_CHECKING:
    from llm_connect.budget.accounting.prices import Price
    from llm_connect.budget.accounting.scope import Scope

T = TypeVar("T")
State: TypeAlias = Literal["reserved", "dispatched", "ended"]


class Ending(NamedTuple):
    """How a hold has ended: what is booked, and what is known of the call."""

    outcome: Outcome
    amount: Amount
    usage: Usage | None = None
    nano_usd: int | None = None
    cost_source: str | None = None
    model: str | None = None


#: Makes an `Ending` in half the time; every call makes one.
_tuple = tuple.__new__

RELEASED = Ending("released", NOTHING)
#: What stands for the ending of a hold that is open, or was given back without an entry.
NO_ENDING = RELEASED


class Worker(Protocol):
    """Does the operations of a gate that does I/O, so that no event loop is blocked by them."""

    async def run(self, operation: Callable[..., T], *args: Any) -> T:
        """What `operation` comes to, in order with all others. Cancelled, it is not begun, or its hold given back."""
        ...


class Keeper(Protocol):
    """Who keeps the budget of a hold, and decides what becomes of it: the part of a `BudgetGate` that it asks."""

    @property
    def worker(self) -> Worker | None: ...
    @property
    def hold_type(self) -> type[Hold]: ...
    @property
    def on_unknown(self) -> str: ...
    @property
    def owed(self) -> Owed:
        """What log handlers have raised to end the program; the next call raises it."""
        ...

    def dispatch(self, hold: Hold) -> bool: ...
    def end(self, hold: Hold, ending: Ending) -> None: ...
    def lose(self, hold: Hold, ending: Ending) -> None: ...
    def flush(self) -> None: ...


class Hold:
    """Budget set aside for one call, on a tracker and all its ancestors; made by `BudgetTracker.reserve`.

        with tracker.reserve(1_500) as hold:
            hold.dispatch()
            reply = client.responses.create(model=model, input=text, max_output_tokens=1_000)
            hold.settle(reply.usage.total_tokens)

    Call `dispatch` just before the first byte of the request leaves. A hold ends once: by `settle` with what the call
    really used, by `release` when nothing was sent or the provider charges nothing, or by `presume`, which books
    all of it because the outcome is not known. Ending it again changes nothing. Leaving the `with` block without
    an end releases what was not dispatched and presumes what was; so does losing the last reference to it. An exception
    of the SDK of openai, anthropic or google-genai which says that the one request of the hold is not billed (a reply
    of 3xx or 4xx, no connection) releases it; settle before you do anything else with that SDK.
    """

    __slots__ = (
        "__weakref__",
        "bound",
        "demand",
        "dispatched",
        "ended",
        "ended_at",
        "ending",
        "entry_id",
        "facts",
        "keeper",
        "max_tokens",
        "request_id",
        "reserved_at",
        "tracker",
    )

    def __init__(
        self,
        keeper: Keeper,
        tracker: Scope,
        bound: Amount,
        max_tokens: int | None,
        demand: Demand,
        facts: CallFacts,
    ) -> None:
        #: It decides what becomes of the hold.
        self.keeper: Keeper = keeper
        self.tracker: Scope = tracker
        #: What is held.
        self.bound: Amount = bound
        #: The output limit that the bound assumes, and that the request must carry; None when it assumes none.
        self.max_tokens: int | None = max_tokens
        self.dispatched: bool = False
        #: Until it is granted, it is as good as ended.
        self.ended: bool = True
        self.demand: Demand = demand
        self.facts: CallFacts = facts
        self.reserved_at: float = time.time()
        #: The id of its entry in the ledger, which says how and when it has ended; 0 while there is none.
        self.entry_id: int = 0
        self.ending: Ending = NO_ENDING
        self.ended_at: float = 0.0
        #: Under which the provider knows the request, as far as that is known.
        self.request_id: str | None = None

    @property
    def state(self) -> State:
        """Whether it is reserved, dispatched, or ended."""
        if self.ended:
            return "ended"
        return "dispatched" if self.dispatched else "reserved"

    @property
    def entry(self) -> LedgerEntry | None:
        """The line of the ledger, once the hold has ended."""
        if not self.entry_id:
            return None
        facts, ending = self.facts, self.ending
        return LedgerEntry(
            id=self.entry_id,
            tracker=self.tracker.path,
            outcome=ending.outcome,
            amount=ending.amount,
            bound=Amount(*self.bound),
            grade=facts.grade,
            adapter=facts.adapter,
            model=self.model,
            labels=facts.labels,
            usage=ending.usage,
            cost=None if ending.nano_usd is None else usd_of(ending.nano_usd),
            cost_source=ending.cost_source,
            request_id=self.request_id,
            reserved_at=self.reserved_at,
            ended_at=self.ended_at,
        )

    @property
    def amount(self) -> Amount:
        """What the hold came to; nothing before its end."""
        return self.ending.amount

    @property
    def model(self) -> str | None:
        """The model that has answered, else the one that was asked."""
        return self.ending.model or self.facts.model

    def dispatch(self) -> None:
        """Say that the request is about to be sent: from here on an unknown outcome counts as spent.

        Raises LLMConfigurationError when the hold has ended, and LLMBudgetExceededError when it was given back: by
        an overrun more is spent by now than a limit allows.
        """
        if not self.keeper.dispatch(self):
            raise self.given_back()

    def try_dispatch(self) -> bool:
        """Like `dispatch`; False when the hold was given back, and has to be reserved anew."""
        return self.keeper.dispatch(self)

    async def adispatch(self) -> None:
        """Like `dispatch`; of a budget in a store it is written without blocking the event loop."""
        if not await self.atry_dispatch():
            raise self.given_back()

    async def atry_dispatch(self) -> bool:
        """Like `try_dispatch`, for a coroutine."""
        worker = self.keeper.worker
        return self.try_dispatch() if worker is None else await worker.run(self.try_dispatch)

    def given_back(self) -> LLMError:
        """Why the hold was given back before it was dispatched."""
        path, needed = self.tracker.accounts, self.demand.smallest
        never = hopeless(path, needed)
        error = refusal_of(path, self.demand, self.facts, "refused" if never is None else "never_fits", never)
        tell_of_refusal(error, self.keeper.owed)
        return error

    def booked(self) -> None:
        """Return once its end is in the ledger: in a running event loop, a store's worker sees to that."""
        if self.keeper.worker is not None:
            self.keeper.flush()

    async def abooked(self) -> None:
        """Like `booked`, for a coroutine."""
        worker = self.keeper.worker
        if worker is not None:
            await worker.run(self.keeper.flush)

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
        usd: else what `price` makes of tokens and usage, for a reservation of your own that has one; else what was held
            counts as spent, since the cost is not known.

        More than was held is booked in full. Raises LLMConfigurationError for figures that are none, and for a model
        that is no text; any `cost_source` is kept as text.
        """
        if usage is not None:
            if self.facts.manual:
                check_usage(usage)
            tokens = usage.total_tokens if tokens is None else tokens
        # Almost always they are plain text, or not said.
        if cost_source is not None and not (type(cost_source) is str and cost_source.isascii()):
            cost_source = encodable(str(cost_source))
        if model is not None and not (type(model) is str and model.isascii()):
            model = checked_text("model", model)
        bound = self.bound
        if type(tokens) is int and tokens >= 0 and calls is usd is None:
            actual = _tuple(Amount, (tokens, bound[1], bound[2]))
        else:
            actual = bound.but(*checked_figures(tokens, calls, usd))
        nano_usd = None if usd is None else actual[2]
        price = self.facts.price
        if usd is None and price is not None and self.facts.manual and tokens is not None and max(actual) <= MOST:
            nano_usd, cost_source = _reckoned(price, actual, usage), price.source
            actual = actual.but(None, None, nano_usd)
        if max(actual) > MOST:
            # No store could count the sum of a few of them.
            figures = {"path": self.tracker.path, "provider": self.facts.adapter, "model": self.model}
            tell(IMPLAUSIBLE, self.keeper.owed, **figures, most=f"{MOST:,}")
            self.presume()
            return
        ending = _tuple(Ending, ("settled", actual, usage, nano_usd, cost_source, model))
        self.keeper.end(self, ending)
        if actual[0] > bound[0] or actual[2] > bound[2] > 0:
            tell_of_end(OVERRUN, self, ending)

    def release(self) -> None:
        """Free all of it: nothing was sent, or the provider charges nothing for its reply."""
        self.keeper.end(self, RELEASED)

    def presume(self) -> None:
        """Book all of it, since the outcome is not known; `BudgetTracker.correct` amends it later."""
        self._end(Ending("presumed", self.bound))

    def end_unsettled(self) -> None:
        """Release what was not dispatched, presume what was; nothing when it has ended.

        With `BudgetTracker(on_unknown="release")`, what was dispatched is released as well.
        """
        if not self.ended:
            self._end(self._unsettled())

    def _end(self, ending: Ending) -> None:
        self.keeper.end(self, ending)
        tell_of_end(PRESUMED, self, ending)

    def _unsettled(self) -> Ending:
        """How it ends when nobody says how."""
        presumed = self.dispatched and self.keeper.on_unknown == "presume"
        return Ending("presumed", self.bound) if presumed else RELEASED

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            # Of several requests only the last one is known to cost nothing.
            if not self.ended and self.bound[1] <= 1 and not_billed(error):
                self.release()
            self.end_unsettled()
        except BaseException:
            # Nobody may have it any more, nor let it go: the next operation ends it.
            lost.append(self)
            raise

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __reduce__(self) -> Any:
        """Raise TypeError, as its tracker does: in another process it would be a second budget."""
        return self.tracker.__reduce__()

    def __repr__(self) -> str:
        return f"<Hold {self.state} {self.bound} of {self.tracker.path!r}>"


def tell_of_end(event: Event, hold: Hold, ending: Ending) -> None:
    """Log that `ending` has ended `hold`, if it has, and books what the event is about."""
    if hold.ending is not ending or ending.outcome == "released":
        return
    tell(
        event,
        hold.keeper.owed,
        path=hold.tracker.path,
        provider=hold.facts.adapter,
        model=hold.model,
        entry=hold.entry_id or None,
        request_id=hold.request_id,
        tokens=ending.amount.tokens,
        usd=ending.amount.usd,
        held_tokens=hold.bound.tokens,
        held_usd=hold.bound.usd,
    )


def _reckoned(price: Price, actual: Amount, usage: Usage | None) -> int:
    """Nano-USD by the price: part by part where the usage says the parts, else at its dearest rate."""
    if usage is None or usage.estimated or usage.total_tokens > MOST:
        return price.dearest(actual.tokens, actual.calls)
    return nano_usd_of("cost", price.of(usage, actual.calls))


#: Holds that may be open and that nobody has any more; whichever operation comes next ends them.
lost: deque[Hold] = deque()


class OpenHold(Hold):
    """A hold in memory until its end, when it becomes a `Hold`.

    Its finalizer is a function in C, as exact books need (see `journal.py`): no exception keeps it from being called
    or done. It may run in a process that was forked, or while its thread has any lock; so it only leaves a note.
    """

    __slots__ = ()
    __del__: ClassVar[Callable[[Any], None]] = lru_cache(maxsize=0)(lost.append)


def gather_lost() -> None:
    """Hand the holds that are lost to their gates, whose next operation ends them."""
    while lost:
        with suppress(IndexError, ValueError):
            # Another thread may do the same. Noted twice, it ends once.
            hold = lost[0]
            # One that was interrupted while it was made has nothing yet.
            if not getattr(hold, "ended", True):
                hold.keeper.lose(hold, hold._unsettled())
            lost.remove(hold)

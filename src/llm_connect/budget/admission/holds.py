"""Holds: budget that is reserved for one attempt until its outcome is known, and the end of holds that are lost.

No other call can spend an open hold, so every hold must end, even when its owner forgets it: an exception leaves the
code between `reserve` and `settle`, a task is dropped with its event loop, a `return` skips the last line. When the
last reference to a hold goes, the library has to end it: release it if nothing was sent, presume it if something was.
Only a finalizer learns of this moment, and a finalizer is a hard place to write code.

- It runs between any two steps of any thread, even while that thread has the lock of the same tree and has changed
  half of its figures. The lock is reentrant, so a finalizer that took it would see those figures and book on them.
- It runs while its thread has any other lock, of the logging module or of a connection pool. If it waits for a lock
  whose owner waits for that thread, they deadlock.
- It runs in a forked child, on a copy of the budget, and while the interpreter shuts down.
- It can be interrupted like any other Python code. If Ctrl-C arrives before the first line of a `__del__`, Python
  prints the exception, drops it, and never calls that `__del__` again. The hold would stay open for ever.
- `weakref.finalize` has the same problems, and costs each call an entry in a registry.

So the finalizer only leaves a note, and the next operation does the work.

1. `OpenHold.__del__` appends the hold to `lost`. It is the method `append` of a deque, inside an `lru_cache` of size
   zero. Such a cache stores nothing; it is there because it binds to its instance, as a method must and `append` does
   not. Both are code in C, so no signal handler runs before it is done, and it waits for no lock of ours. The hold is
   reachable again afterwards, which PEP 442 allows.
2. Every operation on a budget begins with `gather_lost`, which hands each lost hold to the gate of its own budget, as a
   note. The hold stays in `lost` until that note is written, and the note stays in `Gate.notes` until it is done. An
   interruption in between only repeats a step, and a hold that has ended ignores a second end.
3. An operation does all notes before its own work. So neither a figure that somebody reads nor a new call counts a lost
   hold. A caller that already waits profits from the next operation of any thread. If there is none, it checks once
   more at the end of its wait, and is admitted if it fits.

A hold that is booked becomes a plain `Hold`, which has no finalizer, so the usual case pays nothing when it goes.

The same notes protect everything else that must reach the lock: `Hold.__exit__`, whose own code may be interrupted, an
end inside a signal handler, and a waiter that leaves (`acquire.py`). A forked child never does the notes about its
parent's holds. A hold in a store has the same finalizer until a step has written its end. Other processes may wait for
its budget, so the worker of its session also looks for lost holds, once a second.

The documentation of `object.__del__` warns of the first two points: it can be invoked while any code runs, in any
thread, and may deadlock if it needs a lock.
"""

from __future__ import annotations

import asyncio
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from functools import lru_cache, partial, reduce
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol, Self, TypeAlias, TypeVar

from llm_connect._validation import checked_text, encodable
from llm_connect.budget.accounting import accounts
from llm_connect.budget.accounting.accounts import hopeless
from llm_connect.budget.accounting.bounds import BoundDemand, CallFacts, Demand, Grade, LearnedFactor
from llm_connect.budget.accounting.journal import Plan
from llm_connect.budget.accounting.ledger import LedgerEntry, Outcome
from llm_connect.budget.accounting.prices import charge_of
from llm_connect.budget.admission.arguments import check_usage, checked_figures
from llm_connect.budget.admission.log import IMPLAUSIBLE, Owed, log_event, observers, tell, tell_of_refusal
from llm_connect.budget.admission.refusals import refusal_of
from llm_connect.budget.admission.unbilled import not_billed
from llm_connect.errors import BudgetReason, LLMError
from llm_connect.types.amounts import MOST, NOTHING, Amount, usd_of
from llm_connect.types.usage import Usage

if TYPE_CHECKING:
    from llm_connect.budget.accounting.accounts import Scope

T = TypeVar("T")
State: TypeAlias = Literal["reserved", "dispatched", "ended"]


class Ending(NamedTuple):
    """The end of a hold: the amount to book, and the known facts about the call."""

    outcome: Outcome
    amount: Amount
    usage: Usage | None = None
    nano_usd: int | None = None
    cost_source: str | None = None
    model: str | None = None


#: Makes an `Ending` in half the time; every call makes one.
_tuple = tuple.__new__

RELEASED = Ending("released", NOTHING)
#: The `ending` of a hold that is open, or was given back without an entry.
NO_ENDING = Ending("released", NOTHING)


class Worker(Protocol):
    """Runs the operations of a gate that does I/O, so that they block no event loop."""

    async def run(self, operation: Callable[..., T], *args: Any) -> T:
        """Run `operation`, in order with all others. If cancelled, it does not start, or its hold is given back."""
        ...


class Keeper(Protocol):
    """The part of a `Gate` that a hold uses: it decides about dispatch and end."""

    @property
    def worker(self) -> Worker | None: ...
    @property
    def hold_type(self) -> type[Hold]: ...
    @property
    def on_unknown(self) -> str: ...
    @property
    def owed(self) -> Owed:
        """SystemExit and KeyboardInterrupt exceptions of log handlers, which the next call raises."""
        ...

    def dispatch(self, hold: Hold) -> bool: ...
    def end(self, hold: Hold, ending: Ending) -> None: ...
    def lose(self, hold: Hold, ending: Ending) -> None: ...
    def flush(self) -> None: ...


class Hold:
    """Budget reserved for one call, on a tracker and all above it; made by `BudgetTracker.reserve`.

        with tracker.reserve(1_500) as hold:
            hold.dispatch()
            reply = client.responses.create(model=model, input=text, max_output_tokens=1_000)
            hold.settle(reply.usage.total_tokens)

    Call `dispatch` just before the first byte of the request leaves. Then end the hold: with `settle` and the actual
    usage, with `release` if nothing was sent or the provider charges nothing, or with `presume`, which books the whole
    bound, if the outcome is unknown.

    Guaranteed: a hold ends exactly once, and ending it again changes nothing. If the `with` block or the last reference
    ends without an end of the hold, a dispatched hold is presumed and any other is released. If an exception of the SDK
    of openai, anthropic or google-genai leaves the block and proves that the one request of the hold is not billed (a
    reply of 3xx or 4xx, or no connection), the hold is released.

    Not guaranteed: which request such an exception is about. Settle before you do anything else with that SDK.
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
        #: The gate that decides about the hold.
        self.keeper: Keeper = keeper
        self.tracker: Scope = tracker
        #: The amount that is held.
        self.bound: Amount = bound
        #: The output limit that the bound assumes and the request must carry, in tokens; None if it assumes none.
        self.max_tokens: int | None = max_tokens
        self.dispatched: bool = False
        #: True until the hold is granted, and again after its end.
        self.ended: bool = True
        self.demand: Demand = demand
        self.facts: CallFacts = facts
        self.reserved_at: float = time.time()
        #: The id of its ledger entry; 0 before its end, and for a hold that was given back without an entry.
        self.entry_id: int = 0
        self.ending: Ending = NO_ENDING
        self.ended_at: float = 0.0
        #: The provider's id of the request; None if unknown.
        self.request_id: str | None = None

    @property
    def state(self) -> State:
        """The state of the hold: "reserved", "dispatched" or "ended"."""
        if self.ended:
            return "ended"
        return "dispatched" if self.dispatched else "reserved"

    @property
    def entry(self) -> LedgerEntry | None:
        """The ledger entry of the hold; None before its end."""
        if not self.entry_id:
            return None
        facts, ending = self.facts, self.ending
        return LedgerEntry(
            id=self.entry_id,
            tracker=self.tracker.path,
            outcome=ending.outcome,
            amount=ending.amount,
            bound=Amount(*self.bound),
            grade=self.grade,
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
        """The amount that its end has booked; 0 before its end."""
        return self.ending.amount

    @property
    def model(self) -> str | None:
        """The model that answered, or else the model that was requested."""
        return self.ending.model or self.facts.model

    @property
    def unlimited(self) -> bool:
        """True if the request carries no output limit, because no limit applied when the hold was granted."""
        return self.max_tokens is None and isinstance(self.demand, BoundDemand)

    @property
    def grade(self) -> Grade:
        """The reliability of the bound."""
        return "unbounded" if self.unlimited else self.facts.grade

    def dispatch(self) -> None:
        """Mark the request as about to be sent: from now on an unknown outcome counts as spent.

        Raises LLMConfigurationError if the hold has ended, and LLMBudgetExceededError if it no longer fits, because of
        an overrun or a lower limit in the meantime; then the hold is released.
        """
        if not self.keeper.dispatch(self):
            raise self.given_back()
        if observers:
            tell_of_hold("dispatch", self)

    def try_dispatch(self) -> bool:
        """Like `dispatch`, but returns False if the hold no longer fits; then the caller must reserve again."""
        dispatched = self.keeper.dispatch(self)
        if observers and dispatched:
            tell_of_hold("dispatch", self)
        return dispatched

    async def adispatch(self) -> None:
        """Like `dispatch`, for a coroutine: writing to a store does not block the event loop."""
        if not await self.atry_dispatch():
            raise self.given_back()

    async def atry_dispatch(self) -> bool:
        """Like `try_dispatch`, for a coroutine."""
        worker = self.keeper.worker
        if worker is None:
            return self.try_dispatch()
        dispatched = await worker.run(self.keeper.dispatch, self)
        if observers and dispatched:
            tell_of_hold("dispatch", self)
        return dispatched

    def given_back(self) -> LLMError:
        """The error for a hold that was released because it no longer fits."""
        path = self.tracker.accounts
        reason: BudgetReason = "refused" if hopeless(path, self.demand.smallest) is None else "never_fits"
        error = refusal_of(path, self.demand, self.facts, reason)
        tell_of_refusal(error, self.keeper.owed)
        return error

    def booked(self) -> None:
        """Wait until the end of the hold is in the ledger; in a running event loop the store's worker books it."""
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
        """Book the actual usage of the call, and free the rest of the hold.

            hold.settle(usage=Usage(prompt_tokens=900, completion_tokens=240), model="gpt-4.1-mini")

        tokens: input and output together; by default the total of `usage`, or else the tokens that were held.
        calls: the number of requests; by default the calls that were held.
        usd: the cost. By default a reservation by a user that has a price computes it from tokens and usage; for any
            other hold the cost is unknown, and the USD that were held count as spent.
        cost_source: the origin of `usd`, kept as text. model: the model that answered.

        Overruns are booked in full. A figure above 10^15 tokens, or a million USD, is not plausible: then the bound is
        presumed.

        Raises LLMConfigurationError for an invalid figure, and for a model that is not text.
        """
        if usage is not None:
            if self.facts.asker == "reservation":
                check_usage(usage)
            tokens = usage.prompt_tokens + usage.completion_tokens if tokens is None else tokens
        # In almost every call they are ASCII text or None.
        if cost_source is not None and not (type(cost_source) is str and cost_source.isascii()):
            cost_source = encodable(str(cost_source))
        if model is not None and not (type(model) is str and model.isascii()):
            model = checked_text("model", model)
        bound, facts = self.bound, self.facts
        price = facts.price if facts.asker == "reservation" else None
        held_tokens, held_calls, held_usd = bound
        if calls is None and usd is None and price is None and type(tokens) is int and 0 <= tokens <= MOST:
            actual, nano_usd, over = _tuple(Amount, (tokens, held_calls, held_usd)), None, tokens > held_tokens
        else:
            actual = bound.but(*checked_figures(tokens, calls, usd))
            nano_usd = None if usd is None else actual[2]
            if usd is None and price is not None and tokens is not None and max(actual) <= MOST:
                nano_usd, cost_source = charge_of(price, actual, usage), price.source
                actual = actual.but(None, None, nano_usd)
            if max(actual) > MOST:
                self._disbelieve()
                return
            over = _is_over(bound, actual)
        ending = _tuple(Ending, ("settled", actual, usage, nano_usd, cost_source, model))
        self.keeper.end(self, ending)
        if observers or over:
            tell_of_settlement(self, ending)

    def _disbelieve(self) -> None:
        """Presume the hold instead of booking a figure that is too large. A store could not add up several of them."""
        figures = {"path": self.tracker.path, "provider": self.facts.adapter, "model": self.model}
        log_event(IMPLAUSIBLE, self.keeper.owed, **figures, most=f"{MOST:,}")
        self.presume()

    def release(self) -> None:
        """Free the whole hold and book nothing: nothing was sent, or the provider charges nothing."""
        self._end(RELEASED)

    def presume(self) -> None:
        """Book the whole bound, because the outcome is unknown; `BudgetTracker.correct` can amend that later."""
        self._end(Ending("presumed", self.bound))

    def end_unsettled(self) -> None:
        """End an open hold: presume it if it was dispatched, else release it. A no-op if it has ended.

        `BudgetTracker(on_unknown="release")` releases a dispatched hold as well.
        """
        if not self.ended:
            self._end(self._unsettled())

    def _end(self, ending: Ending) -> None:
        was_open = self.ending is NO_ENDING
        self.keeper.end(self, ending)
        if was_open and (observers or ending is not RELEASED):
            tell_of_end("settle" if ending is RELEASED else "presume", self, ending)

    def _unsettled(self) -> Ending:
        """The ending of a hold that its owner has not ended."""
        presumed = self.dispatched and self.keeper.on_unknown == "presume"
        return Ending("presumed", self.bound) if presumed else RELEASED

    if TYPE_CHECKING:

        def __enter__(self) -> Self: ...

    else:
        #: Returns the hold, which is what `reduce` starts with. It is code in C, so nothing interrupts the step from
        #: `reserve` into the block, and no frame of it keeps the hold.
        __enter__ = lru_cache(maxsize=0)(partial(reduce, None, ()))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            # An exception proves nothing about earlier requests of the same hold.
            if not self.ended and self.bound[1] <= 1 and not_billed(error):
                self.release()
            self.end_unsettled()
        except BaseException:
            # The hold may be unreachable, or never be collected: the next operation ends it.
            lost.append(self)
            raise

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __reduce__(self) -> Any:
        """Raise TypeError, like its tracker: in another process the hold would be a second budget."""
        return self.tracker.__reduce__()

    def __repr__(self) -> str:
        return f"<Hold {self.state} {self.bound} of {self.tracker.path!r}>"


def tell_of_settlement(hold: Hold, ending: Ending) -> None:
    """Tell that `ending` has settled `hold`, and whether that is an overrun."""
    if observers:
        tell_of_end("settle", hold, ending)
    if _is_over(hold.bound, ending.amount):
        tell_of_end("overrun", hold, ending)


def _is_over(bound: Amount, actual: Amount) -> bool:
    """True if a call has used more than its hold; USD count only where they were held."""
    return actual[0] > bound[0] or actual[2] > bound[2] > 0


def tell_of_end(name: str, hold: Hold, ending: Ending) -> None:
    """Tell that `ending` has ended `hold`, if it has."""
    if hold.ending is ending:
        outcome = None if ending.outcome == "presumed" else ending.outcome
        held = {"held_tokens": hold.bound.tokens, "held_usd": hold.bound.usd}
        tell_of_hold(name, hold, ending.amount, outcome=outcome, entry=hold.entry_id or None, **held)


def tell_of_hold(name: str, hold: Hold, amount: Amount | None = None, **fields: Any) -> None:
    """Tell of an event of `hold`, with its bound or another amount."""
    amount = hold.bound if amount is None else amount
    tell(
        name,
        hold.keeper.owed,
        path=hold.tracker.path,
        provider=hold.facts.adapter,
        model=hold.model,
        labels=hold.facts.labels,
        request_id=hold.request_id,
        tokens=amount.tokens,
        usd=amount.usd,
        **fields,
    )


#: Holds that may be open although no code refers to them any more; the next operation ends them.
lost: deque[Hold] = deque()


class OpenHold(Hold):
    """An open hold in memory; at its end it becomes a `Hold`.

    Its finalizer is a function in C, so no exception can keep it from running or completing. It may run in a forked
    process, or while its thread has any lock, so it only leaves a note.
    """

    __slots__ = ()
    __del__: ClassVar[Callable[[Any], None]] = lru_cache(maxsize=0)(lost.append)


def gather_lost() -> None:
    """Hand the lost holds to their gates, whose next operation ends them."""
    while lost:
        with suppress(IndexError, ValueError):
            # Another thread may do the same; two notes end a hold once.
            hold = lost[0]
            # If its constructor was interrupted, it has no attributes yet.
            if not getattr(hold, "ended", True):
                hold.keeper.lose(hold, hold._unsettled())
            lost.remove(hold)


def grant(keeper: Keeper, tracker: Scope, demand: Demand, facts: CallFacts) -> Hold | None:
    """A hold for the largest amount of `demand` that fits at present; None if the smallest does not fit."""
    taken = demand.take(tracker.accounts)
    if taken is None:
        return None
    amount, max_tokens = taken
    hold = keeper.hold_type(keeper, tracker, amount, max_tokens, demand, facts)
    journal = tracker.accounts.journal
    # The hold is open from here on. An operation that finds the intent undoes that.
    journal.hold = hold
    hold.ended = False
    journal.intent = None
    journal.hold = None
    return hold


def give_back(hold: Hold) -> bool:
    """Free a hold without a ledger entry; False if it has already ended."""
    if hold.ended:
        return False
    plan, path = Plan(), hold.tracker.accounts
    plan.set(hold, "ended", True)
    accounts.change(plan, path, NOTHING.minus(hold.bound), NOTHING)
    path.journal.carry_out(plan)
    return True


def grow(hold: Hold, factor: LearnedFactor) -> bool:
    """Grow a hold to the bound of its call under `factor`; False if that does not fit at present."""
    lacking = hold.demand.raised(factor).at(hold.max_tokens).minus(hold.bound)
    more = lacking.but(*(max(0, figure) for figure in lacking))
    path = hold.tracker.accounts
    if not accounts.fits(path, more):
        return False
    plan = Plan()
    plan.set(hold, "bound", hold.bound.plus(more))
    accounts.change(plan, path, more, NOTHING)
    path.journal.carry_out(plan)
    return True


#: Above this number of holds, ended ones are removed: in batches, because one removal costs as much as one hold.
_FEW = 32
_running_loop = asyncio._get_running_loop


# The open holds of the current task or thread: a caller may overtake waiters that its own holds block, and the error
# after a wait for its own holds says so.


class _Caller:
    """An identity for one thread: unlike the id of a thread, it is never reused."""

    __slots__ = ("__weakref__",)


class _Here(threading.local):
    def __init__(self) -> None:
        self.caller = _Caller()


_here = _Here()


class _Own:
    """The holds of one caller that may still be open; the references are weak, so that a lost hold is noticed."""

    __slots__ = ("caller", "most", "refs")

    def __init__(self, caller: object) -> None:
        #: The task, or the `_Caller` of the thread; weak, because their contexts refer to this object.
        self.caller = weakref.ref(caller)
        self.refs: list[weakref.ref[Hold]] = []
        self.most = _FEW

    def forget_ended(self) -> list[weakref.ref[Hold]]:
        self.refs = [ref for ref in self.refs if (hold := ref()) is not None and not hold.ended]
        self.most = max(_FEW, 2 * len(self.refs))
        return self.refs


_own: ContextVar[_Own | None] = ContextVar("llm_connect_own_holds", default=None)


def own_holds() -> tuple[Hold, ...]:
    """The open holds that this task, or this thread outside of a loop, has reserved itself.

    A task inherits the context of the task that started it, but not its holds: the other task may end them meanwhile.
    """
    own = _own.get()
    if own is None or own.caller() is not _caller():
        return ()
    return tuple(hold for ref in own.refs if (hold := ref()) is not None and not hold.ended)


def remember_own(hold: Hold) -> None:
    """Add `hold` to the holds of the current task or thread."""
    own = _own.get()
    caller = _here.caller if _running_loop() is None else _caller()
    if own is None or own.caller() is not caller:
        own = _Own(caller)
        _own.set(own)
    refs = own.refs
    if len(refs) >= own.most:
        refs = own.forget_ended()
    refs.append(weakref.ref(hold))


def in_running_loop() -> bool:
    """True if this thread runs an event loop, which must not be blocked."""
    return _running_loop() is not None


def _caller() -> object:
    if _running_loop() is None:
        return _here.caller
    return asyncio.current_task() or _here.caller

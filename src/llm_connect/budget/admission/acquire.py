"""Reserving: from the arguments of a reservation to its demand, and from a demand to a hold.

A flow does the second part: it tries to reserve; if that fails, it joins the queue, waits, and takes the grant.
"""

from __future__ import annotations

import asyncio
import math
import queue
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias, get_args

from llm_connect._flows import Flow
from llm_connect._validation import check_count, check_labels, check_line
from llm_connect.budget.accounting.accounts import limits_usd
from llm_connect.budget.accounting.arguments import checked_usd
from llm_connect.budget.accounting.bounds import Bound, BoundDemand, CallFacts, Demand, Grade, ManualDemand, PlainDemand
from llm_connect.budget.accounting.prices import Price
from llm_connect.budget.admission.children import limits_of
from llm_connect.budget.admission.controller import Gate
from llm_connect.budget.admission.holds import Hold, Keeper, tell_of_hold
from llm_connect.budget.admission.log import LONG_SECONDS, observers, tell, tell_of_refusal
from llm_connect.budget.admission.refusals import refuse_unpriced, refuse_unproven
from llm_connect.budget.admission.wait_queue import Waiter
from llm_connect.errors import LLMBudgetExceededError, LLMConfigurationError, LLMError
from llm_connect.types.amounts import MOST, NANO

if TYPE_CHECKING:
    from llm_connect.budget.accounting.accounts import Scope
    from llm_connect.budget.admission.figures import BudgetFigures

#: Returns the list price of a model, given the name of its adapter (None: not given) and its own name.
PriceList: TypeAlias = Callable[[str | None, str], Price | None]
#: The price lists in use; the engine adds them, because the budget must not import them.
price_lists: list[PriceList] = []

#: The facts of a plain number of tokens, which is an estimate.
_PLAIN = CallFacts(grade="estimated", asker="reservation")
#: The facts of an amount without any metadata.
_BOOKING = CallFacts(asker="booking")
#: The default number of calls. Identity excludes True and 1.0, in one step; other numbers take the usual way.
_ONE = 1
_ALLOTMENT = CallFacts(asker="allotment")
_tuple = tuple.__new__


def asked(
    tracker: Scope,
    tokens: int,
    bound: Bound | None,
    price: Price | None,
    calls: int,
    usd: Any,
    clamp_floor: int | None,
    adapter: str | None,
    model: str | None,
    grade: Grade | None,
    labels: Mapping[str, str] | None,
) -> tuple[Demand, CallFacts]:
    """The demand of a reservation, and its metadata for the ledger.

    Raises LLMConfigurationError for invalid arguments, and LLMBudgetExceededError if a price or a proof is missing.
    """
    if (
        bound is None
        and price is None
        and usd is None
        and adapter is None
        and model is None
        and grade is None
        and labels is None
        and clamp_floor is None
        and calls is _ONE
        and type(tokens) is int
        and 0 <= tokens <= MOST
        and not (tracker.strict or limits_usd(tracker.accounts))
    ):
        return _tuple(PlainDemand, (tokens, 1, 0)), _PLAIN
    check_count("tokens", tokens, least=0, most=MOST)
    check_count("calls", calls, least=0, most=MOST)
    check_count("clamp_floor", clamp_floor, least=1, optional=True)
    named = _checked_labels(adapter, model, labels)
    _check_terms(price, grade, bound, clamp_floor, alone=(tokens, calls, usd, grade) == (0, 1, None, None))
    facts = CallFacts(
        adapter=adapter,
        model=model,
        labels=named,
        grade=bound.grade if bound else grade or "estimated",
        price=price if price is not None or usd is not None else _known_price(tracker, adapter, model),
        asker="reservation",
    )
    if tracker.strict and facts.grade != "proven":
        refuse_unproven(tracker.accounts, facts)
    if usd is None and facts.price is None:
        refuse_unpriced(tracker.accounts, facts)
    if bound is None:
        return ManualDemand(tokens, calls, None if usd is None else checked_usd("usd", usd), facts.price), facts
    most = bound.max_tokens
    least = most if clamp_floor is None else min(max(clamp_floor, bound.least_max_tokens), most)
    return BoundDemand(bound, least, facts.price), facts


def checked_amount(
    tokens: object, calls: object, usd: object, adapter: str | None, model: str | None, labels: Any
) -> tuple[PlainDemand, CallFacts]:
    """Validate an amount that a user books or consumes. Raises LLMConfigurationError for an invalid one."""
    if not (type(tokens) is int and type(calls) is int and 0 <= tokens <= MOST and 0 <= calls <= MOST):
        check_count("tokens", tokens, least=0, most=MOST)
        check_count("calls", calls, least=0, most=MOST)
    nano_usd = usd * NANO if type(usd) is int and 0 <= usd <= MOST // NANO else checked_usd("usd", usd)
    demand: PlainDemand = _tuple(PlainDemand, (tokens, calls, nano_usd))
    if adapter is model is labels is None:
        return demand, _BOOKING
    named = _checked_labels(adapter, model, labels)
    return demand, CallFacts(adapter=adapter, model=model, labels=named, asker="booking")


def _checked_labels(adapter: str | None, model: str | None, labels: Mapping[str, str] | None) -> dict[str, str]:
    """Validate the names of a booking for the ledger, and return its labels."""
    check_line("adapter", adapter)
    check_line("model", model)
    if labels is None:
        return {}
    check_labels(labels)
    return dict(labels)


def _known_price(tracker: Scope, adapter: str | None, model: str | None) -> Price | None:
    """The price that the budget declares; else, under a limit in USD, the list price."""
    if model is None:
        return None
    declared = tracker.prices.get(model)
    if declared is not None or not limits_usd(tracker.accounts):
        return declared
    return next((price for known in price_lists if (price := known(adapter, model)) is not None), None)


def _check_terms(price: object, grade: object, bound: object, clamp_floor: object, *, alone: bool) -> None:
    """Validate the terms of a reservation; `alone` is True if nothing is given that a bound already has."""
    if price is not None and not isinstance(price, Price):
        raise LLMConfigurationError(f"price must be a Price, not {type(price).__name__}.")
    if grade not in (None, *get_args(Grade)):
        raise LLMConfigurationError(f"grade must be 'proven', 'estimated' or 'unbounded', not {grade!r}.")
    if bound is None:
        if clamp_floor is not None:
            raise LLMConfigurationError("clamp_floor needs a bound: pass bound=, whose max_tokens may shrink.")
    elif not isinstance(bound, Bound):
        raise LLMConfigurationError(f"bound must be a Bound, not {type(bound).__name__}.")
    elif not alone:
        raise LLMConfigurationError("bound already has tokens, calls and a grade: leave these out, and usd as well.")


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


class ThreadWaiter(Waiter):
    """A caller that blocks its thread."""

    def __init__(self, *call: Any, **details: Any) -> None:
        super().__init__(*call, **details)
        # Unlike Event, SimpleQueue is reentrant: a finalizer in this thread may wake it mid-wait.
        self._woken: queue.SimpleQueue[None] = queue.SimpleQueue()

    @property
    def may_wait(self) -> bool:
        """False in a thread with a running event loop: a wait would block the calls that free budget."""
        return not in_running_loop()

    def wait(self, seconds: float) -> None:
        with suppress(queue.Empty):
            self._woken.get(timeout=max(0.0, min(seconds, threading.TIMEOUT_MAX)))

    def wake(self) -> None:
        self._woken.put(None)


class LoopWaiter(Waiter):
    """A caller that awaits in a task of the running loop, without a thread."""

    may_wait = True

    def __init__(self, *call: Any, **details: Any) -> None:
        super().__init__(*call, **details)
        self._loop = asyncio.get_running_loop()
        self._woken: asyncio.Future[None] | None = None

    async def await_it(self, seconds: float) -> None:
        # A decision in another thread after the caller's last look cannot wake it earlier than this: that takes a step
        # of the loop.
        self._woken = self._loop.create_future()
        timer = self._loop.call_later(seconds, self._resolve)
        try:
            await self._woken
        finally:
            timer.cancel()

    def wake(self) -> None:
        self._loop.call_soon_threadsafe(self._resolve)

    def _resolve(self) -> None:
        if self._woken is not None and not self._woken.done():
            self._woken.set_result(None)


CallerWaiter: TypeAlias = ThreadWaiter | LoopWaiter


def _nothing() -> None:
    """The default of `before_waiting`."""


def acquire(
    tracker: BudgetFigures,
    demand: Demand,
    facts: CallFacts,
    *,
    deadline: float,
    arrival: int | None = None,
    replaces: Hold | None = None,
    before_waiting: Callable[[], None] = _nothing,
    tried: bool = False,
) -> Flow[Hold]:
    """Return a hold for `demand`; wait for it until `deadline` on the monotonic clock.

    arrival: the arrival number of the call; None takes a new one. replaces: a hold that is given back when the new one
    is granted, or before the wait. before_waiting: called before a wait. A cancelled wait leaves nothing held. tried:
    True if `Gate.admit` has just not let it in.

    Raises LLMBudgetExceededError; in a thread with a running event loop at once, because waiting would block the calls
    that free budget.
    """
    gate = tracker.gate
    hold: Hold | None
    if not tried:
        gate.raise_owed()
        if observers:
            tell("reserve", gate.owed, **_facts_of(tracker, demand, facts))
        if gate.worker is None:
            hold = gate.admit(tracker, demand, facts, replaces)
        else:
            hold = yield Operation(gate, gate.ask, tracker, demand, facts, replaces)
        if hold is not None:
            if observers:
                tell_of_hold("grant", hold, seconds=0.0)
            return hold
    leave = gate.notes.append
    number = gate.arrive() if arrival is None else arrival
    details = {"arrival": number, "deadline": deadline, "own": own_holds()}
    waiter: CallerWaiter = yield MakeWaiter((tracker, demand, facts), details)
    began = time.monotonic()
    try:
        may_wait = waiter.may_wait and began < deadline
        yield Operation(gate, partial(gate.queue, waiter, may_wait=may_wait))
        # Looked at here and not in the operation: a store's worker may have decided since, before there was a future.
        if waiter.waiting:
            before_waiting()
            if observers:
                tell("wait", gate.owed, **_facts_of(tracker, demand, facts))
        while waiter.waiting and time.monotonic() < waiter.deadline:
            yield Wait(gate, waiter)
        # A store may be busy for longer than a grant waits to be taken.
        waiter.came = True
        hold = yield Operation(gate, gate.take, waiter)
    except BaseException:
        # A function in C appends the note first: no later exception can lose the fact that the waiter leaves.
        leave(waiter)
        gate.work_off()
        raise
    if hold is None:
        assert waiter.error is not None
        if isinstance(waiter.error, LLMBudgetExceededError):
            tell_of_refusal(waiter.error, gate.owed)
        raise waiter.error
    seconds = time.monotonic() - began
    if observers or seconds > LONG_SECONDS:
        tell_of_hold("grant", hold, seconds=seconds)
    return hold


def draw(share: BudgetFigures, max_wait_seconds: float) -> Flow[None]:
    """Open the allotment `share` as soon as its limits fit, in line with calls.

    Raises LLMBudgetExceededError like `acquire`.
    """
    assert share.parent is not None
    size, deadline, opened = PlainDemand(*limits_of(share)), time.monotonic() + max_wait_seconds, False
    while not opened:
        # If an overrun takes the room between the two steps, it waits again, or is refused.
        try:
            kept = yield from acquire(share.parent, size, _ALLOTMENT, deadline=deadline)
        except BaseException as error:
            clear_left_frames(error)
            raise
        with kept:
            opened = yield Operation(share.gate, share.gate.allot, share, kept)


def _facts_of(tracker: Scope, demand: Demand, facts: CallFacts) -> dict[str, Any]:
    """The fields of an event that comes before the hold."""
    amount = demand.amount
    who = {"provider": facts.adapter, "model": facts.model, "labels": facts.labels}
    return {"path": tracker.path, "tokens": amount.tokens, "usd": amount.usd, **who}


class Operation:
    """Does an operation on a budget; for a coroutine, a store's worker does it."""

    __slots__ = ("arguments", "gate", "operation")

    def __init__(self, gate: Keeper, operation: Callable[..., Any], *arguments: Any) -> None:
        self.gate: Keeper = gate
        self.operation: Callable[..., Any] = operation
        self.arguments: tuple[Any, ...] = arguments

    def run(self) -> Any:
        return self.operation(*self.arguments)

    async def arun(self) -> Any:
        worker = self.gate.worker
        return self.run() if worker is None else await worker.run(self.operation, *self.arguments)


@dataclass(slots=True)
class MakeWaiter:
    """Makes a waiter for the caller, which has not joined the wait queue yet."""

    asked: tuple[BudgetFigures, Demand, CallFacts]
    details: dict[str, Any]

    def run(self) -> ThreadWaiter:
        return ThreadWaiter(*self.asked, **self.details)

    async def arun(self) -> LoopWaiter:
        return LoopWaiter(*self.asked, **self.details)


@dataclass(slots=True)
class Wait:
    """Waits until a waiter is admitted or refused, its wait is over, or a window opens for it."""

    gate: Gate
    waiter: CallerWaiter

    def seconds(self) -> float:
        """Admit waiters whose windows have moved, and return the seconds until it is worth looking again."""
        opens = self.gate.look(self.waiter.tracker) if self.gate.windowed else math.inf
        return min(opens, self.waiter.deadline - time.monotonic())

    def run(self) -> None:
        self.waiter.wait(self.seconds())  # type: ignore[union-attr]

    async def arun(self) -> None:
        # A store's worker watches windows for coroutines.
        seconds = self.seconds() if self.gate.worker is None else self.waiter.deadline - time.monotonic()
        await self.waiter.await_it(seconds)  # type: ignore[union-attr]


def clear_left_frames(error: BaseException) -> None:
    """Clear the variables of the functions that an interruption has left, so that they keep no hold.

    A hold that nobody refers to any more is lost, and the next operation ends it (`holds.py`). But an exception refers
    to its traceback, and that to the frames of all functions that it has left, with their variables. An interruption
    between a grant and the `return` to the caller would thus keep the hold as long as somebody keeps the exception: a
    notebook does until the next one (`sys.last_exc`), a future and a list of errors for longer.

    Functions that still run, such as the caller of this one, keep theirs. Our own errors come before a grant.
    """
    trace = None if isinstance(error, LLMError) else error.__traceback__
    while trace is not None:
        with suppress(RuntimeError):
            trace.tb_frame.clear()
        trace = trace.tb_next

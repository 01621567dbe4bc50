"""Metering of adapters that know nothing of budgets: one hold around one call.

Every class that writes `execute_prompt` is metered, unless that class says `metered = False`. The hold covers
`bound`, the config that the method gets has the output limit that the hold assumes, and `response.usage` settles it.
When a metered call reaches another metered call of the same adapter, as with `super().execute_prompt(...)` or an async
form that calls the sync one, the inner call takes over: its hold replaces the outer one, so nothing is counted twice.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import threading
import weakref
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from llm_connect.budget.accounting.money import nano_usd_of
from llm_connect.budget.accounting.prices import cost_of
from llm_connect.budget.admission.acquire import aadmit, admit
from llm_connect.budget.admission.callers import remember_own
from llm_connect.budget.admission.holds import Hold
from llm_connect.budget.admission.log import Owed, write
from llm_connect.errors import LLMConfigurationError, LLMError
from llm_connect.interface.config import RunConfig
from llm_connect.interface.ports import Metered
from llm_connect.interface.reservation import Terms, hinted, log_cut, running
from llm_connect.types.amounts import NANO
from llm_connect.types.response import LLMResponse
from llm_connect.types.usage import MOST_USD, can_be_true

Execute = Callable[..., LLMResponse]
AsyncExecute = Callable[..., Awaitable[LLMResponse]]


def install(cls: type[object]) -> None:
    """Meter the methods that `cls` itself writes."""
    written = vars(cls)
    if not written.get("metered", True):
        return
    for name, wrap in (("execute_prompt", _metered), ("async_execute_prompt", _ametered)):
        if name in written:
            setattr(cls, name, wrap(written[name]))


async def execute_in_thread(adapter: Metered, prompt: Any, config: RunConfig | None) -> LLMResponse:
    """The async form of an adapter that only has a sync one: budget is waited for in the task, the call runs in a
    worker thread. A cancelled caller keeps a thread from starting; one that has started ends its own hold.
    """
    method = getattr(type(adapter).execute_prompt, "unmetered", None)
    terms = None if method is None else Terms.of(adapter, prompt, config)
    if method is None or terms is None:
        return await asyncio.to_thread(adapter.execute_prompt, prompt, config)
    hold = await aadmit(terms.tracker, terms.demand, terms.facts, **terms.queueing)
    claim = threading.Lock()

    def work() -> LLMResponse:
        if not claim.acquire(blocking=False):
            raise asyncio.CancelledError
        dispatched = hold if hold.try_dispatch() else dispatch(terms)
        with _attempt(adapter, dispatched):
            return _answered(terms, dispatched, method(adapter, prompt, terms.config_for(dispatched)))

    try:
        return await asyncio.to_thread(work)
    except BaseException:
        if claim.acquire(blocking=False):
            hold.release()
        raise


def _metered(method: Execute) -> Execute:
    @functools.wraps(method)
    def execute_prompt(self: Metered, prompt: Any, config: RunConfig | None = None) -> LLMResponse:
        terms = Terms.of(self, prompt, config)
        if terms is None:
            return method(self, prompt, config)
        hold = dispatch(terms)
        with _attempt(self, hold):
            response = _answered(terms, hold, method(self, prompt, terms.config_for(hold)))
        hold.booked()
        return response

    execute_prompt.unmetered = method  # type: ignore[attr-defined]
    return execute_prompt


def _ametered(method: AsyncExecute) -> AsyncExecute:
    @functools.wraps(method)
    async def async_execute_prompt(self: Metered, prompt: Any, config: RunConfig | None = None) -> LLMResponse:
        terms = Terms.of(self, prompt, config)
        if terms is None:
            return await method(self, prompt, config)
        hold = await adispatch(terms)
        with _attempt(self, hold):
            response = _answered(terms, hold, await method(self, prompt, terms.config_for(hold)))
        await hold.abooked()
        return response

    return async_execute_prompt


def dispatch(terms: Terms) -> Hold:
    """A dispatched hold; one that was given back before that is reserved anew."""
    while True:
        hold = admit(terms.tracker, terms.demand, terms.facts, **terms.queueing)
        if hold.try_dispatch():
            return hold


async def adispatch(terms: Terms) -> Hold:
    """Like `dispatch`, for a coroutine."""
    while True:
        hold = await aadmit(terms.tracker, terms.demand, terms.facts, **terms.queueing)
        if await hold.atry_dispatch():
            return hold


@contextmanager
def _attempt(adapter: Metered, hold: Hold) -> Iterator[None]:
    """From dispatch to end: whatever leaves the block, the hold has ended."""
    with ends(hold), while_running(adapter, hold):
        yield


@contextmanager
def ends(hold: Hold) -> Iterator[None]:
    """Whatever leaves the block, `hold`, which is the caller's own, has ended."""
    remember_own(hold)
    try:
        yield
    except LLMError as error:
        end_failed(hold, error)
        raise
    finally:
        hold.end_unsettled()


@contextmanager
def while_running(adapter: Metered, hold: Hold) -> Iterator[None]:
    """In the block, a call of the same adapter takes the place of `hold`."""
    token = running.set((adapter, weakref.ref(hold)))
    try:
        yield
    finally:
        running.reset(token)


def _answered(terms: Terms, hold: Hold, response: LLMResponse) -> LLMResponse:
    """Settle `hold`, and say so where its output limit has cut the answer."""
    settled(hold, response)
    hint = hinted(response, hold, terms.config)
    if hint is not response:
        log_cut(hold, terms.config, response.finish_reason)
    return hint


def settled(hold: Hold, response: LLMResponse) -> LLMResponse:
    """Settle `hold` by what a response says of itself, where that can be true."""
    with presumed_on_error(hold):
        usage = response.usage
        wrote = bool(response.content) or response.finish_reason in ("length", "tool_calls")
        if usage is not None and not usage.estimated and can_be_true(usage, wrote=wrote):
            cost, source = cost_of(response.cost, response.cost_source, usage, hold.facts.price)
            hold.settle(usage=usage, usd=_checked(cost), cost_source=source, model=response.model)
    hold.presume()
    return response


def _checked(cost: Any) -> Any:
    """A cost that a call can have. Raises LLMConfigurationError for any other."""
    if cost is not None and nano_usd_of("cost", cost) > MOST_USD * NANO:
        raise LLMConfigurationError(f"No call costs more than {MOST_USD} USD.")
    return cost


@contextmanager
def presumed_on_error(hold: Hold) -> Iterator[None]:
    """After an answer has come: figures that nobody can reckon with are booked by the bound, and the answer stays."""
    try:
        yield
    except Exception as error:
        log_unreadable("usage", error, hold.keeper.owed)
        hold.presume()


def log_unreadable(what: str, error: Exception, owed: Owed | None) -> None:
    """Say that a figure of a reply could not be read; not what it was."""
    line = "The %s of a reply cannot be reckoned with (%s): an estimate stands for it."
    write(logging.WARNING, line, what, type(error).__name__, owed=owed)


def end_failed(hold: Hold, error: LLMError) -> None:
    """End `hold` by what an error says of its call, where it says something."""
    if error.response is not None:
        settled(hold, error.response)
    elif not error.maybe_billed:
        hold.release()

"""Metering of adapters that do not know about budgets: one hold around one call.

Every class that defines `execute_prompt` is metered, unless it sets `metered = False`. The hold covers `bound`, the
method gets a config with the output limit that the hold assumes, and `response.usage` settles the hold. If a metered
call reaches another metered call of the same adapter, as with `super().execute_prompt(...)` or an async form that calls
the sync one, the inner hold replaces the outer one, so nothing counts twice.
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
    """Meter the methods that `cls` itself defines."""
    written = vars(cls)
    if not written.get("metered", True):
        return
    for name, wrap in (("execute_prompt", _metered), ("async_execute_prompt", _ametered)):
        if name in written:
            setattr(cls, name, wrap(written[name]))


async def execute_in_thread(adapter: Metered, prompt: Any, config: RunConfig | None) -> LLMResponse:
    """Run the sync method of an adapter for a coroutine: the task waits for budget, a worker thread makes the call.

    Cancelling the task keeps a thread that has not started yet from making the call; a started thread ends its own
    hold.
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
    """Reserve and dispatch; reserve again if the hold was revoked in between."""
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
    """The time from dispatch to end: after the block the hold has ended, and calls inside may replace it."""
    with ends(hold), while_running(adapter, hold):
        yield


@contextmanager
def ends(hold: Hold) -> Iterator[None]:
    """Guarantee that `hold` has ended after the block, and count it as a hold of the caller inside."""
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
    """Inside the block, a call of the same adapter replaces `hold`."""
    token = running.set((adapter, weakref.ref(hold)))
    try:
        yield
    finally:
        running.reset(token)


def _answered(terms: Terms, hold: Hold, response: LLMResponse) -> LLMResponse:
    """Settle `hold`, and add a hint and a log line if its output limit has cut the answer off."""
    settled(hold, response)
    hint = hinted(response, hold, terms.config)
    if hint is not response:
        log_cut(hold, terms.config, response.finish_reason)
    return hint


def settled(hold: Hold, response: LLMResponse) -> LLMResponse:
    """Settle `hold` by the usage and cost of a response; presume it if they are missing or cannot be true."""
    with presumed_on_error(hold):
        usage = response.usage
        wrote = bool(response.content) or response.finish_reason in ("length", "tool_calls")
        if usage is not None and not usage.estimated and can_be_true(usage, wrote=wrote):
            cost, source = cost_of(response.cost, response.cost_source, usage, hold.facts.price)
            hold.settle(usage=usage, usd=_checked(cost), cost_source=source, model=response.model)
    hold.presume()
    return response


def _checked(cost: Any) -> Any:
    """Validate a cost. Raises LLMConfigurationError for an implausible one."""
    if cost is not None and nano_usd_of("cost", cost) > MOST_USD * NANO:
        raise LLMConfigurationError(f"No call costs more than {MOST_USD} USD.")
    return cost


@contextmanager
def presumed_on_error(hold: Hold) -> Iterator[None]:
    """Guard the use of a response's figures: if they are invalid, book the bound, and still return the answer."""
    try:
        yield
    except Exception as error:
        log_unreadable("usage", error, hold.keeper.owed)
        hold.presume()


def log_unreadable(what: str, error: Exception, owed: Owed | None) -> None:
    """Log that a figure of a reply is invalid, without the figure."""
    line = "The %s of a reply is invalid (%s): an estimate replaces it."
    write(logging.WARNING, line, what, type(error).__name__, owed=owed)


def end_failed(hold: Hold, error: LLMError) -> None:
    """End `hold` by the information of an error: settle it by a response, or release it if nothing is billed."""
    if error.response is not None:
        settled(hold, error.response)
    elif not error.maybe_billed:
        hold.release()

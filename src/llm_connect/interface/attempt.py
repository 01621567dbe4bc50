"""One attempt under a budget: the terms on which it reserves, the flow that makes it, and the end of its hold.

    reserve -> dispatch -> exchange -> settle, release or presume

This is the only place where the hold of a call begins, is dispatched, and ends. Calls and streams of the built-in
adapters run the flow, and so do the metered methods of foreign ones.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Generator
from contextvars import ContextVar
from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

from llm_connect._flows import Flow
from llm_connect._validation import check_encodable, encodable
from llm_connect.budget.accounting.accounts import limits_usd
from llm_connect.budget.accounting.bounds import Bound, BoundDemand, CallFacts, Demand
from llm_connect.budget.accounting.prices import Price, cost_of, nano_usd_of
from llm_connect.budget.admission.acquire import Operation, acquire, clear_left_frames
from llm_connect.budget.admission.holds import Ending, Hold, tell_of_hold, tell_of_settlement
from llm_connect.budget.admission.log import CUT, UNREADABLE, Owed, log_event, observers
from llm_connect.budget.admission.refusals import refuse_unpriced, refuse_unproven
from llm_connect.errors import LLMConfigurationError, LLMError
from llm_connect.interface.config import RunConfig
from llm_connect.types.amounts import NANO
from llm_connect.types.response import LLMResponse, Prompt
from llm_connect.types.usage import MOST_USD, Usage, can_be_true

if TYPE_CHECKING:
    from llm_connect.budget.tracker import BudgetTracker

T = TypeVar("T")


class Metered(Protocol):
    """The part of an `LLMAdapter` that provides the budget, the bound, the price and the answer of a call."""

    @property
    def budget_tracker(self) -> BudgetTracker | None: ...
    @property
    def price(self) -> Price | None: ...

    @property
    def _why_no_price(self) -> str: ...

    def execute_prompt(self, prompt: Prompt, config: RunConfig | None = None) -> LLMResponse: ...
    async def async_execute_prompt(self, prompt: Prompt, config: RunConfig | None = None) -> LLMResponse: ...
    def bound(self, prompt: Prompt, config: RunConfig) -> Bound: ...
    def price_for(self, model: str | None, config: RunConfig) -> Price | None: ...


#: The metered call around this one: its adapter, and a weak reference to its hold, so that a lost hold is noticed.
running: ContextVar[tuple[Metered, weakref.ref[Hold]] | None] = ContextVar("llm_connect_running", default=None)


class Terms(NamedTuple):
    """The reservation request of one attempt on one tracker."""

    tracker: BudgetTracker
    config: RunConfig
    demand: Demand
    facts: CallFacts
    #: The moment on the monotonic clock until which the call waits for budget.
    wait_until: float
    #: The hold of the outer call that delegated to this one; this one's hold replaces it.
    replaces: Hold | None

    @classmethod
    def of(cls, adapter: Metered, prompt: Any, config: RunConfig | None) -> Terms | None:
        """The terms of a call by its adapter's `bound`; None if it has no tracker."""
        config = config or RunConfig()
        tracker = tracker_of(adapter, config)
        return None if tracker is None else terms_on(tracker, adapter, prompt, config)

    def acquire(self, **more: Any) -> Flow[Hold]:
        """Take the hold; wait for it if necessary."""
        return acquire(self.tracker, self.demand, self.facts, deadline=self.wait_until, replaces=self.replaces, **more)

    def config_for(self, hold: Hold) -> RunConfig:
        """The config with the output limit that the hold assumes, which the request must carry."""
        limit = hold.max_tokens
        return self.config if limit == self.config.max_tokens else replace(self.config, max_tokens=limit)


def terms_on(tracker: BudgetTracker, adapter: Metered, prompt: Any, config: RunConfig | None) -> Terms:
    """The terms of a call on `tracker`, by its adapter's `bound`."""
    config = config or RunConfig()
    check_prompt(prompt)
    now = time.monotonic()
    bound = adapter.bound(prompt, config)
    return terms(adapter, tracker, config, bound, now, now + config.timeout_seconds)


def check_prompt(prompt: object) -> None:
    """Raise LLMConfigurationError for a prompt that is not text, is empty, or that UTF-8 cannot encode."""
    if not isinstance(prompt, str):
        raise LLMConfigurationError(
            f"This adapter takes a prompt of type str, not {type(prompt).__name__}: pass the text."
        )
    if not prompt.strip():
        raise LLMConfigurationError("The prompt is empty: pass the text to send.")
    if not prompt.isascii():
        check_encodable("prompt", prompt)


def tracker_of(adapter: Metered, config: RunConfig) -> BudgetTracker | None:
    """The tracker of the config, or else the adapter's own."""
    return adapter.budget_tracker if config.budget_tracker is None else config.budget_tracker


def terms(
    adapter: Metered, tracker: BudgetTracker, config: RunConfig, bound: Bound, now: float, deadline: float
) -> Terms:
    """The terms of an attempt that begins at `now` and must end by `deadline`."""
    path, default = tracker.accounts, _text_of(adapter, "model")
    provider = _text_of(adapter, "provider") or type(adapter).__name__
    model = config.model_name or default
    price, replaces = _declared(adapter, tracker, model, default), _replaced_by(adapter, tracker)
    needs_price = price is None and limits_usd(path)
    if needs_price:
        price = adapter.price_for(model, config)
    facts = CallFacts(adapter=provider, model=model, labels=config.labels, grade=bound.grade, price=price)
    if tracker.strict and bound.grade != "proven":
        refuse_unproven(path, facts)
    if needs_price and price is None:
        refuse_unpriced(path, facts, adapter._why_no_price)
    patience = 0.0 if config.when_short == "refuse" else config.budget_wait_seconds
    wait_until = min(now + patience, deadline)
    demand = _demand(bound, config, price, strict=tracker.strict)
    return Terms(tracker, config, demand, facts, wait_until, replaces)


def declared_price(adapter: Metered, tracker: BudgetTracker | None, config: RunConfig) -> Price | None:
    """The price that the user has declared for this call. The adapter's `price` only applies to its own model."""
    default = _text_of(adapter, "model")
    return _declared(adapter, tracker, config.model_name or default, default)


def _declared(adapter: Metered, tracker: BudgetTracker | None, model: str | None, default: str | None) -> Price | None:
    price = adapter.price
    if price is not None and default in (model, None):
        return price
    return None if tracker is None or model is None else tracker.prices.get(model)


def _replaced_by(adapter: Metered, tracker: BudgetTracker) -> Hold | None:
    """The hold of a running call of the same adapter, if bookings on `tracker` also count on the tracker of it."""
    around = running.get()
    hold = None if around is None or around[0] is not adapter else around[1]()
    return hold if hold is not None and hold.tracker in tracker.lineage else None


def _text_of(adapter: Metered, name: str) -> str | None:
    """A text attribute that our adapters have; on other adapters it may be anything, and then the result is None."""
    value = getattr(adapter, name, None)
    if type(value) is str and value.isascii():
        return value
    return encodable(value) if isinstance(value, str) else None


def _demand(bound: Bound, config: RunConfig, price: Price | None, *, strict: bool) -> Demand:
    """The demand of a call. Without an output limit, or with "clamp", it may shrink to the free budget."""
    least = min(max(config.clamp_floor, bound.least_max_tokens), bound.max_tokens)
    unasked = config.max_tokens is None
    elastic = unasked or config.when_short == "clamp"
    return BoundDemand(bound, least if elastic else bound.max_tokens, price, unasked=unasked and not strict)


class Attempting(Protocol[T]):
    """The part of a call that its attempts use; `T` is the outcome of an exchange."""

    #: Set if the call gave up its concurrency slot while it waited for budget: the flow that waits for a slot again.
    come_back: Callable[[], Flow[T | None]] | None

    def reserve(self) -> Flow[Hold]:
        """Reserve a hold; wait for it if necessary."""
        ...

    def exchange(self, hold: Hold, /) -> Generator[Any, Any, T]:
        """Send the request that `hold` covers, and read its reply."""
        ...

    def end(self, hold: Hold, outcome: T) -> None:
        """End `hold` by the outcome of the exchange; leave it open if the outcome does not determine its end."""
        ...

    def end_open(self, hold: Hold) -> None:
        """End a hold that is still open, for example after a cancelled exchange."""
        ...


def attempt(call: Attempting[T]) -> Generator[Any, Any, T | None]:
    """Make one attempt; None if its hold was revoked before anything was sent, so that the call must reserve again.

    When the flow ends, even by an exception thrown into it or by garbage collection, the hold has ended.
    """
    try:
        hold = yield from call.reserve()
    except BaseException as error:
        clear_left_frames(error)
        raise
    keeper, limit = hold.keeper, hold.max_tokens
    # The terms of a call make a BoundDemand.
    demand: Any = hold.demand
    try:
        if limit is not None and limit < demand.bound.max_tokens:
            tell_of_hold("clamp", hold, max_tokens=limit, asked=demand.bound.max_tokens)
        outcome = None if call.come_back is None else (yield from call.come_back())
        if outcome is None:
            stored = keeper.worker is not None
            if (yield Operation(keeper, keeper.dispatch, hold)) if stored else keeper.dispatch(hold):
                if observers:
                    tell_of_hold("dispatch", hold)
                outcome = yield from call.exchange(hold)
        if outcome is not None:
            call.end(hold, outcome)
            if keeper.worker is not None:
                # The caller gets the outcome once the store has the entry.
                yield Operation(keeper, keeper.flush)
    finally:
        if not hold.ended:
            call.end_open(hold)
    return outcome


class Outcome(Protocol):
    """The facts about an exchange that its hold needs.

    usage: the usage of the call; None if it is unknown. used_at_least: the least usage that is certain then.
    billed: True for an answer, False if the provider certainly charges nothing, None if that is unknown.
    service_tier: the tier by whose prices the provider served the request, if it names one.
    """

    @property
    def usage(self) -> Usage | None: ...
    @property
    def used_at_least(self) -> Usage | None: ...
    @property
    def billed(self) -> bool | None: ...
    @property
    def model(self) -> str: ...
    @property
    def cost(self) -> Decimal | None: ...
    @property
    def cost_source(self) -> str | None: ...
    @property
    def service_tier(self) -> str | None: ...


class Finished(NamedTuple):
    """The result of an exchange of an adapter that does not know about budgets: its response, or its error."""

    #: A foreign adapter may return anything.
    response: Any = None
    error: LLMError | None = None


class _Facts(NamedTuple):
    billed: bool | None
    usage: Usage | None = None
    used_at_least: Usage | None = None
    model: str = ""
    cost: Decimal | None = None
    cost_source: str | None = None
    service_tier: str | None = None


def end_hold(hold: Hold, outcome: Outcome) -> None:
    """Settle by the usage. Without it, presume an answer, and release a failure that is not billed.

    If it is unknown whether a failure is billed, the hold stays open, and `Hold.end_unsettled` ends it. But if the
    least usage that is certain is more than the hold can cover, that is booked.
    """
    if outcome.usage is not None:
        try:
            price = hold.facts.price
            cost, source = cost_of(outcome.cost, outcome.cost_source, outcome.usage, price, outcome.service_tier)
            hold.settle(usage=outcome.usage, usd=cost, cost_source=source, model=outcome.model or None)
        except Exception as error:
            presume_unreadable(hold, error)
    elif outcome.billed is False:
        hold.release()
    else:
        _settle_least(hold, outcome)
        if outcome.billed and not hold.ended:
            hold.presume()


def end_cut(hold: Hold, so_far: Outcome) -> None:
    """End the hold of a reply that was not read to its end; a no-op if it has ended.

    The provider may go on and bill the whole answer. So its count up to now matters only if that count, with the whole
    output limit, is more than the hold.
    """
    _settle_least(hold, so_far)
    hold.end_unsettled()


def _settle_least(hold: Hold, outcome: Outcome) -> None:
    try:
        _settle_above(hold, outcome)
    except Exception as error:
        presume_unreadable(hold, error)


def _settle_above(hold: Hold, outcome: Outcome) -> None:
    """Settle by the least usage that is known plus the rest of the bound, if that is more than the hold."""
    least = outcome.usage or outcome.used_at_least
    if hold.state != "dispatched" or (least is None and not outcome.cost):
        return
    bound, price, most = hold.bound, hold.facts.price, _with_bound(hold, least or NO_USAGE)
    nano_usd = max(bound.nano_usd, nano_usd_of("cost", outcome.cost or 0))
    if most.total_tokens > bound.tokens and price is not None:
        nano_usd = max(nano_usd, price.at_most(most.prompt_tokens, most.completion_tokens, 1))
    if most.total_tokens > bound.tokens or nano_usd > bound.nano_usd:
        amount = bound.but(max(most.total_tokens, bound.tokens), None, nano_usd)
        ending = Ending("settled", amount, most)
        hold.keeper.end(hold, ending)
        tell_of_settlement(hold, ending)


def _with_bound(hold: Hold, least: Usage) -> Usage:
    """The larger of `least` and the hold, for each part."""
    limit = min(hold.max_tokens or 0, hold.bound.tokens)
    return Usage(
        prompt_tokens=max(least.prompt_tokens, hold.bound.tokens - limit),
        completion_tokens=max(least.completion_tokens, limit),
        estimated=True,
    )


def end_by_result(hold: Hold, finished: Finished) -> None:
    """End `hold` by the response or error of a foreign adapter; figures that cannot be true count as unknown."""
    try:
        facts = _facts_of(finished)
    except Exception as error:
        presume_unreadable(hold, error)
    else:
        end_hold(hold, facts)


def _facts_of(finished: Finished) -> _Facts:
    response, error = finished
    if error is not None:
        response = error.response
        if response is None:
            return _Facts(billed=None if error.maybe_billed else False)
    usage = response.usage
    wrote = bool(response.content) or response.finish_reason in ("length", "tool_calls")
    if usage is None or usage.estimated or not can_be_true(usage, wrote=wrote):
        return _Facts(billed=True)
    if response.cost is not None and nano_usd_of("cost", response.cost) > MOST_USD * NANO:
        raise LLMConfigurationError(f"No call costs more than {MOST_USD} USD.")
    return _Facts(True, usage, None, response.model, response.cost, response.cost_source)


def presume_unreadable(hold: Hold, error: Exception) -> None:
    """Book the bound for an answer with invalid figures, and log it. The caller still gets the answer."""
    log_unreadable("usage", error, hold.keeper.owed)
    hold.presume()


def log_unreadable(what: str, error: Exception, owed: Owed | None) -> None:
    """Log that a figure of a reply is invalid, without the figure."""
    log_event(UNREADABLE, owed, figure=what, error=type(error).__name__)


def cut_by(hold: Hold, config: RunConfig, finish_reason: str) -> str | None:
    """A hint if an output limit of the budget, not of the caller, has cut the answer off; else None."""
    limit, demand = hold.max_tokens, hold.demand
    if finish_reason != "length" or limit is None or limit == config.max_tokens or not isinstance(demand, BoundDemand):
        return None
    why, remedy = "the free budget", "raise the limit"
    if limit == demand.bound.max_tokens:
        why, remedy = "the adapter's default", "set max_tokens"
    return (
        f"The answer was cut off at {limit:,} tokens, {why} under the limits of budget {hold.tracker.path!r}: {remedy}."
    )


def hinted(response: LLMResponse, hold: Hold | None, config: RunConfig) -> LLMResponse:
    """The response, with a hint in `metadata` if the budget has cut it off."""
    if hold is None or not isinstance(response, LLMResponse):
        return response
    hint = cut_by(hold, config, response.finish_reason)
    return response if hint is None else replace(response, metadata={**response.metadata, "hint": hint})


def log_cut(hold: Hold, config: RunConfig, finish_reason: str) -> None:
    """Log a warning if the budget has cut the answer off."""
    hint = cut_by(hold, config, finish_reason)
    if hint is not None:
        call = {"path": hold.tracker.path, "provider": hold.facts.adapter, "model": hold.facts.model}
        log_event(CUT, hold.keeper.owed, **call, max_tokens=hold.max_tokens, hint=hint)


NO_USAGE = Usage(prompt_tokens=0, completion_tokens=0)

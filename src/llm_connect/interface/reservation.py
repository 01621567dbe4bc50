"""The reservation request of one attempt: its demand, its deadline, and its metadata for the ledger."""

from __future__ import annotations

import time
import weakref
from contextvars import ContextVar
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from llm_connect._flows import Flow
from llm_connect._validation import check_prompt, encodable
from llm_connect.budget.accounting.accounts import limits_usd
from llm_connect.budget.accounting.bounds import Bound, BoundDemand, CallFacts, Demand
from llm_connect.budget.accounting.prices import Price
from llm_connect.budget.admission.acquire import acquire
from llm_connect.budget.admission.holds import Hold
from llm_connect.budget.admission.log import CUT, log_event
from llm_connect.budget.admission.refusals import refuse_unpriced, refuse_unproven
from llm_connect.interface.config import RunConfig
from llm_connect.types.response import LLMResponse, Prompt

if TYPE_CHECKING:
    from llm_connect.budget.tracker import BudgetTracker


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

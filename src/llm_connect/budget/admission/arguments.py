"""Validation of what users pass to a budget: limits, periods, figures, and the arguments of a reservation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, Literal, TypeAlias, get_args

from llm_connect._validation import check_count, check_labels, check_line
from llm_connect.budget.accounting.accounts import Scope, limits_usd
from llm_connect.budget.accounting.bounds import Bound, BoundDemand, CallFacts, Demand, Grade, ManualDemand, PlainDemand
from llm_connect.budget.accounting.prices import Price, checked_usd, nano_usd_of
from llm_connect.budget.accounting.windows import PHRASES, Period
from llm_connect.budget.admission.refusals import refuse_unpriced, refuse_unproven
from llm_connect.errors import LLMConfigurationError
from llm_connect.types.amounts import MOST, MOST_LIMIT, NANO
from llm_connect.types.usage import Usage

#: The booking of a dispatched hold whose outcome is unknown.
OnUnknown: TypeAlias = Literal["presume", "release"]
#: Limits in tokens, calls and nano-USD; None for no limit.
Limits: TypeAlias = tuple[int | None, int | None, int | None]
_LONGEST = timedelta(days=3_660)
#: The fields of a `Usage` that count tokens.
_PARTS = ("prompt_tokens", "completion_tokens", "cached_tokens", "cache_write_tokens", "reasoning_tokens")


def checked_limits(total: object, total_calls: object, total_usd: object, most: int = MOST_LIMIT) -> Limits:
    """Validate the limits of a tracker. Raises LLMConfigurationError for one that is invalid or too large."""
    check_count("total", total, least=1, most=most, optional=True)
    check_count("total_calls", total_calls, least=1, most=most, optional=True)
    nano_usd = None if total_usd is None else checked_usd("total_usd", total_usd, most)
    if nano_usd == 0:
        raise LLMConfigurationError(f"total_usd must be above 0, not {total_usd!r}.")
    return total, total_calls, nano_usd  # type: ignore[return-value]


def checked_period(period: object) -> Period | None:
    """Validate a period. Raises LLMConfigurationError for an invalid one."""
    if period is None or (isinstance(period, str) and period in PHRASES):
        return period  # type: ignore[return-value]
    if isinstance(period, timedelta) and timedelta() < period <= _LONGEST:
        return period
    raise LLMConfigurationError(
        f"period must be 'hour', 'day', 'month' or a timedelta above 0 and of at most ten years, not {period!r}."
    )


def checked_correction(tokens: object, calls: object, usd: object) -> Limits:
    """Like `checked_figures`, and refuses amounts that are too large for a budget."""
    for name, value in (("tokens", tokens), ("calls", calls)):
        check_count(name, value, least=0, most=MOST, optional=True)
    return tokens, calls, None if usd is None else checked_usd("usd", usd)  # type: ignore[return-value]


def check_usage(usage: object) -> None:
    """Raise LLMConfigurationError for a usage of another type, or with an invalid figure."""
    if not isinstance(usage, Usage):
        raise LLMConfigurationError(
            f"usage must be a Usage, not {type(usage).__name__}: make one, or pass the tokens alone."
        )
    for name in _PARTS:
        check_count(f"usage.{name}", getattr(usage, name), least=0)


def checked_figures(tokens: object, calls: object, usd: object) -> Limits:
    """Validate the actual figures of a call, without an upper limit; None means not given.

    Raises LLMConfigurationError for an invalid figure.
    """
    check_count("tokens", tokens, least=0, optional=True)
    check_count("calls", calls, least=0, optional=True)
    return tokens, calls, None if usd is None else nano_usd_of("usd", usd)  # type: ignore[return-value]


def check_options(keep_entries: object, on_unknown: object, sink: object) -> None:
    """Raise LLMConfigurationError for options of a budget that cannot be meant."""
    check_count("keep_entries", keep_entries, least=0)
    if on_unknown not in get_args(OnUnknown):
        raise LLMConfigurationError(f"on_unknown must be 'presume' or 'release', not {on_unknown!r}.")
    if sink is not None and not callable(sink):
        raise LLMConfigurationError("sink must be a function that takes a LedgerEntry.")


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
    _check_terms(tokens, calls, usd, price, grade, bound, clamp_floor)
    named = _checked_labels(adapter, model, labels)
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
    if bound is not None:
        return _bound_demand(bound, clamp_floor, facts.price), facts
    return ManualDemand(tokens, calls, None if usd is None else checked_usd("usd", usd), facts.price), facts


def _bound_demand(bound: Bound, clamp_floor: int | None, price: Price | None) -> BoundDemand:
    most = bound.max_tokens
    least = most if clamp_floor is None else min(max(clamp_floor, bound.least_max_tokens), most)
    return BoundDemand(bound, least, price)


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


def _check_terms(
    tokens: object, calls: object, usd: object, price: object, grade: object, bound: object, clamp_floor: object
) -> None:
    """Validate the terms of a reservation, except for the figure of `usd`."""
    check_count("tokens", tokens, least=0, most=MOST)
    check_count("calls", calls, least=0, most=MOST)
    check_count("clamp_floor", clamp_floor, least=1, optional=True)
    if price is not None and not isinstance(price, Price):
        raise LLMConfigurationError(f"price must be a Price, not {type(price).__name__}.")
    if grade not in (None, *get_args(Grade)):
        raise LLMConfigurationError(f"grade must be 'proven', 'estimated' or 'unbounded', not {grade!r}.")
    if bound is None:
        if clamp_floor is not None:
            raise LLMConfigurationError("clamp_floor needs a bound: pass bound=, whose max_tokens may shrink.")
    elif not isinstance(bound, Bound):
        raise LLMConfigurationError(f"bound must be a Bound, not {type(bound).__name__}.")
    elif (tokens, calls, usd, grade) != (0, 1, None, None):
        raise LLMConfigurationError("bound already has tokens, calls and a grade: leave these out, and usd as well.")

"""Reservations by users: validated, graded and priced by the same rules as calls of adapters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias, get_args

from llm_connect._validation import check_count, check_labels, check_line
from llm_connect.budget.accounting.accounts import limits_usd
from llm_connect.budget.accounting.bounds import Bound, Grade
from llm_connect.budget.accounting.demands import BoundDemand, CallFacts, Demand, ManualDemand, PlainDemand
from llm_connect.budget.accounting.money import checked_usd
from llm_connect.budget.accounting.prices import Price
from llm_connect.budget.admission.refusals import refuse_unpriced, refuse_unproven
from llm_connect.errors import LLMConfigurationError
from llm_connect.types.amounts import MOST

if TYPE_CHECKING:
    from llm_connect.budget.accounting.scope import Scope

#: Returns the list price of a model, given the name of its adapter (None: not given) and its own name.
PriceList: TypeAlias = Callable[[str | None, str], Price | None]
#: The price lists in use; the engine adds them, because the budget must not import them.
price_lists: list[PriceList] = []

#: The facts of a plain number of tokens, which is an estimate.
_PLAIN = CallFacts(grade="estimated", asker="reservation")
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
    path = tracker.accounts
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
        and not (tracker.strict or limits_usd(path))
    ):
        return _tuple(PlainDemand, (tokens, 1, 0)), _PLAIN
    _check(tokens, bound, price, calls, usd, clamp_floor, adapter, model, grade)
    facts = CallFacts(
        adapter=adapter,
        model=model,
        labels=_checked_labels(labels),
        grade=bound.grade if bound else grade or "estimated",
        price=price if price is not None or usd is not None else _known_price(tracker, adapter, model),
        asker="reservation",
    )
    if tracker.strict and facts.grade != "proven":
        refuse_unproven(path, facts)
    if usd is None and facts.price is None:
        refuse_unpriced(path, facts)
    return _demand(tokens, bound, calls, usd, clamp_floor, facts.price), facts


def _demand(
    tokens: int, bound: Bound | None, calls: int, usd: Any, clamp_floor: int | None, price: Price | None
) -> Demand:
    if bound is None:
        return ManualDemand(tokens, calls, None if usd is None else checked_usd("usd", usd), price)
    most = bound.max_tokens
    return BoundDemand(
        bound, most if clamp_floor is None else min(max(clamp_floor, bound.least_max_tokens), most), price
    )


def _checked_labels(labels: Mapping[str, str] | None) -> dict[str, str]:
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


def _check(
    tokens: object,
    bound: object,
    price: object,
    calls: object,
    usd: object,
    clamp_floor: object,
    adapter: object,
    model: object,
    grade: object,
) -> None:
    check_count("tokens", tokens, least=0, most=MOST)
    check_count("calls", calls, least=0, most=MOST)
    check_count("clamp_floor", clamp_floor, least=1, optional=True)
    for name, text in (("adapter", adapter), ("model", model)):
        check_line(name, text)
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

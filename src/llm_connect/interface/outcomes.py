"""The end of a hold by the outcome of its exchange: one rule for calls, streams and foreign adapters."""

from __future__ import annotations

from decimal import Decimal
from typing import Any, NamedTuple, Protocol

from llm_connect.budget.accounting.arguments import nano_usd_of
from llm_connect.budget.accounting.prices import cost_of
from llm_connect.budget.admission.holds import Hold
from llm_connect.budget.admission.log import UNREADABLE, Owed, log_event
from llm_connect.errors import LLMConfigurationError, LLMError
from llm_connect.types.amounts import NANO
from llm_connect.types.usage import MOST_USD, Usage, can_be_true


class Outcome(Protocol):
    """The facts about an exchange that its hold needs.

    usage: the usage of the call; None if it is unknown.
    billed: True for an answer, False if the provider certainly charges nothing, None if that is unknown.
    service_tier: the tier by whose prices the provider served the request, if it names one.
    """

    @property
    def usage(self) -> Usage | None: ...
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
    model: str = ""
    cost: Decimal | None = None
    cost_source: str | None = None
    service_tier: str | None = None


def end_hold(hold: Hold, outcome: Outcome) -> None:
    """Settle by the usage. Without it, presume an answer, and release a failure that is not billed.

    If it is unknown whether a failure is billed, the hold stays open, and `Hold.end_unsettled` ends it.
    """
    if outcome.usage is not None:
        try:
            price = hold.facts.price
            cost, source = cost_of(outcome.cost, outcome.cost_source, outcome.usage, price, outcome.service_tier)
            hold.settle(usage=outcome.usage, usd=cost, cost_source=source, model=outcome.model or None)
        except Exception as error:
            presume_unreadable(hold, error)
    elif outcome.billed:
        hold.presume()
    elif outcome.billed is not None:
        hold.release()


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
    return _Facts(True, usage, response.model, response.cost, response.cost_source)


def presume_unreadable(hold: Hold, error: Exception) -> None:
    """Book the bound for an answer with invalid figures, and log it. The caller still gets the answer."""
    log_unreadable("usage", error, hold.keeper.owed)
    hold.presume()


def log_unreadable(what: str, error: Exception, owed: Owed | None) -> None:
    """Log that a figure of a reply is invalid, without the figure."""
    log_event(UNREADABLE, owed, figure=what, error=type(error).__name__)

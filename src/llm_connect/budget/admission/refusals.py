"""Errors for refused reservations: their figures, and a line that says what would help."""

from __future__ import annotations

from decimal import Decimal
from importlib.util import find_spec
from typing import Any, NoReturn

from llm_connect.budget.accounting.accounts import Account, Path, figures_of, hopeless, now_on, opening, short
from llm_connect.budget.accounting.bounds import Asker, CallFacts, Demand
from llm_connect.budget.accounting.windows import describe_moment
from llm_connect.budget.admission.log import tell_of_refusal
from llm_connect.errors import (
    BudgetReason,
    LLMBudgetExceededError,
    LLMBudgetNeverFitsError,
    LLMBudgetWaitError,
)
from llm_connect.types.amounts import NOTHING, USD, shown, usd_of

#: The reasons for which waiting does not help.
_NEVER: frozenset[BudgetReason] = frozenset({"never_fits", "closed", "unpriced", "unproven"})

_WHY: dict[BudgetReason, str] = {
    "never_fits": "does not fit, even with nothing in flight",
    "window_full": "does not fit before its wait ends",
    "wait_expired": "did not fit before its wait ended",
    "refused": "does not fit now, and must not wait",
    "closed": "is refused, because the budget is closed",
    "self_wait": "waited for open holds of its own caller",
    "lease_lost": "was not sent in time: its process lost the lease of its hold",
}
#: The reasons for which a smaller amount helps.
_TOO_LARGE: frozenset[BudgetReason] = frozenset({"never_fits", "window_full", "wait_expired", "refused"})

_SUBJECT: dict[Asker, str] = {
    "call": "a call of up to",
    "reservation": "a reservation of",
    "allotment": "an allotment of",
    "booking": "a booking of",
}
_TO_WAIT: dict[Asker, str] = {
    "call": "Let it wait: leave when_short at 'wait' and max_wait_seconds above 0, and in a running event loop use "
    "async_execute_prompt or async_stream_prompt.",
    "reservation": "Let it wait: pass max_wait_seconds, and in a running event loop await areserve.",
    "allotment": "Let it wait: pass max_wait_seconds, and in a running event loop use async with.",
    "booking": "Let it wait: in place of consume, which never waits, use reserve with max_wait_seconds.",
}
_SMALLER: dict[Asker, str] = {
    "call": "use a smaller max_tokens or a shorter prompt",
    "reservation": "reserve less, for example with a smaller max_tokens",
    "allotment": "allot less",
    "booking": "book less",
}


def refusal_of(path: Path, demand: Demand, facts: CallFacts, reason: BudgetReason) -> LLMBudgetExceededError:
    """The error for a demand on `path`, about the first account where it can never fit, or else where it is short.

    The reason `never_fits` becomes `window_full` if the demand will fit once spend has left a window.
    """
    needed = demand.smallest
    opens_at = opening(path, needed) or None
    if reason == "never_fits" and opens_at is not None:
        reason = "window_full"
    account = hopeless(path, needed) or next(iter(short(path, needed)), path.units[0][0])
    requested = needed[account.index]
    likely = demand.likely_tokens if account.unit == "tokens" else None
    return _error(
        account,
        facts,
        reason,
        _message(path, account, reason, facts.asker, requested, likely, opens_at),
        requested=_figure(account, requested),
        missing=_figure(account, _missing(account, reason, requested)),
        likely=likely,
        opens_at=opens_at,
        retry_after=_retry_after(path, reason, opens_at),
    )


def _error(
    account: Account, facts: CallFacts, reason: BudgetReason, message: str, **more: Any
) -> LLMBudgetExceededError:
    kind = LLMBudgetNeverFitsError if reason in _NEVER else LLMBudgetWaitError
    return kind(
        message,
        reason=reason,
        unit=account.unit,
        path=account.path,
        total=None if account.limit is None else _figure(account, account.limit),
        spent=_figure(account, account.spent),
        held=_figure(account, account.held),
        allotted=_figure(account, account.allotted),
        presumed=_figure(account, account.presumed),
        provider=facts.adapter,
        model=facts.model,
        booked=NOTHING,
        **more,
    )


def refuse_unproven(path: Path, facts: CallFacts) -> NoReturn:
    """Raise LLMBudgetNeverFitsError: the budget is strict, and the bound of the call is not proven."""
    account = path.units[0][0]
    _refuse(
        account,
        facts,
        "unproven",
        f"Budget {account.path!r} is strict, and {_unproven(facts)}, or a budget without strict=True.",
    )


def _refuse(account: Account, facts: CallFacts, reason: BudgetReason, message: str) -> NoReturn:
    error = _error(account, facts, reason, message)
    tell_of_refusal(error)
    raise error


def _retry_after(path: Path, reason: BudgetReason, opens_at: float | None) -> float | None:
    """The seconds after which another try may succeed; None if unknown."""
    if reason == "lease_lost":
        return 0.0
    return None if opens_at is None or reason in _NEVER else max(0.0, opens_at - now_on(path))


def _unproven(facts: CallFacts) -> str:
    if facts.asker == "reservation":
        return f"the reservation is {facts.grade}: pass grade='proven' if the call cannot use more"
    bound = f"the bound of {facts.model!r} at {facts.adapter} is {facts.grade}"
    return f"{bound}: use a model and an endpoint whose bounds are proven"


def refuse_unpriced(path: Path, facts: CallFacts, why: str = "") -> None:
    """Raise LLMBudgetNeverFitsError if an account of `path` limits USD, because the call has no known price.

    why: the reason why the adapter knows none, if it has one.
    """
    for account in path.units[USD]:
        if account.limit is not None:
            _refuse(account, facts, "unpriced", _unpriced(account, facts, why))


def without_list_prices() -> str:
    """The reason why no list price is known, if the package with the list prices is not installed."""
    return "" if find_spec("genai_prices") else "list prices need the extra 'prices', which is not installed"


def _unpriced(account: Account, facts: CallFacts, why: str) -> str:
    price = "Price(prompt=..., completion=...)"
    if facts.asker == "reservation":
        lacking = without_list_prices()
        of = "this reservation" if facts.model is None else repr(facts.model)
        return (
            f"Budget {account.path!r} limits USD, and no price of {of} is known. Pass a price in USD per million "
            f"tokens, price={price}, or the USD to hold, usd=...; or name a model that has a list price with "
            f"model={lacking and f' ({lacking})'}."
        )
    by_model = "" if facts.model is None else f", or BudgetTracker(prices={{{facts.model!r}: {price}}})"
    model = "its model" if facts.model is None else repr(facts.model)
    return (
        f"Budget {account.path!r} limits USD, and {facts.adapter} knows no price of {model}"
        f"{why and f': {why}'}. Declare one in USD per million tokens: "
        f"price={price} on the adapter{by_model}. If the model costs nothing, use Price.free()."
    )


def _figure(account: Account, value: int) -> int | Decimal:
    """A figure in the unit that users see: USD as Decimal."""
    return usd_of(value) if account.unit == "usd" else value


def _missing(account: Account, reason: BudgetReason, requested: int) -> int:
    if account.limit is None:
        return 0
    kept = 0 if reason in ("never_fits", "window_full") else account.held + account.allotted
    return max(0, account.spent + kept + requested - account.limit)


def _message(
    path: Path,
    account: Account,
    reason: BudgetReason,
    asker: Asker,
    requested: int,
    likely: int | None,
    opens_at: float | None,
) -> str:
    unit = account.unit
    line = f"Budget {account.path!r}: {_SUBJECT[asker]} {shown(unit, requested)} {_WHY[reason]}"
    if account.limit is not None:
        line += f" ({figures_of(account)})"
    line = f"{line}. {_advice(path, account, reason, asker, requested, opens_at)}"
    if likely is None or likely >= requested or reason not in _TOO_LARGE or _missing(account, reason, likely):
        return line
    return f"{line} It will probably use about {shown(unit, likely)}: count_tokens= on the adapter tightens its bound."


def _advice(
    path: Path, account: Account, reason: BudgetReason, asker: Asker, requested: int, opens_at: float | None
) -> str:
    if reason == "window_full" and opens_at is not None:
        missing = shown(account.unit, _missing(account, reason, requested))
        return f"There is room again at {describe_moment(opens_at)}: retry then, or raise the limit by {missing}."
    if account.breached and reason == "never_fits":
        return "The spend exceeds the limit: raise it with set_limits, or correct presumed entries."
    if reason == "closed":
        is_root = account is path.units[account.index][-1]
        return "Make another BudgetTracker." if is_root else "Use its parent, or open another child."
    if reason == "self_wait":
        return "End the outer hold first, or set metered = False on an adapter that only wraps another one."
    if reason == "lease_lost":
        return "Reserve again, and open the budget with a longer lease_seconds if this process often stalls so long."
    if reason == "refused":
        return _TO_WAIT[asker]
    fewer = account.unit != "tokens" and asker in ("call", "reservation")
    smaller = "make fewer calls" if fewer else _SMALLER[asker]
    longer = ", or raise max_wait_seconds" if reason == "wait_expired" else ""
    return f"Raise the limit by {shown(account.unit, _missing(account, reason, requested))}, or {smaller}{longer}."

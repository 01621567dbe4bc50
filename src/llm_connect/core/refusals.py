"""Why a reservation was refused, in figures and in one line that says what would help."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Literal, TypeAlias

from llm_connect.core.accounts import Account, Path, hopeless, short
from llm_connect.core.demand import CallFacts
from llm_connect.core.exceptions import LLMBudgetExceededError
from llm_connect.core.units import NOTHING, Unit, shown, usd_of

if TYPE_CHECKING:
    from llm_connect.core.waiters import Waiter

Reason: TypeAlias = Literal["never_fits", "wait_expired", "refused", "closed", "unpriced", "self_wait"]

_WHY: dict[Reason, str] = {
    "never_fits": "does not fit even when nothing is running",
    "wait_expired": "did not fit before the wait was over",
    "refused": "does not fit now, and this call does not wait",
    "closed": "is refused, because the budget is closed",
    "self_wait": "would wait for a hold that its own caller keeps open",
}


def refusal(waiter: Waiter, reason: Reason) -> LLMBudgetExceededError:
    """The error for `waiter`, about the first account that stops it."""
    account = _stopping(waiter)
    unit = UNIT_PLACES[account.unit]
    requested = waiter.demand.smallest[unit]
    return LLMBudgetExceededError(
        _message(account, reason, requested),
        reason=reason,
        unit=account.unit,
        path=account.path,
        total=None if account.limit is None else figure(account.unit, account.limit),
        spent=figure(account.unit, account.spent),
        held=figure(account.unit, account.held),
        presumed=figure(account.unit, account.presumed),
        requested=figure(account.unit, requested),
        missing=figure(account.unit, _missing(account, reason, requested)),
        provider=waiter.facts.adapter,
        model=waiter.facts.model,
        booked=NOTHING,
    )


def refuse_unpriced(path: Path, facts: CallFacts) -> None:
    """Raise when an account of `path` limits USD: nothing is known of what the call may cost."""
    for account, _ in path:
        if account.unit == "usd" and account.limit is not None:
            raise LLMBudgetExceededError(
                f"Budget {account.path!r} limits USD, and no price of {facts.model!r} is known to {facts.adapter}. "
                "Declare it: price=Price(prompt=..., completion=...) on the adapter, or price=Price.free().",
                reason="unpriced",
                unit="usd",
                path=account.path,
                total=usd_of(account.limit),
                spent=usd_of(account.spent),
                held=usd_of(account.held),
                presumed=usd_of(account.presumed),
                provider=facts.adapter,
                model=facts.model,
                booked=NOTHING,
            )


UNIT_PLACES: dict[Unit, int] = {"tokens": 0, "calls": 1, "usd": 2}


def figure(unit: Unit, value: int) -> int | Decimal:
    """A figure in the unit that users speak: USD as Decimal."""
    return usd_of(value) if unit == "usd" else value


def _stopping(waiter: Waiter) -> Account:
    path, amount = waiter.tracker.accounts, waiter.demand.smallest
    lacking = short(path, amount)
    never = hopeless(path, amount) or hopeless(path, amount, waiter.own_on)
    return never or (lacking[0] if lacking else path[0][0])


def _missing(account: Account, reason: Reason, requested: int) -> int:
    if account.limit is None:
        return 0
    held = 0 if reason == "never_fits" else account.held
    return max(0, account.spent + held + requested - account.limit)


def _message(account: Account, reason: Reason, requested: int) -> str:
    unit = account.unit
    line = f"Budget {account.path!r}: a call of up to {shown(unit, requested)} {_WHY[reason]}"
    if account.limit is not None:
        line += (
            f" ({shown(unit, account.spent)} spent and {shown(unit, account.held)} held"
            f" of {shown(unit, account.limit)})"
        )
    return f"{line}. {_advice(account, reason, requested)}"


def _advice(account: Account, reason: Reason, requested: int) -> str:
    if reason == "closed":
        return "Use the parent's budget, or open another child."
    if reason == "self_wait":
        return "End the outer hold first, or set metered = False on the adapter that only wraps another one."
    if reason == "refused":
        return "Let it wait (max_wait_seconds, and in a running event loop async_execute_prompt or areserve)."
    missing = shown(account.unit, _missing(account, reason, requested))
    smaller = "a smaller max_tokens or a shorter prompt" if account.unit == "tokens" else "fewer calls"
    return f"What would fit: a limit that is higher by {missing}, or {smaller}."

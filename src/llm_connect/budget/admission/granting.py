"""Granting a hold and giving it back: changes of state under the lock."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llm_connect.budget.accounting import accounts
from llm_connect.budget.accounting.calibration import LearnedFactor
from llm_connect.budget.accounting.demands import CallFacts, Demand
from llm_connect.budget.accounting.journal import Plan
from llm_connect.budget.admission.holds import Hold, Keeper
from llm_connect.types.amounts import NOTHING

if TYPE_CHECKING:
    from llm_connect.budget.accounting.scope import Scope


def grant(keeper: Keeper, tracker: Scope, demand: Demand, facts: CallFacts) -> Hold | None:
    """A hold for the largest amount of `demand` that fits at present; None if the smallest does not fit."""
    taken = demand.take(tracker.accounts)
    if taken is None:
        return None
    amount, max_tokens = taken
    hold = keeper.hold_type(keeper, tracker, amount, max_tokens, demand, facts)
    journal = tracker.accounts.journal
    # The hold is open from here on. An operation that finds the intent undoes that.
    journal.hold = hold
    hold.ended = False
    journal.intent = None
    journal.hold = None
    return hold


def give_back(hold: Hold) -> bool:
    """Free a hold without a ledger entry; False if it has already ended."""
    if hold.ended:
        return False
    plan, path = Plan(), hold.tracker.accounts
    plan.set(hold, "ended", True)
    accounts.change(plan, path, NOTHING.minus(hold.bound), NOTHING)
    path.journal.carry_out(plan)
    return True


def grow(hold: Hold, factor: LearnedFactor) -> bool:
    """Grow a hold to the bound of its call under `factor`; False if that does not fit at present."""
    lacking = hold.demand.raised(factor).at(hold.max_tokens).minus(hold.bound)
    more = lacking.but(*(max(0, figure) for figure in lacking))
    path = hold.tracker.accounts
    if not accounts.fits(path, more):
        return False
    plan = Plan()
    plan.set(hold, "bound", hold.bound.plus(more))
    accounts.change(plan, path, more, NOTHING)
    path.journal.carry_out(plan)
    return True

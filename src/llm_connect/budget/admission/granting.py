"""Granting a hold and giving it back: the change of state that is made under the lock."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from llm_connect.budget.accounting import accounts
from llm_connect.budget.accounting.calibration import LearnedFactor
from llm_connect.budget.accounting.demands import BoundDemand, CallFacts, Demand
from llm_connect.budget.accounting.journal import Plan
from llm_connect.budget.admission.holds import Hold, Keeper
from llm_connect.types.amounts import NOTHING

if TYPE_CHECKING:
    from llm_connect.budget.accounting.scope import Scope


def grant(keeper: Keeper, tracker: Scope, demand: Demand, facts: CallFacts) -> Hold | None:
    """A hold for as much of `demand` as fits now, or None."""
    taken = demand.take(tracker.accounts)
    if taken is None:
        return None
    amount, max_tokens = taken
    if max_tokens is None and isinstance(demand, BoundDemand):
        # Nobody limits what is written.
        facts = replace(facts, grade="unbounded")
    hold = keeper.hold_type(keeper, tracker, amount, max_tokens, demand, facts)
    journal = tracker.accounts.journal
    # It is open from here on; whoever finds the intent sees to it that it is not.
    journal.hold = hold
    hold.ended = False
    journal.intent = None
    journal.hold = None
    return hold


def give_back(hold: Hold) -> bool:
    """Free a hold without an entry in the ledger; False when it has ended."""
    if hold.ended:
        return False
    plan, path = Plan(), hold.tracker.accounts
    plan.set(hold, "ended", True)
    accounts.change(plan, path, NOTHING.minus(hold.bound), NOTHING)
    path.journal.carry_out(plan)
    return True


def grow(hold: Hold, factor: LearnedFactor) -> bool:
    """Let a hold cover what its call may need under `factor`; False when that does not fit now."""
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


def is_unlimited(hold: Hold) -> bool:
    """Whether the request of `hold` carries no output limit, because no limit concerned it when it was granted."""
    return hold.max_tokens is None and isinstance(hold.demand, BoundDemand)

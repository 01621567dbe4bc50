"""What the budget of a call is asked and told."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import get_args

from llm_connect.core.bounds import Bound
from llm_connect.core.budget import BudgetTracker
from llm_connect.core.demand import Grade
from llm_connect.core.exceptions import LLMBudgetExceededError
from llm_connect.core.models import LLMResponse
from llm_connect.core.usage import Usage

from ..bench import Bench
from ..calls import GRACE_SECONDS
from ..rule import rule
from ..trial import FORMS, changes, state_of
from .answers import call_is_answered, output_limit_is_kept, usage_is_in_normal_form

_LOOK_SECONDS = 0.01


def held_at_rest(tracker: BudgetTracker) -> int:
    """What is held when all calls have ended; for a moment, a thread may still be on its way out."""
    until = time.monotonic() + GRACE_SECONDS
    while (tracker.held or tracker.held_calls) and time.monotonic() < until:
        time.sleep(_LOOK_SECONDS)
    return tracker.held or tracker.held_calls


def requests_held(tracker: BudgetTracker) -> int:
    """For how many requests there have been holds, whatever became of them."""
    return sum(entry.bound.calls for entry in tracker.ledger)


@rule(after=(call_is_answered, usage_is_in_normal_form))
def call_is_metered(bench: Bench) -> Iterator[str]:
    """A call books what its response says it used, once. (BUDGET-7)"""
    for trial, response in bench.responses:
        entries = list(trial.budget.ledger)
        settled = sum(entry.amount.tokens for entry in entries if entry.outcome == "settled")
        used = response.usage.total_tokens
        if not entries:
            yield f"{trial.what} booked nothing: `metered = False` is for classes whose inner adapter meters"
        elif response.usage.estimated:
            if trial.budget.spent < used:
                yield f"{trial.what} booked {trial.budget.spent} tokens of the {used} that its response estimates"
        elif settled != used:
            yield f"{trial.what} booked {settled} tokens in {len(entries)} entries; its response says {used}"


@rule(after=(call_is_answered,))
def answered_call_ends_its_hold(bench: Bench) -> Iterator[str]:
    """After an answer nothing is held. (BUDGET-3)"""
    for trial in bench.answered:
        if held := held_at_rest(trial.budget):
            yield f"{trial.what} left {held} held"


@rule(after=(call_is_answered, usage_is_in_normal_form, output_limit_is_kept))
def bound_covers_the_call(bench: Bench) -> Iterator[str]:
    """`bound` is a graded Bound that covers what the call used; asking for it sends and changes nothing. (BUDGET-1)"""
    for trial, response in bench.responses:
        config = bench.budgeted()
        before, counted = state_of(config), bench.tally()
        bound = bench.adapter.bound(bench.means.prompt, config)
        if not isinstance(bound, Bound) or bound.grade not in get_args(Grade):
            yield f"bound gave {bound!r}"
            continue
        if not response.usage.estimated and not _covers(bound, response.usage):
            yield f"{bound} was given, and {trial.what} used {response.usage}"
        if changes(before, config) or bench.tally().since(counted).requests:
            yield "bound changed its config or sent something"


def _covers(bound: Bound, usage: Usage) -> bool:
    return bound.prompt_tokens >= usage.prompt_tokens and bound.completion_tokens >= usage.completion_tokens


@rule(after=(call_is_metered, bound_covers_the_call))
def hold_covers_the_call(bench: Bench) -> Iterator[str]:
    """What is held before a call is at least what is booked after it. (BUDGET-1)"""
    for trial in bench.answered:
        for entry in trial.budget.ledger:
            if entry.amount.tokens > entry.bound.tokens or entry.amount.calls > entry.bound.calls:
                yield f"{trial.what} held {entry.bound} and booked {entry.amount}"


@rule(after=(call_is_metered,))
def ledger_keeps_labels(bench: Bench) -> Iterator[str]:
    """The labels of a config are in the ledger. (BUDGET-4)"""
    for trial in bench.answered:
        expected = dict(bench.budgeted().labels)
        for entry in trial.budget.ledger:
            if dict(entry.labels) != expected:
                yield f"{trial.what}: labels are {dict(entry.labels)}, not {expected}"


@rule(after=(call_is_metered,))
def call_over_the_cap_is_refused(bench: Bench) -> Iterator[str]:
    """A call that no cap has room for, in tokens or in USD, raises LLMBudgetExceededError. (BUDGET-1)"""
    free = bench.adapter.price is not None and not bench.adapter.price.at_most(10**6, 10**6, 1)
    for trial in bench.over_cap:
        in_usd = trial.budget.total_usd is not None
        if not isinstance(trial.raised, LLMBudgetExceededError) and not (in_usd and free):
            yield str(trial)


@rule(after=(call_is_metered, bound_covers_the_call))
def limit_follows_the_budget(bench: Bench) -> Iterator[str]:
    """Without `max_tokens`, what the budget has room for is the limit that the answer keeps to. (BUDGET-8)"""
    room = bench.adapter.bound(bench.means.prompt, bench.budgeted())
    for form in FORMS:
        tracker = BudgetTracker(room.total_tokens, name="room")
        config = bench.budgeted(tracker, max_tokens=None, clamp_floor=room.max_tokens)
        trial = bench.ask(form, config, what=f"room for {room.max_tokens} tokens of output")
        if not isinstance(trial.outcome.returned, LLMResponse):
            yield str(trial)
        elif tracker.breached:
            yield f"{trial.what} passed its cap: {tracker}"


@rule(after=(call_is_metered,))
def own_budget_is_used(bench: Bench) -> Iterator[str]:
    """The adapter's `budget_tracker` is the budget of a call whose config has none. (BUDGET-7)"""
    usual = bench.adapter.budget_tracker
    for form in FORMS:
        bench.adapter.budget_tracker = tracker = BudgetTracker(name="own")
        try:
            trial = bench.ask(form, bench.means.config_with(), what="the adapter's own budget_tracker")
        finally:
            bench.adapter.budget_tracker = usual
        if not isinstance(trial.outcome.returned, LLMResponse):
            yield str(trial)
        elif not tracker.spent:
            yield f"{trial.what} booked nothing there"


@rule(after=(call_is_metered,))
def delegated_call_counts_on_both(bench: Bench) -> Iterator[str]:
    """A call with a delegated config counts on the child budget and on the one above. (BUDGET-4)"""
    for form in FORMS:
        above = bench.budgeted(BudgetTracker(name="above"))
        kept = {name: getattr(above, name) for name in ("model_name", "system_prompt", "max_tokens", "model_params")}
        config = above.delegate("below", total=10**9, **kept)
        trial = bench.ask(form, config, what="a delegated config")
        spent = (trial.budget.spent, above.budget_tracker.spent if above.budget_tracker else 0)
        if not isinstance(trial.outcome.returned, LLMResponse):
            yield str(trial)
        elif 0 in spent or len(set(spent)) > 1:
            yield f"{trial.what} counts {spent[0]} tokens on the child, and {spent[1]} above"


@rule(needs=("count_requests",), after=(call_is_metered,))
def books_cover_the_requests(bench: Bench) -> Iterator[str]:
    """No request goes out without a hold. (CALL-12)"""
    for trial in bench.answered:
        held = requests_held(trial.budget)
        if not trial.tally.requests:
            yield f"{trial.what} was answered, and count_requests saw no request"
        elif trial.tally.requests > held:
            yield f"{trial.what} held budget for {held} requests and sent {trial.tally.requests}"


@rule(needs=("billed_tokens",), after=(call_is_metered,))
def books_cover_the_bill(bench: Bench) -> Iterator[str]:
    """What the provider bills is booked. (BUDGET-1)"""
    for trial in bench.answered:
        if not trial.tally.billed:
            yield f"{trial.what} was answered, and billed_tokens saw no bill"
        elif trial.tally.billed > trial.budget.spent:
            yield f"{trial.what} booked {trial.budget.spent} tokens and was billed {trial.tally.billed}"

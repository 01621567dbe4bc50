"""Rules about a call's budget: its holds and its bookings."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, get_args

from llm_connect.budget.accounting.bounds import Bound, Grade
from llm_connect.budget.tracker import BudgetTracker
from llm_connect.errors import LLMBudgetExceededError
from llm_connect.types.response import LLMResponse
from llm_connect.types.usage import Usage

from .._bench import Bench
from .._rule import rule
from .._trial import FORMS, Trial
from .answers import call_is_answered, output_limit_is_kept, usage_is_in_normal_form

_LOOK_SECONDS = 0.01


def held_at_rest(tracker: BudgetTracker, seconds: float = 1.0) -> str | None:
    """The amount held after all calls have ended; threads that they started may take some `seconds` more."""
    until = time.monotonic() + seconds
    while any(held := tracker.snapshot().held) and time.monotonic() < until:
        time.sleep(_LOOK_SECONDS)
    return f"{held.tokens} tokens, {held.calls} calls and {held.usd} USD" if any(held) else None


def requests_held(tracker: BudgetTracker) -> int:
    """The number of requests that had a hold, whatever its outcome."""
    return sum(entry.bound.calls for entry in tracker.ledger)


@rule(after=(call_is_answered, usage_is_in_normal_form))
def call_is_metered(bench: Bench) -> Iterator[str]:
    """A call books what its response says it used, once. (BUDGET-7)"""
    for trial in bench.answered:
        yield from misbooked(trial, trial.outcome.returned, trial.budget)


def misbooked(trial: Trial, response: Any, tracker: BudgetTracker) -> Iterator[str]:
    """The difference between an answer's usage and its bookings, which may include an earlier attempt."""
    if not isinstance(response, LLMResponse):
        yield str(trial)
        return
    usage, entries = response.usage, list(tracker.ledger)
    settled = sum(entry.amount.tokens for entry in entries if entry.outcome in ("settled", "recorded"))
    if not entries:
        yield f"{trial.what} booked nothing: `metered = False` is for classes whose inner adapter meters"
    elif usage.estimated and tracker.spent < usage.total_tokens:
        yield f"{trial.what} booked {tracker.spent} tokens; its response estimates {usage.total_tokens}"
    elif not usage.estimated and settled != usage.total_tokens:
        yield f"{trial.what} booked {settled} tokens in {len(entries)} entries; its response says {usage.total_tokens}"


@rule(after=(call_is_answered,))
def answered_call_ends_its_hold(bench: Bench) -> Iterator[str]:
    """After an answer nothing is held. (BUDGET-3)"""
    for trial in bench.answered:
        if held := held_at_rest(trial.budget):
            yield f"{trial.what} left {held} held"


@rule(after=(output_limit_is_kept,))
def bound_covers_the_call(bench: Bench) -> Iterator[str]:
    """`bound` gives a graded Bound that covers what the call then used. (BUDGET-1)"""
    for trial, response in bench.responses:
        bound = bench.adapter.bound(bench.means.prompt, bench.budgeted())
        if not isinstance(bound, Bound) or bound.grade not in get_args(Grade):
            yield f"bound gave {bound!r}"
        elif not response.usage.estimated and not _covers(bound, response.usage):
            yield f"bound gave {bound}, and {trial.what} used {response.usage}"


def _covers(bound: Bound, usage: Usage) -> bool:
    return bound.prompt_tokens >= usage.prompt_tokens and bound.completion_tokens >= usage.completion_tokens


@rule(after=(call_is_metered, bound_covers_the_call))
def hold_covers_the_call(bench: Bench) -> Iterator[str]:
    """A call holds at least as much as it books afterwards. (BUDGET-1)"""
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
    """Without `max_tokens`, the answer keeps to the limit that the budget has room for. (BUDGET-8)"""
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
        yield from misbooked(trial, trial.outcome.returned, tracker)


@rule(after=(call_is_metered,))
def delegated_call_counts_on_both(bench: Bench) -> Iterator[str]:
    """A call with a delegated config counts on the child budget and on the one above. (BUDGET-4)"""
    for form in FORMS:
        tracker = BudgetTracker(name="above")
        above = bench.budgeted(tracker)
        kept = {name: getattr(above, name) for name in ("model_name", "system_prompt", "max_tokens", "model_params")}
        config = above.delegate("below", total=10**9, **kept)
        trial = bench.ask(form, config, what="a delegated config")
        yield from misbooked(trial, trial.outcome.returned, tracker)
        if trial.budget.spent != tracker.spent:
            yield f"{trial.what} counts {trial.budget.spent} tokens on the child, and {tracker.spent} above"


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
    """A call books everything that the provider bills. (BUDGET-1)"""
    for trial in bench.answered:
        if not trial.tally.billed:
            yield f"{trial.what} was answered, and billed_tokens saw no bill"
        elif trial.tally.billed > trial.budget.spent:
            yield f"{trial.what} booked {trial.budget.spent} tokens and was billed {trial.tally.billed}"

"""Rules about calls that the provider does not answer."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from llm_connect.errors import LLMTimeoutError

from .._bench import Bench, NotChecked
from .._rule import rule
from .bookings import call_is_metered, held_at_rest

#: A free event loop does other work a hundred times a second.
_FEWEST_TURNS = 4


@rule(needs=("slow",))
def deadline_is_kept(bench: Bench) -> Iterator[str]:
    """When `timeout_seconds` are over, a call ends in an LLMTimeoutError. (ADAPTER-6)"""
    for trial in bench.late:
        if trial.outcome.running or not isinstance(trial.raised, LLMTimeoutError):
            yield f"{trial}; timeout_seconds was {bench.means.deadline_seconds:g}"


@rule(needs=("slow",), after=(deadline_is_kept,))
def event_loop_stays_free(bench: Bench) -> Iterator[str]:
    """The async form does not block its event loop. (ADAPTER-3)"""
    trial = bench.late[1]
    if trial.outcome.turns < _FEWEST_TURNS:
        yield f"{trial.what} let others run {trial.outcome.turns} times in {trial.outcome.seconds:.1f} s"


@rule(needs=("slow",))
def cancellation_passes(bench: Bench) -> Iterator[str]:
    """A cancelled call raises CancelledError, soon. (ADAPTER-2)"""
    trial = bench.cancelled
    if trial.outcome.running or not isinstance(trial.raised, asyncio.CancelledError):
        yield str(trial)


@rule(needs=("slow",), after=(call_is_metered, deadline_is_kept, cancellation_passes))
def unanswered_call_ends_its_hold(bench: Bench) -> Iterator[str]:
    """When a call has timed out, or was cancelled and its threads have ended, nothing is held. (BUDGET-3)"""
    for trial in (*bench.late, bench.cancelled):
        if held := held_at_rest(trial.budget, 3 * bench.means.deadline_seconds + 1):
            yield f"{trial.what} left {held} held"


@rule(needs=("slow", "count_requests"), after=(unanswered_call_ends_its_hold,))
def unanswered_call_is_booked(bench: Bench) -> Iterator[str]:
    """A request that went out and was not answered counts as spent: the provider may bill it. (BUDGET-3)"""
    trials = (*bench.late, bench.cancelled)
    if not any(trial.tally.requests for trial in trials):
        raise NotChecked("count_requests does not count the requests of slow=")
    for trial in trials:
        if (trial.tally.requests or 0) > trial.budget.spent_calls or (trial.tally.requests and not trial.budget.spent):
            yield f"{trial.what} sent {trial.tally.requests} requests and booked {trial.budget.snapshot().spent}"

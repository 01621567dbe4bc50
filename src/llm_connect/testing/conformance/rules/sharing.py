"""Many callers at once: threads, tasks and event loops, under a cap that not all of them fit."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any

from llm_connect.core.budget import BudgetTracker
from llm_connect.core.exceptions import LLMBudgetExceededError
from llm_connect.core.holds import Hold
from llm_connect.core.models import LLMResponse, RunConfig

from ..bench import Bench
from ..calls import GRACE_SECONDS, Outcome, run, run_together
from ..rule import rule
from ..trial import FORMS, Form, Tally, async_work, made, sync_work
from .answers import call_is_answered
from .budget import answered_call_ends_its_hold, bound_covers_the_call, call_is_metered, held_at_rest

_LOOK_SECONDS = 0.01


@rule(after=(call_is_answered,))
def threads_and_loops_share_one_adapter(bench: Bench) -> Iterator[str]:
    """One adapter serves threads and event loops at the same time, and another event loop later. (ADAPTER-8)"""
    at_once = [_thread(bench, bench.means.config_with()), _loop_of_two(bench)] * 2
    yield from _strange(_each(run_together(at_once, _seconds(bench))))
    yield from _strange(_each([run(_loop_of_two(bench), _seconds(bench))]))


@rule(after=(call_is_answered,))
def sync_call_works_in_a_running_loop(bench: Bench) -> Iterator[str]:
    """The sync form works in a thread whose event loop runs. (ADAPTER-8)"""

    async def inside() -> Any:
        return bench.adapter.execute_prompt(bench.means.prompt, bench.budgeted())

    yield from _strange([run(lambda: asyncio.run(inside()), _seconds(bench))])


@rule(after=(call_is_metered, bound_covers_the_call, answered_call_ends_its_hold))
def call_waits_for_budget(bench: Bench) -> Iterator[str]:
    """A call that does not fit now, but will when another has ended, waits and is answered. (BUDGET-2)"""
    for form in FORMS:
        tracker, before = BudgetTracker(_bound(bench), name="taken"), bench.tally()
        taken = tracker.reserve(_bound(bench))
        works = [_made(bench, form, bench.budgeted(tracker)), _freeing(bench, taken, before)]
        outcome, freed = run_together(works, _seconds(bench))
        yield from (f"{form}: {text}" for text in _strange(_each([outcome])))
        if freed.returned:
            yield f"{form} sent {freed.returned} requests while all of its budget was held"


@rule(after=(call_is_metered, answered_call_ends_its_hold))
def cap_on_calls_holds_for_tasks(bench: Bench) -> Iterator[str]:
    """Of many tasks at once, as many are answered as a cap on calls allows, and the others are refused. (BUDGET-1)"""
    calls = bench.means.calls
    tracker, before = BudgetTracker(total_calls=calls, name="tasks"), bench.tally()
    outcomes = _each([run(_loop_of(bench, bench.means.attempts, tracker), _seconds(bench))])
    answered = yield from _answered_or_refused(outcomes)
    yield from _beyond(bench, tracker, before, answered)
    if not answered == tracker.spent_calls == calls:
        yield f"{answered} of {bench.means.attempts} were answered, and {tracker}"


@rule(after=(call_is_metered, bound_covers_the_call, answered_call_ends_its_hold))
def cap_on_tokens_holds_for_threads(bench: Bench) -> Iterator[str]:
    """Of many threads at once, at least those are answered whose bounds fit, and the cap is not passed. (BUDGET-1)"""
    calls, attempts = bench.means.calls, bench.means.attempts
    tracker, before = BudgetTracker(calls * _bound(bench), name="threads"), bench.tally()
    config = bench.budgeted(tracker, when_short="refuse")
    outcomes = run_together([_thread(bench, config)] * attempts, _seconds(bench))
    answered = yield from _answered_or_refused(outcomes)
    yield from _beyond(bench, tracker, before, answered)
    if answered < calls or tracker.breached:
        yield f"{answered} of {attempts} were answered, and {tracker}"


def _bound(bench: Bench) -> int:
    return bench.adapter.bound(bench.means.prompt, bench.budgeted()).total_tokens


def _seconds(bench: Bench) -> float:
    return bench.means.patience_seconds + 2 * GRACE_SECONDS


def _thread(bench: Bench, config: RunConfig) -> Callable[[], Any]:
    return sync_work(bench.adapter, bench.means.prompt, config)


def _made(bench: Bench, form: Form, config: RunConfig) -> Callable[[], list[Outcome]]:
    return lambda: [made(form, bench.adapter, bench.means.prompt, config, bench.means.patience_seconds)]


def _loop_of_two(bench: Bench) -> Callable[[], list[Outcome]]:
    return _loop_of(bench, 2, None)


def _loop_of(bench: Bench, tasks: int, tracker: BudgetTracker | None) -> Callable[[], list[Outcome]]:
    """An event loop with so many calls in one gather."""
    configs = [bench.means.config_with(budget_tracker=tracker) for _ in range(tasks)]
    works = [async_work(bench.adapter, bench.means.prompt, config) for config in configs]

    async def gathered() -> list[Any]:
        return await asyncio.gather(*(work() for work in works), return_exceptions=True)

    return lambda: [_outcome(result) for result in asyncio.run(gathered())]


def _outcome(result: Any) -> Outcome:
    return Outcome(raised=result) if isinstance(result, BaseException) else Outcome(returned=result)


def _freeing(bench: Bench, hold: Hold, before: Tally) -> Callable[[], int | None]:
    """Releases a hold once a call waits for it, and gives how many requests were sent until then."""

    def free() -> int | None:
        until = time.monotonic() + GRACE_SECONDS
        while not hold.tracker.snapshot().waiting and time.monotonic() < until:
            time.sleep(_LOOK_SECONDS)
        sent = bench.tally().since(before).requests
        hold.release()
        return sent

    return free


def _each(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """The outcomes of all calls, those in the lists that event loops have returned included."""
    return [
        each for outcome in outcomes for each in (outcome.returned if isinstance(outcome.returned, list) else [outcome])
    ]


def _strange(outcomes: Iterable[Outcome]) -> Iterator[str]:
    """Each way to end that is no answer, once."""
    return iter(dict.fromkeys(str(outcome) for outcome in outcomes if not isinstance(outcome.returned, LLMResponse)))


def _answered_or_refused(outcomes: list[Outcome]) -> Generator[str, None, int]:
    """Yields what is neither an answer nor a refusal, and returns how many were answered."""
    yield from _strange(outcome for outcome in outcomes if not isinstance(outcome.raised, LLMBudgetExceededError))
    return sum(isinstance(outcome.returned, LLMResponse) for outcome in outcomes)


def _beyond(bench: Bench, tracker: BudgetTracker, before: Tally, answered: int) -> Iterator[str]:
    """What is held in the end, sent without an answer, or billed and not booked."""
    if held := held_at_rest(tracker):
        yield f"{held} are still held"
    tally = bench.tally().since(before)
    if (tally.requests or 0) > answered:
        yield f"{tally.requests} requests were sent, and {answered} calls answered"
    if (tally.billed or 0) > tracker.spent:
        yield f"{tally.billed} tokens were billed, and {tracker.spent} booked"

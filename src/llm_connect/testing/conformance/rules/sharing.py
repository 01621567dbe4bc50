"""Rules about many callers at once: threads, tasks and event loops, under a cap that is too small for all of them."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any

from llm_connect.budget.accounting.bounds import Bound
from llm_connect.budget.admission.holds import Hold
from llm_connect.budget.tracker import BudgetTracker
from llm_connect.errors import LLMBudgetExceededError
from llm_connect.interface.config import RunConfig
from llm_connect.types.response import LLMResponse

from .._bench import Bench
from .._calls import GRACE_SECONDS, Outcome, run, run_together
from .._rule import rule
from .._trial import FORMS, Form, Tally, async_work, made, sync_work
from .answers import call_is_answered
from .bookings import answered_call_ends_its_hold, bound_covers_the_call, call_is_metered, held_at_rest

_LOOK_SECONDS = 0.01


@rule(after=(call_is_answered,))
def threads_and_loops_share_one_adapter(bench: Bench) -> Iterator[str]:
    """One adapter serves threads and event loops at the same time, and another event loop later. (ADAPTER-8)"""
    at_once = [work for _ in range(2) for work in (_thread(bench, bench.means.config_with()), _loop_of_two(bench))]
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
        needed, before = _bound(bench).total_tokens, bench.tally()
        tracker = BudgetTracker(needed, name="taken")
        ended, taken = threading.Event(), tracker.reserve(needed)
        works = [_made(bench, form, bench.budgeted(tracker), ended), _freeing(bench, tracker, taken, before, ended)]
        outcome, freed = run_together(works, _seconds(bench))
        yield from (f"{form}: {text}" for text in _strange(_each([outcome])))
        if freed.returned:
            yield f"{form} sent {freed.returned} requests while all of its budget was held"


@rule(after=(call_is_metered, bound_covers_the_call, answered_call_ends_its_hold))
def cap_on_calls_holds_for_tasks(bench: Bench) -> Iterator[str]:
    """Of many tasks at once, as many are answered as a cap on calls allows, and the others are refused. (BUDGET-1)"""
    calls = bench.means.calls
    limit = calls * _bound(bench).calls
    tracker, before = BudgetTracker(total_calls=limit, name="tasks"), bench.tally()
    outcomes = _each([run(_loop_of(bench, bench.means.attempts, tracker), _seconds(bench))])
    answered = yield from _answered_or_refused(outcomes)
    yield from _beyond(bench, tracker, before, answered)
    if not calls <= answered <= tracker.spent_calls <= limit:
        yield f"{answered} of {bench.means.attempts} were answered, and {tracker}"


@rule(after=(call_is_metered, bound_covers_the_call, answered_call_ends_its_hold))
def cap_on_tokens_holds_for_threads(bench: Bench) -> Iterator[str]:
    """Of many threads at once, at least those are answered whose bounds fit, and the cap is not passed. (BUDGET-1)"""
    calls, attempts = bench.means.calls, bench.means.attempts
    tracker, before = BudgetTracker(calls * _bound(bench).total_tokens, name="threads"), bench.tally()
    works = [_thread(bench, bench.budgeted(tracker, when_short="refuse")) for _ in range(attempts)]
    outcomes = run_together(works, _seconds(bench))
    answered = yield from _answered_or_refused(outcomes)
    yield from _beyond(bench, tracker, before, answered)
    if answered < calls or tracker.breached:
        yield f"{answered} of {attempts} were answered, and {tracker}"


def _bound(bench: Bench) -> Bound:
    return bench.adapter.bound(bench.means.prompt, bench.budgeted())


def _seconds(bench: Bench) -> float:
    return bench.means.patience_seconds + 2 * GRACE_SECONDS


def _thread(bench: Bench, config: RunConfig) -> Callable[[], Any]:
    return sync_work(bench.adapter, bench.means.prompt, config)


def _made(bench: Bench, form: Form, config: RunConfig, ended: threading.Event) -> Callable[[], list[Outcome]]:
    """Make one call in one form, and announce its end."""

    def call() -> list[Outcome]:
        outcome = made(form, bench.adapter, bench.means.prompt, config, bench.means.patience_seconds)
        ended.set()
        return [outcome]

    return call


def _loop_of_two(bench: Bench) -> Callable[[], list[Outcome]]:
    return _loop_of(bench, 2, None)


def _loop_of(bench: Bench, tasks: int, tracker: BudgetTracker | None) -> Callable[[], list[Outcome]]:
    """Run this many calls in one gather of an event loop."""
    configs = [bench.means.config_with(budget_tracker=tracker) for _ in range(tasks)]
    works = [async_work(bench.adapter, bench.means.prompt, config) for config in configs]

    async def gathered() -> list[Any]:
        return await asyncio.gather(*(work() for work in works), return_exceptions=True)

    return lambda: [_outcome(result) for result in asyncio.run(gathered())]


def _outcome(result: Any) -> Outcome:
    return Outcome(raised=result) if isinstance(result, BaseException) else Outcome(returned=result)


def _freeing(
    bench: Bench, tracker: BudgetTracker, hold: Hold, before: Tally, ended: threading.Event
) -> Callable[[], int | None]:
    """Release a hold once a call waits for it or has ended; return the number of requests sent until then."""

    def free() -> int | None:
        until = time.monotonic() + GRACE_SECONDS
        while not tracker.snapshot().waiting and not ended.wait(_LOOK_SECONDS) and time.monotonic() < until:
            pass
        sent = bench.tally().since(before).requests
        hold.release()
        return sent

    return free


def _each(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """The outcomes of all calls, including those in the lists that event loops have returned."""
    return [
        each for outcome in outcomes for each in (outcome.returned if isinstance(outcome.returned, list) else [outcome])
    ]


def _strange(outcomes: Iterable[Outcome]) -> Iterator[str]:
    """Each kind of end other than an answer, once."""
    return iter(dict.fromkeys(str(outcome) for outcome in outcomes if not isinstance(outcome.returned, LLMResponse)))


def _answered_or_refused(outcomes: list[Outcome]) -> Generator[str, None, int]:
    """Yield each outcome that is neither an answer nor a refusal; return the number of answers."""
    yield from _strange(outcome for outcome in outcomes if not isinstance(outcome.raised, LLMBudgetExceededError))
    return sum(isinstance(outcome.returned, LLMResponse) for outcome in outcomes)


def _beyond(bench: Bench, tracker: BudgetTracker, before: Tally, answered: int) -> Iterator[str]:
    """Yield anything held at the end, sent without an answer, or billed and not booked, unless single calls show it."""
    if held := held_at_rest(tracker):
        yield f"{held} are still held"
    tally = bench.tally().since(before)
    requests_of_one = max(trial.tally.requests or 0 for trial in bench.answered)
    if (tally.requests or 0) > answered * requests_of_one:
        yield f"{tally.requests} requests were sent, and {answered} calls answered"
    covered_alone = all((trial.tally.billed or 0) <= trial.budget.spent for trial in bench.answered)
    if covered_alone and (tally.billed or 0) > tracker.spent:
        yield f"{tally.billed} tokens were billed, and {tracker.spent} booked"

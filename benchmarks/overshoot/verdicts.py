"""The rules that llm-connect must keep. One broken rule fails the run."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.overshoot.results import Result
from benchmarks.overshoot.scenarios import PAID_CALLS, SCENARIOS

#: If the bound of a call is close to its usage, all but one of the calls that the cap pays for go through.
_NEARLY_ALL = ("sequential", "gather", "threads", "chain")
_REFUSALS = {"LLMBudgetExceededError", "LLMBudgetNeverFitsError", "LLMBudgetWaitError"}


def broken(result: Result) -> list[str]:
    """The rules that a result of ours breaks, each in one line."""
    if result.failed:
        return [f"{_name(result)}: no result: {result.failed}"]
    return [f"{_name(result)}: {rule}" for rule in (*_cap(result), *_caller(result), *_books(result))]


def _cap(result: Result) -> Iterator[str]:
    scenario = SCENARIOS[result.scenario]
    if scenario.ignore_limit:
        if result.calls > PAID_CALLS:
            yield f"{result.calls} calls were sent although the cap was passed"
    elif result.bill > result.cap:
        yield f"the bill of {result.bill} is above the cap of {result.cap}"
    if result.scenario in _NEARLY_ALL and result.calls < PAID_CALLS - 1:
        yield f"only {result.calls} of {PAID_CALLS} calls that fit were let through"
    if result.calls == 0:
        yield "nothing was sent"
    for agent, (spent, cap) in result.below.items():
        if spent > cap:
            yield f"{agent} and those below it spent {spent} of {cap}"
        if spent == 0:
            yield f"{agent} and those below it were let nothing through"


def _caller(result: Result) -> Iterator[str]:
    ended = sum(result.outcomes.values())
    expected = result.attempts // 3 * 3 if result.scenario == "chain" else result.attempts
    if ended != expected:
        yield f"{ended} of {expected} attempts ended"
    if result.lost:
        yield f"{result.lost} paid replies never reached the caller"
    unknown = set(result.outcomes) - {"answer", "cancelled", *_REFUSALS}
    if unknown:
        yield f"attempts ended with {', '.join(sorted(unknown))}"


def _books(result: Result) -> Iterator[str]:
    usage_came_back = not SCENARIOS[result.scenario].stalls
    if result.books < result.bill or (usage_came_back and result.books != result.bill):
        yield f"{result.books} was booked for a bill of {result.bill}"
    if result.held != 0:
        yield f"{result.held} is still held"


def _name(result: Result) -> str:
    return f"{result.contender}, {result.scenario}"

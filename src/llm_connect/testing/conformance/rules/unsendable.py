"""Rules about calls that an adapter must not send."""

from __future__ import annotations

from collections.abc import Iterator

from llm_connect.errors import LLMConfigurationError

from .._bench import UNKNOWN_PARAMETER, Bench
from .._rule import rule
from .._trial import Trial, changes, state_of


@rule()
def unsendable_prompt_is_refused(bench: Bench) -> Iterator[str]:
    """A prompt that is no text, blank or not UTF-8 raises LLMConfigurationError, also without a budget. (ADAPTER-7)"""
    return _let_through(bench.unsendable)


@rule()
def unknown_parameter_is_refused(bench: Bench) -> Iterator[str]:
    """A key of `model_params` that the provider does not know raises LLMConfigurationError. (WIRE-3)"""
    return _let_through(bench.unknown_parameter)


def _let_through(trials: tuple[Trial, ...]) -> Iterator[str]:
    for trial in trials:
        if not isinstance(trial.raised, LLMConfigurationError):
            yield f"{trial}, {'with' if trial.tracker else 'without'} a budget"


@rule(needs=("count_requests",))
def refused_call_is_not_sent(bench: Bench) -> Iterator[str]:
    """Nothing has been sent when a call is refused, for its prompt, its parameters or its budget. (ADAPTER-7)"""
    for trial in bench.refused:
        if trial.tally.requests:
            yield f"{trial}, after {trial.tally.requests} requests"


@rule()
def refused_call_costs_nothing(bench: Bench) -> Iterator[str]:
    """A call that was refused leaves its budget as it was. (BUDGET-3)"""
    for trial in bench.refused:
        if trial.tracker is not None and (trial.tracker.spent, trial.tracker.held) != (0, 0):
            yield f"{trial}, and left {trial.tracker.spent} tokens spent and {trial.tracker.held} held"


@rule()
def validate_config_is_pure(bench: Bench) -> Iterator[str]:
    """`validate_config` gives a bool for any config, sends nothing and changes nothing. (ADAPTER-4)"""
    params = {**bench.means.config.model_params, UNKNOWN_PARAMETER: 1}
    for what, config in (("a good config", bench.budgeted()), ("an unknown key", bench.budgeted(model_params=params))):
        before, counted = state_of(config), bench.tally()
        verdict = bench.adapter.validate_config(config)
        if not isinstance(verdict, bool):
            yield f"{what} gives {verdict!r}"
        if changed := changes(before, config):
            yield f"{what}: {', '.join(changed)} changed"
        if bench.tally().since(counted).requests:
            yield f"{what}: a request was sent"
        if config.budget_tracker is not None and len(config.budget_tracker.ledger):
            yield f"{what}: something was booked"

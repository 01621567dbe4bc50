"""Rules about good calls: their answers, and the things that they must not change."""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

from llm_connect.types.response import FINISH_REASONS, LLMResponse
from llm_connect.types.usage import Usage

from .._bench import Bench
from .._rule import rule
from .._trial import FORMS

_PARTS = {
    "cached_tokens": "prompt_tokens",
    "cache_write_tokens": "prompt_tokens",
    "reasoning_tokens": "completion_tokens",
}


@rule()
def call_is_answered(bench: Bench) -> Iterator[str]:
    """A call gives an LLMResponse whose `content` is text and whose `model` is named. (ADAPTER-1)"""
    for trial in bench.answered:
        response = trial.outcome.returned
        if not trial.outcome.answered or not isinstance(response, LLMResponse):
            yield str(trial)
        elif not isinstance(response.content, str):
            yield f"{trial.what}: content is of type {type(response.content).__name__}"
        elif not isinstance(response.model, str) or not response.model.strip():
            yield f"{trial.what}: model is {response.model!r}"


@rule(after=(call_is_answered,))
def config_may_be_left_out(bench: Bench) -> Iterator[str]:
    """Without a config, and so without a budget, a call is answered as well. (MODEL-5)"""
    for form in FORMS:
        trial = bench.ask(form, None, what="no config")
        if not isinstance(trial.outcome.returned, LLMResponse):
            yield str(trial)


@rule(after=(call_is_answered,))
def config_is_not_changed(bench: Bench) -> Iterator[str]:
    """A config is not changed, nor is anything in it. (ADAPTER-5)"""
    for trial in bench.answered:
        if trial.changed:
            yield f"{trial.what} has changed {', '.join(trial.changed)}"


@rule(after=(call_is_answered,))
def usage_is_in_normal_form(bench: Bench) -> Iterator[str]:
    """Usage counts whole tokens, parts are parts of their whole, and only `estimated` usage counts none. (MODEL-1)"""
    for trial, response in bench.responses:
        yield from (f"{trial.what}: {fault}" for fault in _usage_faults(response))


def _usage_faults(response: LLMResponse) -> Iterator[str]:
    usage = response.usage
    if not isinstance(usage, Usage):
        yield f"usage is of type {type(usage).__name__}"
        return
    counts = {name: getattr(usage, name) for name in ("prompt_tokens", "completion_tokens", *_PARTS)}
    wrong = {name: value for name, value in counts.items() if not _is_count(value)}
    if wrong:
        yield f"no whole numbers of tokens: {wrong}"
        return
    for part, whole in _PARTS.items():
        if counts[part] > counts[whole]:
            yield f"{part} is {counts[part]}, more than {whole}, which is {counts[whole]}"
    if not usage.estimated and (not usage.prompt_tokens or (response.content and not usage.completion_tokens)):
        yield f"{usage} counts nothing for what was sent: say estimated=True where the provider does not say"


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


@rule(after=(call_is_answered,))
def finish_reason_is_known(bench: Bench) -> Iterator[str]:
    """`finish_reason` is one of the closed set. (MODEL-9)"""
    for trial, response in bench.responses:
        if response.finish_reason not in FINISH_REASONS:
            yield f"{trial.what}: {response.finish_reason!r} is none of {', '.join(FINISH_REASONS)}"


@rule(after=(call_is_answered,))
def metadata_is_complete(bench: Bench) -> Iterator[str]:
    """`metadata` has `provider` (text), `latency_seconds` (a number) and `attempts` (a count from 1). (CALL-6)"""
    for trial, response in bench.responses:
        provider, latency, attempts = map(response.metadata.get, ("provider", "latency_seconds", "attempts"))
        if not isinstance(provider, str) or not provider.strip():
            yield f"{trial.what}: provider is {provider!r}"
        if isinstance(latency, bool) or not isinstance(latency, int | float) or latency < 0:
            yield f"{trial.what}: latency_seconds is {latency!r}"
        if not _is_count(attempts) or not attempts:
            yield f"{trial.what}: attempts is {attempts!r}"


@rule(after=(call_is_answered,))
def cost_is_decimal_or_none(bench: Bench) -> Iterator[str]:
    """An unknown `cost` is None; a known one is a Decimal of USD, not below 0, with its `cost_source`. (MODEL-3)"""
    for trial, response in bench.responses:
        cost = response.cost
        if cost is None:
            continue
        if not isinstance(cost, Decimal) or not cost.is_finite() or cost < 0:
            yield f"{trial.what}: cost is {cost!r}"
        elif not response.cost_source:
            yield f"{trial.what}: cost is {cost}, and cost_source is {response.cost_source!r}"


@rule(after=(call_is_answered, usage_is_in_normal_form))
def answer_is_plain_data(bench: Bench) -> Iterator[str]:
    """`to_dict()` of an answer is what `json.dumps` takes. (MODEL-4)"""
    for trial, response in bench.responses:
        try:
            json.dumps(response.to_dict())
        except (TypeError, ValueError, AttributeError) as error:
            yield f"{trial.what}: {error}"


@rule(after=(call_is_answered, usage_is_in_normal_form))
def output_limit_is_kept(bench: Bench) -> Iterator[str]:
    """The answer keeps to `max_tokens`, which is what its hold assumes. (BUDGET-8)"""
    most = bench.budgeted().max_tokens or 0
    for trial, response in bench.responses:
        if not response.usage.estimated and response.usage.completion_tokens > most:
            yield f"{trial.what}: {response.usage.completion_tokens} tokens for max_tokens={most}: is it sent?"


@rule(after=(call_is_answered, usage_is_in_normal_form))
def forms_agree(bench: Bench) -> Iterator[str]:
    """Both forms give the same kind of answer: model, tokens of the prompt, names in `metadata`. (CALL-1)"""
    first, second = ({**character(response)} for _, response in bench.responses)
    for name, value in first.items():
        if second[name] != value:
            yield f"{name} is {value!r} from {FORMS[0]}, and {second[name]!r} from {FORMS[1]}"


def character(response: LLMResponse) -> dict[str, Any]:
    """The properties that all answers to one prompt share."""
    return {
        "model": response.model,
        "usage.prompt_tokens": response.usage.prompt_tokens,
        "usage.estimated": response.usage.estimated,
        "cost_source": response.cost_source,
        "names in metadata": sorted(response.metadata),
    }

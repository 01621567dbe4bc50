"""Rules about errors: the information that may leave an adapter when its provider fails."""

from __future__ import annotations

import pickle
from collections.abc import Iterator

from llm_connect.errors import LLMError

from .._bench import Bench
from .._rule import rule
from .._searching import KEY_PART, PROMPT_PART, has_part_of, texts_of
from .bookings import call_is_metered, held_at_rest


@rule(needs=("failing",))
def failure_is_an_llm_error(bench: Bench) -> Iterator[str]:
    """A failure is an LLMError. (ADAPTER-2)"""
    for trial in bench.failed:
        if not isinstance(trial.raised, LLMError):
            yield str(trial)


@rule(needs=("failing",), after=(failure_is_an_llm_error,))
def forms_fail_alike(bench: Bench) -> Iterator[str]:
    """The same failure is the same class of error in both forms. (CALL-1)"""
    for trials in bench.failures:
        if len({type(trial.raised) for trial in trials}) > 1:
            yield "; ".join(map(str, trials))


@rule(needs=("failing",), after=(failure_is_an_llm_error,))
def error_is_one_line(bench: Bench) -> Iterator[str]:
    """The text of an error is one line. (ERROR-3)"""
    for error in _errors(bench):
        if len(str(error).splitlines()) != 1:
            yield f"the text of {type(error).__name__} is {str(error)!r}"


@rule(needs=("failing",), after=(failure_is_an_llm_error,))
def error_can_be_pickled(bench: Bench) -> Iterator[str]:
    """An error can be pickled, and all its attributes but `cause` survive. (ERROR-4)"""
    for error in _errors(bench):
        name = type(error).__name__
        try:
            again = pickle.loads(pickle.dumps(error))  # noqa: S301 - what has just been dumped
        except Exception as reason:
            yield f"{name}: {type(reason).__name__}: {reason}"
            continue
        if (type(again), str(again)) != (type(error), str(error)):
            yield f"{name} became {type(again).__name__}: {again}"
        if lost := _lost(error, again):
            yield f"{name} came back with other values of {', '.join(lost)}"


def _lost(error: LLMError, again: LLMError) -> list[str]:
    before, after = vars(error) | {"cause": None}, vars(again)
    return [name for name, value in before.items() if name not in after or after[name] != value]


@rule(needs=("failing",), after=(failure_is_an_llm_error,))
def error_holds_no_prompt(bench: Bench) -> Iterator[str]:
    """No prompt and no system prompt is in an error or in the log of a failed call. (ERROR-5)"""
    return _found(bench, {"the prompt": bench.means.prompt, "the system prompt": _system_prompt(bench)}, PROMPT_PART)


@rule(needs=("failing", "secrets"), after=(failure_is_an_llm_error,))
def error_holds_no_key(bench: Bench) -> Iterator[str]:
    """No key is in an error or in the log of a failed call. (ERROR-5)"""
    return _found(bench, {f"secret {n}": key for n, key in enumerate(bench.means.secrets, 1)}, KEY_PART)


@rule(needs=("secrets",))
def repr_holds_no_key(bench: Bench) -> Iterator[str]:
    """No key is in the `repr` of an adapter. (PROVIDER-4)"""
    for number, key in enumerate(bench.means.secrets, 1):
        if has_part_of(key, KEY_PART, f"{bench.adapter!r} {bench.adapter}"):
            yield f"secret {number} is in it"


@rule(needs=("failing",), after=(call_is_metered, failure_is_an_llm_error))
def failed_call_ends_its_hold(bench: Bench) -> Iterator[str]:
    """After a failure nothing is held, and what may be billed is booked. (BUDGET-3)"""
    for trial in bench.failed:
        if held := held_at_rest(trial.budget):
            yield f"{trial.what} left {held} held"
        elif isinstance(trial.raised, LLMError) and trial.raised.maybe_billed and not trial.budget.spent:
            yield f"{trial.what} booked nothing, and its error says maybe_billed: {trial.raised}"


def _errors(bench: Bench) -> Iterator[LLMError]:
    return (trial.raised for trial in bench.failed if isinstance(trial.raised, LLMError))


def _system_prompt(bench: Bench) -> str:
    return bench.means.config_with().system_prompt or ""


def _found(bench: Bench, planted: dict[str, str], length: int) -> Iterator[str]:
    texts = [text for error in _errors(bench) for text in texts_of(error)]
    texts += [("the log", text) for text in bench.failure_log]
    for what, value in planted.items():
        for place in dict.fromkeys(place for place, text in texts if has_part_of(value, length, text)):
            yield f"{what} is in {place}"

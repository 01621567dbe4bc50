"""What users say about budgets, checked: limits and amounts."""

from __future__ import annotations

from typing import Any, TypeAlias

from llm_connect._validation import check_count, check_labels, check_line
from llm_connect.budget.accounting.demands import NO_FACTS, CallFacts, PlainDemand
from llm_connect.budget.accounting.money import checked_usd, nano_usd_of
from llm_connect.errors import LLMConfigurationError
from llm_connect.types.amounts import MOST, MOST_LIMIT, NANO
from llm_connect.types.usage import Usage

#: Limits in tokens, calls and nano-USD; None where there is none.
Limits: TypeAlias = tuple[int | None, int | None, int | None]
#: The figures of a usage.
_PARTS = ("prompt_tokens", "completion_tokens", "cached_tokens", "cache_write_tokens", "reasoning_tokens")
#: Makes a named tuple in half the time; every call makes some.
_tuple = tuple.__new__


def checked_limits(total: object, total_calls: object, total_usd: object, most: int = MOST_LIMIT) -> Limits:
    """The limits that a user gave. Raises LLMConfigurationError for one that cannot be meant, or counted."""
    check_count("total", total, least=1, most=most, optional=True)
    check_count("total_calls", total_calls, least=1, most=most, optional=True)
    nano_usd = None if total_usd is None else checked_usd("total_usd", total_usd, most)
    if nano_usd == 0:
        raise LLMConfigurationError(f"total_usd must be above 0, not {total_usd!r}.")
    return total, total_calls, nano_usd  # type: ignore[return-value]


def checked_amount(
    tokens: object, calls: object, usd: object, adapter: str | None, model: str | None, labels: Any
) -> tuple[PlainDemand, CallFacts]:
    """What a user's own reservation asks for. Raises LLMConfigurationError for a figure that is none."""
    if not (type(tokens) is int and type(calls) is int and 0 <= tokens <= MOST and 0 <= calls <= MOST):
        check_count("tokens", tokens, least=0, most=MOST)
        check_count("calls", calls, least=0, most=MOST)
    nano_usd = usd * NANO if type(usd) is int and 0 <= usd <= MOST // NANO else checked_usd("usd", usd)
    demand: PlainDemand = _tuple(PlainDemand, (tokens, calls, nano_usd))
    if adapter is model is labels is None:
        return demand, NO_FACTS
    labels = {} if labels is None else labels
    check_labels(labels)
    for name, text in (("adapter", adapter), ("model", model)):
        check_line(name, text)
    return demand, CallFacts(adapter=adapter, model=model, labels=dict(labels))


def checked_correction(tokens: object, calls: object, usd: object) -> Limits:
    """Like `checked_figures`, of what a budget can count."""
    for name, value in (("tokens", tokens), ("calls", calls)):
        check_count(name, value, least=0, most=MOST, optional=True)
    return tokens, calls, None if usd is None else checked_usd("usd", usd)  # type: ignore[return-value]


def check_usage(usage: object) -> None:
    """Raise LLMConfigurationError for a usage of another type, or with a figure that is none."""
    if not isinstance(usage, Usage):
        raise LLMConfigurationError(
            f"usage must be a Usage, not {type(usage).__name__}: make one, or say the tokens alone."
        )
    for name in _PARTS:
        check_count(f"usage.{name}", getattr(usage, name), least=0)


def checked_figures(tokens: object, calls: object, usd: object) -> Limits:
    """What a call is said to have used, however much; None for what is not said. Raises LLMConfigurationError."""
    check_count("tokens", tokens, least=0, optional=True)
    check_count("calls", calls, least=0, optional=True)
    return tokens, calls, None if usd is None else nano_usd_of("usd", usd)  # type: ignore[return-value]

"""Validation of the limits and amounts that users pass to a budget."""

from __future__ import annotations

from typing import Any, TypeAlias

from llm_connect._validation import check_count, check_labels, check_line
from llm_connect.budget.accounting.demands import CallFacts, PlainDemand
from llm_connect.budget.accounting.money import checked_usd, nano_usd_of
from llm_connect.errors import LLMConfigurationError
from llm_connect.types.amounts import MOST, MOST_LIMIT, NANO
from llm_connect.types.usage import Usage

#: Limits in tokens, calls and nano-USD; None for no limit.
Limits: TypeAlias = tuple[int | None, int | None, int | None]
#: The facts of an amount without any metadata.
_BOOKING = CallFacts(asker="booking")
#: The fields of a `Usage` that count tokens.
_PARTS = ("prompt_tokens", "completion_tokens", "cached_tokens", "cache_write_tokens", "reasoning_tokens")
#: Makes a named tuple in half the time, and every call makes several.
_tuple = tuple.__new__


def checked_limits(total: object, total_calls: object, total_usd: object, most: int = MOST_LIMIT) -> Limits:
    """Validate the limits of a tracker. Raises LLMConfigurationError for one that is invalid or too large."""
    check_count("total", total, least=1, most=most, optional=True)
    check_count("total_calls", total_calls, least=1, most=most, optional=True)
    nano_usd = None if total_usd is None else checked_usd("total_usd", total_usd, most)
    if nano_usd == 0:
        raise LLMConfigurationError(f"total_usd must be above 0, not {total_usd!r}.")
    return total, total_calls, nano_usd  # type: ignore[return-value]


def checked_amount(
    tokens: object, calls: object, usd: object, adapter: str | None, model: str | None, labels: Any
) -> tuple[PlainDemand, CallFacts]:
    """Validate an amount that a user books or consumes. Raises LLMConfigurationError for an invalid one."""
    if not (type(tokens) is int and type(calls) is int and 0 <= tokens <= MOST and 0 <= calls <= MOST):
        check_count("tokens", tokens, least=0, most=MOST)
        check_count("calls", calls, least=0, most=MOST)
    nano_usd = usd * NANO if type(usd) is int and 0 <= usd <= MOST // NANO else checked_usd("usd", usd)
    demand: PlainDemand = _tuple(PlainDemand, (tokens, calls, nano_usd))
    if adapter is model is labels is None:
        return demand, _BOOKING
    labels = {} if labels is None else labels
    check_labels(labels)
    for name, text in (("adapter", adapter), ("model", model)):
        check_line(name, text)
    return demand, CallFacts(adapter=adapter, model=model, labels=dict(labels), asker="booking")


def checked_correction(tokens: object, calls: object, usd: object) -> Limits:
    """Like `checked_figures`, and refuses amounts that are too large for a budget."""
    for name, value in (("tokens", tokens), ("calls", calls)):
        check_count(name, value, least=0, most=MOST, optional=True)
    return tokens, calls, None if usd is None else checked_usd("usd", usd)  # type: ignore[return-value]


def check_usage(usage: object) -> None:
    """Raise LLMConfigurationError for a usage of another type, or with an invalid figure."""
    if not isinstance(usage, Usage):
        raise LLMConfigurationError(
            f"usage must be a Usage, not {type(usage).__name__}: make one, or pass the tokens alone."
        )
    for name in _PARTS:
        check_count(f"usage.{name}", getattr(usage, name), least=0)


def checked_figures(tokens: object, calls: object, usd: object) -> Limits:
    """Validate the actual figures of a call, without an upper limit; None means not given.

    Raises LLMConfigurationError for an invalid figure.
    """
    check_count("tokens", tokens, least=0, optional=True)
    check_count("calls", calls, least=0, optional=True)
    return tokens, calls, None if usd is None else nano_usd_of("usd", usd)  # type: ignore[return-value]

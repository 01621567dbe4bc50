"""OpenRouter's additions to the errors of chat completions: is the error temporary, and when to retry.

Source: OpenRouter's documentation of its limits and errors. A 402 for lack of credits is final. A 402 because the
requests under way use up the account's allowance is temporary.
"""

from __future__ import annotations

from dataclasses import replace

from llm_connect.protocols.http_failures import seconds
from llm_connect.protocols.wire import JSON, Failure, Reply, first, mapping, read_json

_IN_FLIGHT = "openrouter_in_flight_budget"


def with_openrouters_words(failure: Failure, reply: Reply) -> Failure:
    """Amend `failure` by the metadata and the availability in the error of `reply`."""
    error = _error_of(reply)
    metadata, availability = mapping(error.get("metadata")), mapping(error.get("availability"))
    if not metadata and not availability:
        return failure
    waits = (failure.retry_after, _wait(metadata), _wait(availability))
    return replace(
        failure,
        retryable=_may_pass(failure, metadata, availability),
        retry_after=next((wait for wait in waits if wait is not None), None),
    )


def _error_of(reply: Reply) -> JSON:
    body = read_json(reply)
    if isinstance(body, Failure):
        return {}
    return mapping(body.get("error") or first(body.get("choices")).get("error"))


def _may_pass(failure: Failure, metadata: JSON, availability: JSON) -> bool:
    said = availability.get("retryable")
    if isinstance(said, bool):
        return said
    return failure.retryable or metadata.get("limit_source") == _IN_FLIGHT


def _wait(said: JSON) -> float | None:
    """A number of seconds; as text, it has the same form as in a header."""
    value = said.get("retry_after")
    return seconds(str(value)) if isinstance(value, int | float | str) and not isinstance(value, bool) else None

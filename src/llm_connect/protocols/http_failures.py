"""Failures by HTTP status, for every provider over HTTP."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import TypeGuard

from llm_connect.errors import (
    LLMAPIError,
    LLMAuthenticationError,
    LLMConnectionError,
    LLMError,
    LLMRateLimitError,
)
from llm_connect.protocols.error_bodies import ErrorFields, read_error, said_in, tells_of_error
from llm_connect.protocols.wire import JSON, Failure, Reply, first, is_good, mapping, read_json, request_id, shown

_RETRYABLE = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529})
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_ADVICE = {
    400: "change the request",
    401: "check the API key",
    402: "add credits, or ask for fewer tokens",
    403: "check what the API key may do",
    404: "check the model name and base_url",
    408: "try again",
    413: "send a shorter prompt",
    422: "change the request",
    429: "wait, or send fewer requests at once",
}


def read_answer(reply: Reply, figured: Callable[[Failure, JSON], Failure]) -> JSON | Failure:
    """Return the object that may be an answer, or the failure that the status or the content of the reply means.

    figured: adds the tokens and the cost in such an object to the failure.
    """
    if not reply.good:
        said = said_in(reply.body)
        return figured(error_reply(reply, said), mapping(said))
    body = read_json(reply)
    said = first(said_in(reply.body)) if isinstance(body, Failure) else body
    return figured(error_reply(reply, said), said) if tells_of_error(said) else body


def error_reply(reply: Reply, said: object) -> Failure:
    """The failure that an error means, whatever its HTTP status; `said` is the result of `said_in` for its body."""
    error = read_error(said)
    return from_status(
        reply,
        error.fields,
        status=error.status,
        kind=LLMAuthenticationError if error.bad_key else None,
        retryable=False if error.used_up else None,
        retry_after=_longest(error.wait, wait_asked_for(reply.headers)),
    )


def from_status(
    reply: Reply,
    fields: ErrorFields,
    *,
    status: object = None,
    kind: type[LLMError] | None = None,
    retryable: bool | None = None,
    retry_after: float | None = None,
) -> Failure:
    """The failure that a complete error reply means.

    A 3xx or 4xx is not billed. With any other status the provider may have begun to answer. `status` is the one in the
    body, which counts under a good status.
    """
    status = status if reply.good and _is_error_status(status) else reply.status
    kind = kind or _kind(status)
    wait = wait_asked_for(reply.headers) if retry_after is None else retry_after
    return Failure(
        kind=kind,
        message=_message(status, fields, _advice(status, kind, retryable), wait),
        retryable=status in _RETRYABLE if retryable is None else retryable,
        maybe_billed=not 300 <= reply.status < 500,
        retry_after=wait,
        request_id=request_id(reply),
        details={"status_code": status, "response_body": fields.public()},
    )


def no_reply(what: str, *, unsent: bool, retryable: bool = True, request_id: str | None = None) -> Failure:
    """The failure of a connection that could not be made, so that nothing was sent, or that broke too early."""
    said = "No connection could be made" if unsent else "The connection broke before the whole reply came"
    return Failure(
        kind=LLMConnectionError,
        message=f"{said} ({what}): check the network and base_url.",
        retryable=retryable,
        maybe_billed=not unsent,
        request_id=request_id,
    )


def seconds(value: str | None) -> float | None:
    """A wait in seconds; None if it is invalid."""
    try:
        number = float(value) if value else None
    except ValueError:
        return None
    return number if number is not None and 0 <= number < float("inf") else None


def wait_asked_for(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait by `retry-after-ms` or `retry-after` (seconds or a date); None without these."""
    milliseconds = seconds(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    value = headers.get("retry-after")
    wait = seconds(value)
    return wait if wait is not None else _seconds_until(value)


def _longest(*waits: float | None) -> float | None:
    return max((wait for wait in waits if wait is not None), default=None)


def _kind(status: int) -> type[LLMError]:
    if status == 429:
        return LLMRateLimitError
    return LLMAuthenticationError if status in (401, 403) else LLMAPIError


def _message(status: int, fields: ErrorFields, advice: str, wait: float | None) -> str:
    if status in _REDIRECTS:
        return f"HTTP {status}: a redirect, which is not followed: set base_url to the final address."
    said = f": {shown(fields.message)}" if fields.message else ""
    when = "" if wait is None else f"; retry after {math.ceil(wait):,.9g} s"
    return f"HTTP {status}{said} ({advice}{when})."


def _advice(status: int, kind: type[LLMError], retryable: bool | None) -> str:
    if status == 400 and kind is LLMAuthenticationError:
        status = 401
    if status == 429 and retryable is False:
        return "the quota is used up: add credits, or wait until it is renewed"
    if is_good(status):
        return "the server may be overloaded: try again later"
    return _ADVICE.get(status, "try again later" if status >= 500 else "change the request")


def _is_error_status(status: object) -> TypeGuard[int]:
    return isinstance(status, int) and 400 <= status < 600


def _seconds_until(value: str | None) -> float | None:
    try:
        moment = parsedate_to_datetime(value) if value else None
    except (ValueError, OverflowError):
        return None
    if moment is None:
        return None
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, aware.timestamp() - time.time())

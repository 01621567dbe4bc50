"""Failures by HTTP status, for every provider over HTTP."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime

from llm_connect.errors import (
    LLMAPIError,
    LLMAuthenticationError,
    LLMConnectionError,
    LLMError,
    LLMRateLimitError,
)
from llm_connect.protocols.error_bodies import ErrorFields, read_error, seconds
from llm_connect.protocols.wire import Failure, Reply, is_good, request_id_in, shown

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


def error_reply(reply: Reply, said: object) -> Failure:
    """The failure that an error means, whatever its HTTP status; `said` is the result of `said_in` for its body."""
    return from_status(reply, read_error(said))


def from_status(reply: Reply, fields: ErrorFields) -> Failure:
    """The failure that a complete error reply means.

    A 3xx or 4xx is not billed. With any other status the provider may have begun to answer. The status in the body
    counts under a good one.
    """
    status = fields.status if is_good(reply.status) and fields.status is not None else reply.status
    waits = [wait for wait in (fields.wait, wait_asked_for(reply.headers)) if wait is not None]
    wait = max(waits, default=None)
    return Failure(
        kind=LLMAuthenticationError if fields.bad_key else _kind(status),
        message=_message(status, fields, wait),
        retryable=status in _RETRYABLE and not fields.used_up,
        maybe_billed=not 300 <= reply.status < 500,
        retry_after=wait,
        request_id=request_id_in(reply.headers),
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


def wait_asked_for(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait by `retry-after-ms` or `retry-after` (seconds or a date); None without these."""
    milliseconds = seconds(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    value = headers.get("retry-after")
    wait = seconds(value)
    return wait if wait is not None else _seconds_until(value)


def _kind(status: int) -> type[LLMError]:
    if status == 429:
        return LLMRateLimitError
    return LLMAuthenticationError if status in (401, 403) else LLMAPIError


def _message(status: int, fields: ErrorFields, wait: float | None) -> str:
    if status in _REDIRECTS:
        return f"HTTP {status}: a redirect, which is not followed: set base_url to the final address."
    said = f": {shown(fields.message)}" if fields.message else ""
    when = "" if wait is None else f"; retry after {math.ceil(wait):,.9g} s"
    return f"HTTP {status}{said} ({_advice(status, fields)}{when})."


def _advice(status: int, fields: ErrorFields) -> str:
    if status == 400 and fields.bad_key:
        status = 401
    if status == 429 and fields.used_up:
        return "the quota is used up: add credits, or wait until it is renewed"
    if is_good(status):
        return "the server may be overloaded: try again later"
    return _ADVICE.get(status, "try again later" if status >= 500 else "change the request")


def _seconds_until(value: str | None) -> float | None:
    try:
        moment = parsedate_to_datetime(value) if value else None
    except (ValueError, OverflowError):
        return None
    if moment is None:
        return None
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, aware.timestamp() - time.time())

"""Decides if and when to retry a failed attempt."""

from __future__ import annotations

import random

from llm_connect.engine.deadline import Deadline
from llm_connect.protocols.wire import Failure

_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 20.0


def pause_before_retry(failure: Failure, attempt: int, max_retries: int, deadline: Deadline) -> float | None:
    """Seconds to wait before the next attempt, or None if there should be no other.

    A pause that the provider asks for is kept in full; otherwise pauses double, with jitter. A pause that would pass
    the deadline is not begun.
    """
    if not failure.retryable or attempt > max_retries:
        return None
    pause = _backoff(attempt) if failure.retry_after is None else failure.retry_after
    return pause if pause < deadline.remaining() else None


def _backoff(attempt: int) -> float:
    longest = min(_LONGEST_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * 2.0 ** (attempt - 1))
    return longest * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, not a secret

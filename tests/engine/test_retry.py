"""Whether and when there is another attempt."""

from __future__ import annotations

import pytest

from llm_connect import LLMAPIError
from llm_connect.engine.deadline import Deadline
from llm_connect.engine.exchange import pause_before_retry
from llm_connect.protocols.wire import Failure


def failure(*, retryable: bool = True, retry_after: float | None = None) -> Failure:
    return Failure(kind=LLMAPIError, message="m", retryable=retryable, retry_after=retry_after)


def pause(failed: Failure, attempt: int = 1, retries: int = 2, seconds: float = 100) -> float | None:
    return pause_before_retry(failed, attempt, retries, Deadline.after(seconds))


def test_only_what_may_pass_is_tried_again() -> None:
    """A failure that will not pass has no next attempt, even when the provider names a time. (CALL-3)"""
    assert pause(failure(retryable=False, retry_after=0)) is None
    assert pause(failure()) is not None


@pytest.mark.parametrize(("attempt", "retries", "more"), [(1, 0, False), (1, 1, True), (2, 1, False), (5, 5, True)])
def test_retries_are_counted(attempt: int, retries: int, more: bool) -> None:
    """After `max_retries` further attempts there is none. (CALL-3)"""
    assert (pause(failure(), attempt, retries) is not None) is more


def test_without_a_wish_the_pause_doubles_with_jitter_and_is_capped() -> None:
    """Half to whole of 0.5, 1, 2, 4 ... seconds, never more than 20, however many attempts there were. (CALL-4)"""
    for attempt, longest in ((1, 0.5), (2, 1), (3, 2), (4, 4), (7, 20), (500, 20)):
        pauses = [pause(failure(), attempt, 1000) for _ in range(50)]
        assert all(p is not None and longest / 2 <= p <= longest for p in pauses)
        assert len(set(pauses)) > 1


@pytest.mark.parametrize("wish", [0, 0.25, 7.5, 60])
def test_the_providers_wish_is_kept_in_full(wish: float) -> None:
    """What the provider asks for is neither shortened nor prolonged. (CALL-4)"""
    assert pause(failure(retry_after=wish)) == wish


@pytest.mark.parametrize("wish", [10, 10.5, 1e300])
def test_a_pause_that_the_deadline_does_not_allow_is_not_begun(wish: float) -> None:
    """Waiting past the deadline helps nobody. (CALL-4)"""
    assert pause(failure(retry_after=wish), seconds=10) is None
    assert pause(failure(), seconds=0) is None

"""Questions beside a call: asked in a slot of the adapter, and again after a temporary failure."""

from __future__ import annotations

from typing import Any

import pytest

from llm_connect._flows import drive
from llm_connect.engine.concurrency_limit import Turn
from llm_connect.engine.deadline import Deadline
from llm_connect.engine.exchange import Request
from llm_connect.engine.token_count import ask_until_answered
from llm_connect.errors import LLMRateLimitError, LLMTimeoutError
from tests.engine.test_call_budget import SLOW_DOWN, Stub


def asked(adapter: Stub, *says: Any, seconds: float = 20.0) -> Any:
    """The answer to a question that may be asked twice, of which these are the replies."""
    replies, request = iter(says), Request("/", "m", {"max": 1})
    deadline = Deadline.after(seconds)
    return drive(ask_until_answered(adapter, request, lambda _: next(replies), deadline=deadline, max_retries=1))


def test_a_question_is_asked_again_after_a_temporary_failure() -> None:
    """Its answer is that of the last attempt, and the slot is free afterwards."""
    adapter = Stub(max_concurrency=1)
    assert asked(adapter, SLOW_DOWN, 7) == 7
    assert len(adapter.limits) == 2
    assert adapter.slots.take(Turn(20)) is not None


def test_a_question_that_keeps_failing_raises_its_error() -> None:
    """After its retries the error tells how often it was asked."""
    with pytest.raises(LLMRateLimitError) as caught:
        asked(Stub(), SLOW_DOWN, SLOW_DOWN, 7)
    assert (caught.value.attempts, caught.value.maybe_billed) == (2, False)


def test_a_question_without_a_slot_is_not_asked() -> None:
    """It waits for a slot no longer than until its deadline."""
    adapter = Stub(max_concurrency=1)
    assert adapter.slots.take(Turn(20)) is not None
    with pytest.raises(LLMTimeoutError):
        asked(adapter, 7, seconds=0.02)
    assert adapter.limits == []

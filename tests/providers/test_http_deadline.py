"""However slow a provider over HTTP is, a call is over at its deadline."""

from __future__ import annotations

import time

import pytest

from llm_connect import LLMTimeoutError, RunConfig
from llm_connect.testing import Behaviour, EmbeddedProvider
from tests.providers.conftest import Ask, Make
from tests.providers.http_helpers import PROMPT, fails

#: Of a busy machine; each of these replies takes far longer.
NOISE = 5.0

SLOW = {
    "stall before headers": Behaviour(stall="before_headers"),
    "stall after headers": Behaviour(stall="after_headers"),
    "drip": Behaviour(drip=0.05),
    "drip headers": Behaviour(drip=0.05, drip_headers=True),
    "delay": Behaviour(delay=20),
}


@pytest.mark.parametrize("case", SLOW)
def test_the_deadline_is_total(make: Make, ask: Ask, provider: EmbeddedProvider, case: str) -> None:
    """However slowly bytes come, the call is over within its limit, and the next one is not harmed.

    (ADAPTER-6, CALL-2)
    """
    provider.script(SLOW[case], times=1)
    adapter, limit = make(), 0.5
    adapter.warm_up()
    started = time.monotonic()
    error = fails(ask, adapter, RunConfig(timeout_seconds=limit))
    elapsed = time.monotonic() - started
    assert type(error) is LLMTimeoutError
    assert limit * 0.9 <= elapsed <= limit * 1.1 + NOISE
    assert "timeout_seconds" in str(error)
    assert len(provider.requests) == 1
    assert ask(adapter, PROMPT).content


def test_the_deadline_is_for_all_attempts_together(make: Make, ask: Ask, provider: EmbeddedProvider) -> None:
    """Retries do not start the clock again. (CALL-2)"""
    provider.script(Behaviour(status=500, retry_after=0, delay=0.2))
    adapter, limit = make(), 0.7
    adapter.warm_up()
    started = time.monotonic()
    fails(ask, adapter, RunConfig(timeout_seconds=limit, max_retries=100))
    assert time.monotonic() - started <= limit * 1.1 + NOISE


def test_a_long_timeout_is_no_short_one(make: Make, ask: Ask, provider: EmbeddedProvider) -> None:
    """Sockets count in 32 bits of milliseconds: a timeout beyond them does not wrap around."""
    provider.script(Behaviour(delay=0.3), times=1)
    adapter = make()
    for timeout in (4_294_967.4, 1e10, 1e300):
        assert ask(adapter, PROMPT, RunConfig(timeout_seconds=timeout, max_retries=0)).content


def test_waiting_for_a_place_has_a_clock_of_its_own(make: Make, provider: EmbeddedProvider) -> None:
    """With every place taken a call waits for `max_queue_seconds`, and gives up without a request. (CALL-36)"""
    adapter, limit = make(max_concurrency=1), 0.4
    with adapter.stream_prompt(PROMPT, RunConfig(timeout_seconds=60)) as chunks:
        next(chunks)
        started = time.monotonic()
        with pytest.raises(LLMTimeoutError, match="max_queue_seconds") as caught:
            adapter.execute_prompt(PROMPT, RunConfig(timeout_seconds=limit / 4, max_queue_seconds=limit))
        assert limit * 0.9 <= time.monotonic() - started <= limit * 1.1 + NOISE
        assert not caught.value.maybe_billed
        assert len(provider.requests) == 1
    assert adapter.execute_prompt(PROMPT).content

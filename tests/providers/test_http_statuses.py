"""What a status means: any 2xx may hold an answer, and what is not billed costs nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from llm_connect import BudgetTracker, LLMAPIError, LLMError, LLMResponse, LLMResponseError, RunConfig
from tests.providers import reply_bytes
from tests.providers.conftest import Make, Wiring
from tests.providers.raw_server import RawServer, raw_server
from tests.transports import TRANSPORTS, choose

each_format = pytest.mark.parametrize("wiring", ["gemini", "openai", "openai-responses", "openrouter"], indirect=True)
PATHS = {"openai": "/v1", "gemini": "", "openrouter": "/api/v1"}
FORMS = ["call", "stream"]

Run = Callable[[Any, RunConfig], LLMResponse]


@pytest.fixture
def raw() -> Iterator[RawServer]:
    with raw_server() as server:
        yield server


@pytest.fixture(params=["sync", *TRANSPORTS])
def run(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> dict[str, Run]:
    """Both forms of a call, in a thread or over each transport of a loop, by the names of FORMS."""
    if request.param == "sync":
        return {"call": lambda adapter, config: adapter.execute_prompt("hi", config), "stream": _stream}
    choose(request.param, monkeypatch)
    return {
        "call": lambda adapter, config: asyncio.run(adapter.async_execute_prompt("hi", config)),
        "stream": lambda adapter, config: asyncio.run(_astream(adapter, config)),
    }


def _stream(adapter: Any, config: RunConfig) -> LLMResponse:
    with adapter.stream_prompt("hi", config) as stream:
        for _ in stream:
            pass
    return stream.response  # type: ignore[no-any-return]


async def _astream(adapter: Any, config: RunConfig) -> LLMResponse:
    async with adapter.async_stream_prompt("hi", config) as stream:
        async for _ in stream:
            pass
    return stream.response  # type: ignore[no-any-return]


def config_of(tracker: BudgetTracker) -> RunConfig:
    return RunConfig(max_tokens=50, max_retries=0, timeout_seconds=30, budget_tracker=tracker)


def outcomes(tracker: BudgetTracker) -> list[str]:
    return [entry.outcome for entry in tracker.ledger]


@each_format
@pytest.mark.parametrize("form", FORMS)
def test_an_answer_under_any_good_status_is_an_answer(
    make: Make, raw: RawServer, run: dict[str, Run], wiring: Wiring, form: str
) -> None:
    """What was paid for is given and settled, whichever 2xx a server or a gateway puts on it. (WIRE-41)"""
    wire, adapter = wiring.wire_format, make(base_url=raw.url + PATHS[wiring.name])
    for status in (200, 201, 202, 203, 206, 226, 299):
        tracker, body = BudgetTracker(100_000), reply_bytes.begun(wire) + reply_bytes.ended(wire)
        calls = reply_bytes.reply(status, reply_bytes.whole(wire))
        raw.reply = reply_bytes.streamed(body, status) if form == "stream" else calls
        response = run[form](adapter, config_of(tracker))
        assert (response.content, response.finish_reason) == (reply_bytes.TEXT, "stop"), status
        assert (tracker.spent, outcomes(tracker)) == (17, ["settled"]), status


@each_format
@pytest.mark.parametrize("form", FORMS)
def test_a_good_status_without_an_answer_is_presumed(
    make: Make, raw: RawServer, run: dict[str, Run], wiring: Wiring, form: str
) -> None:
    """Nobody knows what such a request cost, so its bound is booked. (WIRE-5)"""
    adapter = make(base_url=raw.url + PATHS[wiring.name])
    for status in (201, 202, 204, 205, 226):
        tracker = BudgetTracker(100_000)
        raw.reply = reply_bytes.reply(status, b"")
        error = fails(run[form], adapter, config_of(tracker))
        assert isinstance(error, LLMResponseError), status
        assert (error.status_code, error.maybe_billed, outcomes(tracker)) == (status, True, ["presumed"])


@each_format
@pytest.mark.parametrize("form", FORMS)
def test_a_redirect_costs_nothing_and_is_not_followed(
    make: Make, raw: RawServer, run: dict[str, Run], wiring: Wiring, form: str
) -> None:
    """A complete 3xx is released like a complete 4xx, and no second request is made. (WIRE-11, CALL-5)"""
    adapter = make(base_url=raw.url + PATHS[wiring.name])
    for status in (300, 301, 302, 303, 304, 307, 308):
        tracker, before = BudgetTracker(100_000), len(raw.requests)
        raw.reply = reply_bytes.reply(status, b"", "text/plain", f"location: {raw.url}/elsewhere")
        error = fails(run[form], adapter, config_of(tracker))
        assert isinstance(error, LLMAPIError)
        assert (error.status_code, error.maybe_billed) == (status, False)
        assert (len(raw.requests) - before, tracker.spent, outcomes(tracker)) == (1, 0, ["released"]), status


IN_GOOD = [
    (200, b'{"error": {"message": "it fell over", "code": 503}}', 503),
    (200, b'[{"error": {"message": "it fell over", "code": 503, "status": "UNAVAILABLE"}}]', 503),
    (201, b'{"error": "it fell over"}', 201),
    (200, b'{"detail": "it fell over"}', 200),
    (200, b'{"message": "it fell over", "code": 500}', 500),
    (200, b'{"object": "error", "message": "it fell over", "type": "InternalServerError"}', 500),
    (200, b"<html><title>it fell over</title></html>", 200),
    (200, b"upstream: it fell over", 200),
]


@each_format
@pytest.mark.parametrize("form", FORMS)
def test_an_error_under_a_good_status_keeps_its_words(
    make: Make, raw: RawServer, run: dict[str, Run], wiring: Wiring, form: str
) -> None:
    """It is no answer in any form that servers give it, says what they say, and may have been billed. (WIRE-6)"""
    adapter = make(base_url=raw.url + PATHS[wiring.name])
    for status, body, code in IN_GOOD:
        tracker = BudgetTracker(100_000)
        raw.reply = reply_bytes.reply(status, body)
        error = fails(run[form], adapter, config_of(tracker))
        assert isinstance(error, LLMAPIError), body
        assert "it fell over" in str(error), body
        assert (error.status_code, error.response, outcomes(tracker)) == (code, None, ["presumed"]), body


def fails(run: Run, adapter: Any, config: RunConfig) -> LLMError:
    with pytest.raises(LLMError) as caught:
        run(adapter, config)
    return caught.value

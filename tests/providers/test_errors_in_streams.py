"""An error in the midst of a stream, in each form that servers and gateways give it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

from llm_connect import BudgetTracker, LLMConnectionError, LLMError, LLMResponse, RunConfig
from tests.providers import reply_bytes
from tests.providers.conftest import Make, Wiring
from tests.providers.raw_server import RawServer, raw_server
from tests.providers.reply_bytes import DONE, event
from tests.transports import TRANSPORTS, choose

pytestmark = pytest.mark.slow

each_format = pytest.mark.parametrize("wiring", ["gemini", "openai", "openai-responses", "openrouter"], indirect=True)
PATHS = {"openai": "/v1", "gemini": "", "openrouter": "/api/v1"}

#: What comes in the midst, all with the same words.
SAID: dict[str, bytes] = {
    "an error": event({"error": {"message": "it fell over", "code": 503}}),
    "an error without code": event({"error": {"message": "it fell over"}}),
    "an error in a word": event({"error": "it fell over"}),
    "errors in a list": event({"errors": [{"message": "it fell over"}]}),
    "a detail": event({"detail": "it fell over"}),
    "details": event({"detail": [{"loc": ["body"], "msg": "it fell over", "type": "value_error"}]}),
    "an error by its type": event({"type": "error", "error": {"type": "overloaded_error", "message": "it fell over"}}),
    "an error by its object": event({"object": "error", "message": "it fell over", "code": 500}),
    "a message with a code": event({"message": "it fell over", "code": "internal_error"}),
    "a message alone": event({"message": "it fell over"}),
    "a message with a status": event({"status": 500, "title": "it fell over"}),
    "a type that ends so": event({"type": "server_error", "message": "it fell over"}),
    "an event of that name": b'event: error\ndata: {"detail": "it fell over"}\n\n',
    "an event of that name with a text": b"event: error\ndata: it fell over\n\n",
    "an event of that name with an error": b"event: error\n" + event({"error": {"message": "it fell over"}}),
    "an event of a like name": b"event: stream_error\n" + event({"more": 1, "msg": "it fell over"}),
    "a text as data": b"data: it fell over\n\n",
    "a page as data": b"data: <html><body>it fell over</body></html>\n\n",
    "a line of text": b"it fell over\n\n",
    "a page": b"<html>\n<head><title>502</title></head>\n<body>it fell over</body>\n</html>\n",
    "an object in a line": b'{"error": {"message": "it fell over"}}\n',
    "an object in several lines": json.dumps({"error": {"message": "it fell over"}}, indent=2).encode() + b"\n",
    "the same with returns": json.dumps({"error": {"message": "it fell over"}}, indent=2).encode() + b"\r\n\r\n",
}
ENDS = {"done": DONE, "closed": b""}


@pytest.fixture
def raw() -> Iterator[RawServer]:
    with raw_server() as server:
        yield server


@pytest.fixture(params=["sync", *TRANSPORTS])
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param != "sync":
        choose(request.param, monkeypatch)
    return str(request.param)


def stream(adapter: Any, config: RunConfig, form: str) -> tuple[LLMError | None, LLMResponse]:
    """How a stream ended, and what it then was."""
    return _sync(adapter, config) if form == "sync" else asyncio.run(_async(adapter, config))


def _sync(adapter: Any, config: RunConfig) -> tuple[LLMError | None, LLMResponse]:
    error = None
    with adapter.stream_prompt("hi", config) as opened:
        try:
            list(opened)
        except LLMError as raised:
            error = raised
    return error, opened.response


async def _async(adapter: Any, config: RunConfig) -> tuple[LLMError | None, LLMResponse]:
    error = None
    async with adapter.async_stream_prompt("hi", config) as opened:
        try:
            [_ async for _ in opened]
        except LLMError as raised:
            error = raised
    return error, opened.response


def config_of(tracker: BudgetTracker, **fields: Any) -> RunConfig:
    return RunConfig(max_tokens=50, timeout_seconds=30, budget_tracker=tracker, **fields)


@each_format
@pytest.mark.parametrize("end", ENDS)
def test_an_error_in_the_midst_is_an_error(make: Make, raw: RawServer, form: str, wiring: Wiring, end: str) -> None:
    """Whatever form it has and however the stream ends then, the text so far is in the error, with the server's words,
    and the bound is booked; it is not sent again. (STREAM-7)
    """
    adapter = make(base_url=raw.url + PATHS[wiring.name])
    for name, said in SAID.items():
        tracker, before = BudgetTracker(100_000), len(raw.requests)
        raw.reply = reply_bytes.streamed(reply_bytes.begun(wiring.wire_format) + said + ENDS[end])
        error, response = stream(adapter, config_of(tracker), form)
        assert error is not None, name
        assert error.response is not None, name
        assert error.response.content == response.content == reply_bytes.TEXT, name
        assert "it fell over" in str(error), name
        assert [entry.outcome for entry in tracker.ledger] == ["presumed"], name
        assert len(raw.requests) == before + 1, name


#: No field here is known to have the words of an error, but a name or a word tells of one.
HINTS: dict[str, bytes] = {
    "an event's name in the object": event({"event": "error", "data": "it fell over"}),
    "a field of that name": event({"failure": "it fell over", "id": 7}),
    "a short name": event({"err": "it fell over"}),
    "a state": event({"state": "failed", "info": "it fell over"}),
    "an event of another format": event({"type": "response.failed", "response": {"note": "it fell over"}}),
    "an exception by its type": event({"type": "RuntimeException", "info": "it fell over"}),
}


@each_format
def test_an_unfinished_answer_is_no_answer_if_an_event_hints_at_an_error(
    make: Make, raw: RawServer, form: str, wiring: Wiring
) -> None:
    """Some servers end a cut stream as a good one; an object that tells of trouble shows that it was not. (STREAM-7)"""
    adapter = make(base_url=raw.url + PATHS[wiring.name])
    for name, said in HINTS.items():
        tracker = BudgetTracker(100_000)
        raw.reply = reply_bytes.streamed(reply_bytes.begun(wiring.wire_format) + said + DONE)
        error, response = stream(adapter, config_of(tracker), form)
        assert error is not None, name
        assert error.response is not None, name
        assert error.response.content == response.content == reply_bytes.TEXT, name
        # The type of an error stands for its words if no field is known to have them.
        assert b'"type"' in said or "it fell over" in str(error), name
        assert [entry.outcome for entry in tracker.ledger] == ["presumed"], name


@each_format
def test_what_comes_beside_an_answer_does_not_matter(make: Make, raw: RawServer, form: str, wiring: Wiring) -> None:
    """Comments, pings, texts and objects of unknown kinds are ignored where the answer comes to its end. (STREAM-9)"""
    beside = (
        b": ping\n\nevent: ping\ndata: x\n\ndata:\n\ndata: ping\n\na line\n\n"
        + event({"type": "ping"})
        + event({"err": "slow"})
        + event({})
    )
    wire, tracker = wiring.wire_format, BudgetTracker(100_000)
    raw.reply = reply_bytes.streamed(beside + reply_bytes.begun(wire) + beside + reply_bytes.ended(wire))
    error, response = stream(make(base_url=raw.url + PATHS[wiring.name]), config_of(tracker), form)
    assert error is None
    assert (response.content, tracker.spent) == (reply_bytes.TEXT, 17)


@pytest.mark.parametrize("wiring", ["gemini", "openai", "openrouter"], indirect=True)
def test_a_piece_that_cannot_be_read_leaves_a_gap(make: Make, raw: RawServer, form: str, wiring: Wiring) -> None:
    """An answer of which a piece is lost is not given as a good one; its figures still settle it. (STREAM-7)"""
    wire, tracker = wiring.wire_format, BudgetTracker(100_000)
    raw.reply = reply_bytes.streamed(
        reply_bytes.begun(wire) + b'data: {"choices": [{"del\n\n' + reply_bytes.ended(wire)
    )
    error, response = stream(make(base_url=raw.url + PATHS[wiring.name]), config_of(tracker), form)
    assert error is not None
    assert "gap" in str(error)
    assert (response.content, tracker.spent) == (reply_bytes.TEXT, 17)


@pytest.mark.parametrize("wiring", ["openai", "openrouter"], indirect=True)
@pytest.mark.parametrize("reason", ["error", "abort"])
@pytest.mark.parametrize("end", ENDS)
def test_a_finish_reason_may_be_the_error(
    make: Make, raw: RawServer, form: str, wiring: Wiring, reason: str, end: str
) -> None:
    """A stream that the server stopped halfway says so by its finish reason alone. (STREAM-7)"""
    finish = event({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
    usage = event({"choices": [], "usage": reply_bytes.CHAT_USAGE})
    tracker = BudgetTracker(100_000)
    raw.reply = reply_bytes.streamed(reply_bytes.begun(wiring.wire_format) + finish + usage + ENDS[end])
    error, response = stream(make(base_url=raw.url + PATHS[wiring.name]), config_of(tracker), form)
    assert error is not None
    assert reason in str(error)
    assert error.response is not None
    assert error.response.content == response.content == reply_bytes.TEXT
    assert tracker.spent == 17


@pytest.mark.parametrize("wiring", ["openai-responses"], indirect=True)
@pytest.mark.parametrize("state", ["failed", "cancelled"])
@pytest.mark.parametrize("error", [{"error": {"code": "server_error", "message": "it fell over"}}, {}])
def test_a_response_may_fail(
    make: Make, raw: RawServer, form: str, wiring: Wiring, state: str, error: dict[str, Any]
) -> None:
    """The last state of a response that is no answer is an error, with the text so far. (STREAM-7)"""
    said = {"type": f"response.{state}", "response": {"status": state, "output": [], **error}}
    raw.reply = reply_bytes.streamed(reply_bytes.begun(wiring.wire_format) + event(said) + DONE)
    raised, _ = stream(make(base_url=raw.url + PATHS[wiring.name]), config_of(BudgetTracker(100_000)), form)
    assert raised is not None
    assert raised.response is not None
    assert raised.response.content == reply_bytes.TEXT
    assert ("it fell over" if error else state) in str(raised)


@each_format
def test_a_stream_without_its_end_keeps_its_text(make: Make, raw: RawServer, form: str, wiring: Wiring) -> None:
    """A connection that ends before the model is an error with the text so far. (STREAM-8)"""
    raw.reply = reply_bytes.streamed(reply_bytes.begun(wiring.wire_format))
    error, _ = stream(make(base_url=raw.url + PATHS[wiring.name]), config_of(BudgetTracker(100_000)), form)
    assert isinstance(error, LLMConnectionError)
    assert error.response is not None
    assert error.response.content == reply_bytes.TEXT
    assert error.response.usage.estimated

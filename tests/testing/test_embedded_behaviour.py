"""Each behaviour does what it says, and is billed as it says."""

from __future__ import annotations

import contextlib
import json
import time
from typing import Any

import pytest

from llm_connect.testing import WIRE_FORMATS, Behaviour

openai = pytest.importorskip("openai")
httpx2 = pytest.importorskip("httpx2")
genai = pytest.importorskip("google.genai")

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
KEY = {"Authorization": "Bearer k"}


@contextlib.contextmanager
def http_client(read: float = 30) -> Any:
    with httpx2.Client(trust_env=False, timeout=httpx2.Timeout(30, read=read), headers=KEY) as client:
        yield client


def chat_url(wire: Any) -> str:
    return f"{wire.provider.openai_url}/chat/completions"


def usage_total(wire_format: str, reply: dict[str, Any]) -> int | None:
    total: int | None
    match wire_format:
        case "generate_content":
            total = reply.get("usageMetadata", {}).get("totalTokenCount")
        case "anthropic_messages":
            usage = reply.get("usage", {})
            names = ("input_tokens", "cache_read_input_tokens", "output_tokens")
            total = sum(usage[name] for name in names) if usage else None
        case _:
            total = reply.get("usage", {}).get("total_tokens")
    return total


@pytest.mark.parametrize("wire_format", WIRE_FORMATS)
def test_status_answers_in_the_providers_error_shape(wire_format: Any, wire: Any) -> None:
    """An error has status, code, type and message where that provider puts them, and is not billed. (TESTKIT-3)"""
    wire.provider.script(Behaviour(status=429, error_message="too fast", error_type="T", error_code="C"))
    status, _, raw = wire.post(wire_format)
    error = json.loads(raw)["error"]
    assert status == 429
    assert error["message"] == "too fast"
    assert '"T"' in raw.decode()
    assert '"C"' in raw.decode()
    assert (wire.provider.meter.calls, wire.provider.meter.refused) == (0, 1)


def test_default_errors_carry_the_providers_codes(wire: Any) -> None:
    """Without further words an error looks as it usually does."""
    wire.provider.script(Behaviour(status=429))
    assert wire.ask("openai_chat")["error"]["code"] == "rate_limit_exceeded"
    assert wire.ask("openrouter")["error"]["code"] == 429
    assert wire.ask("generate_content")["error"]["status"] == "RESOURCE_EXHAUSTED"
    assert wire.ask("anthropic_messages")["error"]["type"] == "rate_limit_error"


def test_retry_after_is_a_header_and_in_geminis_format_a_detail(wire: Any) -> None:
    """Seconds to wait are said in the way of each provider."""
    wire.provider.script(Behaviour(status=429, retry_after=1.5))
    assert wire.post("openai_chat")[1]["retry-after"] == "1.5"
    _, headers, raw = wire.post("generate_content")
    assert "retry-after" not in headers
    assert json.loads(raw)["error"]["details"][0]["retryDelay"] == "1.5s"


def test_sdks_raise_their_own_errors(wire: Any) -> None:
    """The SDKs recognise scripted errors."""
    wire.provider.script(Behaviour(status=503, error_code="busy"))
    with (
        openai.OpenAI(base_url=wire.provider.openai_url, api_key="k", max_retries=0) as client,
        pytest.raises(openai.InternalServerError) as caught,
    ):
        client.chat.completions.create(**CHAT)
    assert caught.value.code == "busy"
    assert caught.value.request_id
    options = genai.types.HttpOptions(base_url=wire.provider.gemini_url)
    gemini = genai.Client(api_key="k", vertexai=False, http_options=options)
    with contextlib.closing(gemini), pytest.raises(genai.errors.ServerError) as refused:
        gemini.models.generate_content(model="m", contents="hi")
    assert (refused.value.code, refused.value.status) == (503, "UNAVAILABLE")


@pytest.mark.parametrize("wire_format", WIRE_FORMATS)
def test_error_in_200_is_an_error_body_that_is_billed(wire_format: Any, wire: Any) -> None:
    """The worst of both: HTTP says fine, the body says failed, the money is gone. (TESTKIT-3)"""
    wire.provider.script(Behaviour(error_in_200=True, status=502))
    status, _, raw = wire.post(wire_format)
    assert status == 200
    assert "error" in json.loads(raw)
    assert wire.provider.meter.calls == 1


def test_billed_overrides_the_rule(wire: Any) -> None:
    """A 500 may have cost something, and an error in a 200 nothing. (TESTKIT-3)"""
    wire.provider.script(Behaviour(status=500, billed=True), times=1)
    wire.provider.script(Behaviour(error_in_200=True, billed=False), times=1)
    wire.post("openai_chat")
    wire.post("openai_chat")
    assert (wire.provider.meter.calls, wire.provider.meter.refused) == (1, 1)


def test_counted_behaviours_come_in_order_before_the_standing_one(wire: Any) -> None:
    """First those for some requests, one after the other; then the last one set for all. (TESTKIT-4)"""
    wire.provider.script(Behaviour(status=500))
    wire.provider.script(Behaviour(status=504))
    wire.provider.script(Behaviour(status=429), times=2)
    wire.provider.script(Behaviour(status=503), times=1)
    statuses = [wire.post("openai_chat")[0] for _ in range(5)]
    assert statuses == [429, 429, 503, 504, 504]


def test_behaviour_of_one_format_leaves_the_others_alone(wire: Any) -> None:
    """Only requests of that format use it up."""
    wire.provider.script(Behaviour(status=500), times=1, wire_format="openrouter")
    assert wire.post("openai_chat")[0] == 200
    assert wire.post("openrouter")[0] == 500
    assert wire.post("openrouter")[0] == 200


def test_refused_requests_do_not_use_up_a_behaviour(wire: Any) -> None:
    """A request without a key or with a bad body never gets as far as the script."""
    wire.provider.script(Behaviour(status=503), times=1)
    wire.post("openai_chat", key=None)
    wire.post("openai_chat", b"{")
    assert wire.post("openai_chat")[0] == 503


def test_delay_comes_before_the_headers(wire: Any) -> None:
    """Nothing is sent for that long, and the meter has counted by then."""
    wire.provider.script(Behaviour(delay=0.2))
    started = time.monotonic()
    with http_client(read=0.05) as client, pytest.raises(httpx2.ReadTimeout):
        client.post(chat_url(wire), json=CHAT)
    wire.provider.wait_for_requests(1, timeout=30)
    assert wire.provider.meter.calls == 1
    assert wire.post("openai_chat")[0] == 200
    assert time.monotonic() - started > 0.2


def test_delay_holds_up_only_its_own_request(wire: Any) -> None:
    """Another connection is answered meanwhile."""
    wire.provider.script(Behaviour(delay=30), times=1)
    waiting = wire.connect()
    waiting.sendall(b"POST /v1/messages HTTP/1.1\r\nx-api-key: k\r\ncontent-length: 84\r\n\r\n")
    waiting.sendall(json.dumps(wire.body("anthropic_messages", limit=9)).encode().ljust(84))
    wire.provider.wait_for_requests(1)
    assert wire.post("openai_chat")[0] == 200


def test_drip_sends_single_bytes(wire: Any) -> None:
    """A read timeout never strikes though the whole takes longer than it."""
    wire.provider.script(Behaviour(drip=0.01, drip_headers=True, body=b'{"a": 1}' + b" " * 242))
    started = time.monotonic()
    with http_client(read=2) as client:
        assert client.post(chat_url(wire), json=CHAT).json() == {"a": 1}
    assert time.monotonic() - started > 2


@pytest.mark.parametrize("place", ["before_headers", "after_headers"])
def test_stall_never_goes_on(place: Any, wire: Any) -> None:
    """The client gives up, the call is billed, and the server lives on. (TESTKIT-3)"""
    wire.provider.script(Behaviour(stall=place), times=1)
    with http_client(read=0.1) as client, pytest.raises(httpx2.ReadTimeout):
        client.post(chat_url(wire), json=CHAT)
    wire.provider.wait_for_requests(1, timeout=30)
    assert wire.provider.meter.calls == 1
    assert wire.post("openai_chat")[0] == 200


def test_stall_after_headers_has_sent_the_headers(wire: Any) -> None:
    """The status is known, the body never comes."""
    wire.provider.script(Behaviour(stall="after_headers"))
    with http_client(read=2) as client, client.stream("POST", chat_url(wire), json=CHAT) as reply:
        assert reply.status_code == 200
        with pytest.raises(httpx2.ReadTimeout):
            reply.read()


@pytest.mark.parametrize("cut", ["before_reply", 0, 10])
def test_cut_closes_in_the_middle(cut: Any, wire: Any) -> None:
    """The client sees a protocol error, the call is billed in full. (TESTKIT-3)"""
    wire.provider.script(Behaviour(cut=cut), times=1)
    with http_client() as client, pytest.raises(httpx2.RemoteProtocolError):
        client.post(chat_url(wire), json=CHAT)
    assert wire.provider.meter.completion_tokens == 40
    assert wire.post("openai_chat")[0] == 200


def test_cut_sends_exactly_that_many_bytes(wire: Any) -> None:
    """The headers promise more than what comes."""
    wire.provider.script(Behaviour(cut=10))
    _, headers, body = wire.post("openai_chat")
    assert len(body) == 10 < int(headers["content-length"])


@pytest.mark.parametrize(
    ("body", "content_type"),
    [(b"<html>busy</html>", "text/html"), (b"", None), (b'{"id": "chat', None), (b"\xff\x00", "image/png")],
)
def test_body_replaces_the_reply(body: bytes, content_type: str | None, wire: Any) -> None:
    """Raw bytes are sent as they are, under the wanted type, and billed."""
    wire.provider.script(Behaviour(body=body, content_type=content_type, headers={"x-more": "yes"}))
    status, headers, raw = wire.post("openai_chat")
    assert (status, raw) == (200, body)
    assert headers["content-type"] == (content_type or "application/json")
    assert headers["x-more"] == "yes"
    assert wire.provider.meter.calls == 1


@pytest.mark.parametrize("wire_format", WIRE_FORMATS)
def test_usage_may_be_missing_or_zero_but_is_billed(wire_format: Any, wire: Any) -> None:
    """The reply lies, the meter does not."""
    wire.provider.script(Behaviour(usage="missing"), times=1)
    wire.provider.script(Behaviour(usage="zero"), times=1)
    totals = [usage_total(wire_format, wire.ask(wire_format)) for _ in range(3)]
    assert totals == [None, 0, wire.provider.meter.total_tokens // 3]
    assert wire.provider.meter.calls == 3


@pytest.mark.parametrize("wire_format", WIRE_FORMATS)
def test_ignored_limit_returns_and_bills_more(wire_format: Any, wire: Any) -> None:
    """1.5 times the limit comes back, and reply and meter agree about it."""
    wire.provider.script(Behaviour(ignore_limit=1.5))
    reply = wire.ask(wire_format, wire.body(wire_format, limit=101))
    assert wire.provider.meter.completion_tokens == 152
    assert usage_total(wire_format, reply) == wire.provider.meter.total_tokens


def test_empty_text_is_a_good_reply_without_text(wire: Any) -> None:
    """Nothing was said, so nothing but the prompt is billed."""
    wire.provider.script(Behaviour(empty_text=True))
    reply = wire.ask("openai_chat")["choices"][0]
    assert (reply["message"]["content"], reply["finish_reason"]) == ("", "stop")
    assert wire.ask("anthropic_messages")["content"] == []
    assert wire.ask("generate_content")["candidates"][0]["content"] == {"role": "model"}
    assert wire.provider.meter.completion_tokens == 0


def test_finish_reason_is_passed_on_as_given(wire: Any) -> None:
    """Each provider's own words, known or not."""
    wire.provider.script(Behaviour(finish_reason="content_filter"))
    assert wire.ask("openai_chat")["choices"][0]["finish_reason"] == "content_filter"
    assert wire.ask("openrouter")["choices"][0]["native_finish_reason"] == "content_filter"
    reply = wire.ask("openai_responses")
    assert (reply["status"], reply["incomplete_details"]) == ("incomplete", {"reason": "content_filter"})
    wire.provider.script(Behaviour(finish_reason="refusal"))
    assert wire.ask("anthropic_messages")["stop_reason"] == "refusal"
    wire.provider.script(Behaviour(finish_reason="failed"))
    assert wire.ask("openai_responses")["error"]["code"] == "server_error"


def test_redirect_is_a_307_that_is_not_billed(wire: Any) -> None:
    """A client that follows sends its prompt on; one that does not has spent nothing. (TESTKIT-3)"""
    target = f"{wire.provider.openrouter_url}/chat/completions"
    wire.provider.script(Behaviour(redirect=target), wire_format="openai_chat")
    with http_client() as client:
        reply = client.post(chat_url(wire), json=CHAT)
        assert (reply.status_code, reply.headers["location"]) == (307, target)
        assert wire.provider.meter.calls == 0
        assert client.post(chat_url(wire), json=CHAT, follow_redirects=True).json()["provider"]


@pytest.mark.parametrize("wire_format", WIRE_FORMATS)
def test_hidden_cached_and_reasoning_tokens_are_in_usage_and_bill(wire_format: Any, wire: Any) -> None:
    """They are parts of the totals, each under that format's name, and totals add up. (TESTKIT-2)"""
    wire.provider.script(Behaviour(hidden_prompt_tokens=700, cached_tokens=600, reasoning_tokens=33))
    reply = wire.ask(wire_format)
    meter = wire.provider.meter
    assert (meter.prompt_tokens, meter.completion_tokens) == (702, 73)
    assert usage_total(wire_format, reply) == meter.total_tokens == 775
    text = json.dumps(reply)
    assert '": 600' in text
    assert '": 33' in text


@pytest.mark.parametrize("wire_format", WIRE_FORMATS)
def test_reasoning_may_take_the_whole_limit(wire_format: Any, wire: Any) -> None:
    """Then there is no text, the limit was spent, and the reply was cut."""
    wire.provider.script(Behaviour(reasoning_tokens=500))
    reply = wire.ask(wire_format, wire.body(wire_format, limit=20))
    assert wire.provider.meter.completion_tokens == 20
    assert "generated" not in json.dumps(reply)


def test_byok_reports_the_fee_as_cost(wire: Any) -> None:
    """The money is under the upstream cost."""
    wire.provider.script(Behaviour(byok=True))
    usage = wire.ask("openrouter")["usage"]
    assert usage["is_byok"] is True
    assert usage["cost_details"]["upstream_inference_cost"] == float(wire.provider.meter.cost)
    assert usage["cost"] < usage["cost_details"]["upstream_inference_cost"]


def events_of(raw: bytes) -> list[dict[str, Any]]:
    lines = raw.decode().split("\n")
    return [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]


def test_stream_of_messages_tells_text_reason_and_usage(wire: Any) -> None:
    """The events in their order, and the usage at the end is the billed one."""
    _, headers, raw = wire.post("anthropic_messages", wire.body("anthropic_messages") | {"stream": True})
    events = events_of(raw)
    assert headers["content-type"].startswith("text/event-stream")
    kinds = [event["type"] for event in events]
    assert kinds[:3] == ["message_start", "ping", "content_block_start"]
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    text = "".join(event["delta"]["text"] for event in events if event["type"] == "content_block_delta")
    assert len(text.split()) == events[-2]["usage"]["output_tokens"] == 40


def test_cut_stream_ends_without_its_last_events(wire: Any) -> None:
    """The transport is in order, the message is not finished."""
    wire.provider.script(Behaviour(cut_stream=True))
    _, _, raw = wire.post("anthropic_messages", wire.body("anthropic_messages") | {"stream": True})
    assert events_of(raw)[-1]["type"] == "content_block_stop"


def test_error_in_a_stream_is_an_error_event(wire: Any) -> None:
    """It comes after a good beginning."""
    wire.provider.script(Behaviour(error_in_200=True, status=529))
    _, _, raw = wire.post("anthropic_messages", wire.body("anthropic_messages") | {"stream": True})
    events = events_of(raw)
    assert events[0]["type"] == "message_start"
    assert events[-1]["error"]["type"] == "overloaded_error"


@pytest.mark.parametrize(
    "wrong", [{"status": 200}, {"delay": -1}, {"cut": -1}, {"ignore_limit": -0.5}, {"cached_tokens": -1}]
)
def test_impossible_behaviours_are_refused_at_once(wrong: dict[str, Any], wire: Any) -> None:
    """A wrong figure is an error where it was written."""
    with pytest.raises(ValueError, match=r"status|negative"):
        Behaviour(**wrong)
    with pytest.raises(ValueError, match="times"):
        wire.provider.script(Behaviour(), times=0)

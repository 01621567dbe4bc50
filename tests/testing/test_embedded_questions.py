"""What the embedded provider is asked beside calls: counts, and what a generation cost."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from google import genai
from google.genai import types

from llm_connect.testing import Behaviour, EmbeddedProvider, WireFormat

PATHS: dict[WireFormat, str] = {
    "openai_responses": "/v1/responses/input_tokens",
    "generate_content": "/v1/models/m:countTokens",
    "anthropic_messages": "/v1/messages/count_tokens",
}
COUNTING = pytest.mark.parametrize("wire_format", PATHS)


def count_of(raw: bytes) -> Any:
    told = json.loads(raw)
    return told.get("input_tokens", told.get("totalTokens"))


@COUNTING
def test_a_count_is_what_the_call_is_billed(wire: Any, wire_format: WireFormat) -> None:
    """The same request counts the same as it does in a call, and the question itself costs nothing. (TESTKIT-30)"""
    body = wire.body(wire_format, "a" * 425)
    status, _, raw = wire.post(wire_format, body, path=PATHS[wire_format])
    assert (status, count_of(raw)) == (200, 100)
    assert (wire.provider.meter.calls, wire.provider.meter.refused, wire.provider.requests) == (0, 0, [])
    wire.post(wire_format, body)
    assert wire.provider.meter.prompt_tokens == 100
    (question,) = wire.provider.questions
    assert (question.prompt, question.path) == ("a" * 425, PATHS[wire_format])


@COUNTING
def test_questions_have_keys_too(wire: Any, wire_format: WireFormat) -> None:
    """A missing or bad key is refused, and not kept. (TESTKIT-5, TESTKIT-7)"""
    for key in (None, "bad"):
        status, _, _ = wire.post(wire_format, key=key, path=PATHS[wire_format])
        assert status == (400 if wire_format == "generate_content" else 401)
    assert wire.provider.questions == []
    wire.post(wire_format, key="sk-very-secret", path=PATHS[wire_format])
    assert "sk-very-secret" not in f"{wire.provider.questions[0].headers}"


@COUNTING
def test_only_a_script_for_questions_concerns_them(wire: Any, wire_format: WireFormat) -> None:
    """Behaviours of calls are not used up by questions, nor the other way round. (TESTKIT-4)"""
    wire.provider.script(Behaviour(status=500), times=1)
    wire.provider.script(Behaviour(status=503), times=1, wire_format="count_tokens")
    wire.provider.script(Behaviour(hidden_prompt_tokens=7), times=1, wire_format="count_tokens")
    told = [wire.post(wire_format, path=PATHS[wire_format]) for _ in range(3)]
    assert [status for status, _, _ in told] == [503, 200, 200]
    assert count_of(told[1][2]) == count_of(told[2][2]) + 7
    assert [wire.post(wire_format)[0] for _ in range(2)] == [500, 200]


@COUNTING
def test_a_question_that_breaks_the_format_is_400(wire: Any, wire_format: WireFormat) -> None:
    """Questions are read like the requests that they are about."""
    assert wire.post(wire_format, b"{}", path=PATHS[wire_format])[0] == 400
    assert wire.post(wire_format, b"no", path=PATHS[wire_format])[0] == 400


def test_the_sdks_ask_it(provider: EmbeddedProvider) -> None:
    """The methods of the real SDKs take its counts. (TESTKIT-30)"""
    with openai.OpenAI(base_url=provider.openai_url, api_key="k") as client:
        told = client.responses.input_tokens.count(model="m", input="a" * 425, instructions="b" * 425)
    assert (told.input_tokens, told.object) == (200, "response.input_tokens")
    options = types.HttpOptions(base_url=provider.gemini_url)
    with genai.Client(api_key="k", vertexai=False, http_options=options) as google:
        assert google.models.count_tokens(model="m", contents="a" * 425).total_tokens == 100


def test_a_whole_request_counts_with_its_instruction(wire: Any) -> None:
    """`generateContentRequest` stands for all of it, as in Gemini's format."""
    whole = wire.body("generate_content", "a" * 425) | {"systemInstruction": {"parts": [{"text": "b" * 425}]}}
    _, _, raw = wire.post("generate_content", {"generateContentRequest": whole}, path=PATHS["generate_content"])
    assert count_of(raw) == 200


def look_up(wire: Any, identity: str, *, method: str = "GET", key: str = "k") -> tuple[int, dict[str, Any]]:
    head = f"{method} /api/v1/generation?id={identity} HTTP/1.1\r\nauthorization: Bearer {key}\r\nconnection: close\r\n"
    raw: bytes = wire.exchange(f"{head}content-length: 0\r\n\r\n".encode())
    return int(raw.split(b" ", 2)[1]), json.loads(raw.partition(b"\r\n\r\n")[2])


def test_a_generation_is_told_as_it_was_billed(wire: Any) -> None:
    """Also when its reply was cut; the meter says the same. (TESTKIT-30)"""
    wire.provider.script(Behaviour(cut=5, reasoning_tokens=3))
    _, headers, _ = wire.post("openrouter")
    status, told = look_up(wire, headers["x-generation-id"])
    assert status == 200
    data = told["data"]
    assert data["id"] == headers["x-generation-id"]
    assert data["native_tokens_prompt"] + data["native_tokens_completion"] == wire.provider.meter.total_tokens
    assert data["native_tokens_reasoning"] == 3
    assert data["total_cost"] == float(wire.provider.meter.cost)
    assert (data["is_byok"], data["upstream_inference_cost"]) == (False, None)
    assert wire.provider.meter.calls == 1


def test_what_was_not_answered_is_not_told(wire: Any) -> None:
    """A refused request, an unknown id and another format's id are 404; a bad key is 401; a POST is 405."""
    wire.provider.script(Behaviour(status=500), times=1)
    _, headers, _ = wire.post("openrouter")
    for identity in (headers["x-generation-id"], "gen-unknown", ""):
        status, told = look_up(wire, identity)
        assert (status, told["error"]["code"]) == (404, 404)
    assert look_up(wire, "gen-unknown", key="bad")[0] == 401
    assert look_up(wire, "gen-unknown", method="POST")[0] == 405
    assert wire.provider.meter.refused == 1


def test_only_the_last_generations_are_remembered() -> None:
    """`keep_requests` bounds them, and `reset` forgets them."""
    from tests.testing.conftest import Wire

    with EmbeddedProvider(keep_requests=2) as provider:
        wire = Wire(provider)
        ids = [wire.post("openrouter")[1]["x-generation-id"] for _ in range(3)]
        assert [look_up(wire, identity)[0] for identity in ids] == [404, 200, 200]
        provider.reset()
        assert [look_up(wire, identity)[0] for identity in ids] == [404, 404, 404]
        assert provider.questions == []
        wire.close()

"""The provider's formats and figures, with the real SDKs as clients."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

import pytest

from llm_connect.testing import WIRE_FORMATS, Behaviour, EmbeddedProvider, ReceivedRequest, Tariff

openai = pytest.importorskip("openai")
httpx2 = pytest.importorskip("httpx2")
genai = pytest.importorskip("google.genai")

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
SAME: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "same"}]}
PERSON = {
    "$defs": {"Town": {"type": "object", "properties": {"zip": {"type": "string", "minLength": 5}}}},
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer", "minimum": 18},
        "height": {"type": ["number", "null"]},
        "member": {"type": "boolean"},
        "colour": {"enum": ["red", "green"]},
        "towns": {"type": "array", "items": {"$ref": "#/$defs/Town"}},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}


@contextmanager
def openai_client(provider: EmbeddedProvider, key: str = "k") -> Iterator[Any]:
    with openai.OpenAI(base_url=provider.openai_url, api_key=key, max_retries=0) as client:
        yield client


@contextmanager
def gemini_client(provider: EmbeddedProvider, key: str = "k") -> Iterator[Any]:
    options = genai.types.HttpOptions(base_url=provider.gemini_url)
    client = genai.Client(api_key=key, vertexai=False, http_options=options)
    try:
        yield client
    finally:
        client.close()


def chat(client: Any, prompt: str = "hello", **options: Any) -> Any:
    return client.chat.completions.create(model="m", messages=[{"role": "user", "content": prompt}], **options)


def test_openai_sdk_reads_a_chat_completion_and_its_usage(provider: EmbeddedProvider) -> None:
    """A 425-character prompt is billed as 100 tokens, and reply and meter tell the same. (TESTKIT-1, TESTKIT-2)"""
    with openai_client(provider) as client:
        reply = chat(client, "a" * 425)
    assert reply.choices[0].finish_reason == "stop"
    assert len(reply.choices[0].message.content.split()) == 40
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens, reply.usage.total_tokens) == (
        100,
        40,
        140,
    )
    assert (provider.meter.calls, provider.meter.total_tokens) == (1, 140)


def test_openai_sdk_reads_a_response_and_its_usage(provider: EmbeddedProvider) -> None:
    """The responses format carries text, status and usage as the SDK expects them. (TESTKIT-1, TESTKIT-2)"""
    with openai_client(provider) as client:
        reply = client.responses.create(model="m", input="hi", instructions="be brief")
    assert reply.status == "completed"
    assert len(reply.output_text.split()) == 40
    assert reply.usage.total_tokens == provider.meter.total_tokens


def test_gemini_sdk_reads_a_reply_and_its_usage(provider: EmbeddedProvider) -> None:
    """The total of Gemini's figures is what the meter counted. (TESTKIT-1, TESTKIT-2)"""
    with gemini_client(provider) as client:
        reply = client.models.generate_content(model="gemini-m", contents="hi")
    assert len(reply.text.split()) == 40
    assert reply.candidates[0].finish_reason == "STOP"
    assert reply.usage_metadata.total_token_count == provider.meter.total_tokens
    assert provider.requests[0].model == "gemini-m"


def test_openrouter_reports_the_cost_that_the_meter_counts() -> None:
    """`usage.cost` is the tariff's price, and the generation id is in the header and in the body. (TESTKIT-1)"""
    tariff = Tariff(prompt_usd_per_million=Decimal(3), completion_usd_per_million=Decimal(15))
    with EmbeddedProvider(tariff=tariff) as provider, httpx2.Client(trust_env=False) as client:
        reply = client.post(
            f"{provider.openrouter_url}/chat/completions",
            json=CHAT | {"messages": [{"role": "user", "content": "a" * 425}]},
            headers={"Authorization": "Bearer k"},
        )
        usage = reply.json()["usage"]
        assert Decimal(str(usage["cost"])) == provider.meter.cost == Decimal("0.0009")
    assert usage["is_byok"] is False
    assert reply.headers["x-generation-id"] == reply.json()["id"]


async def _sdk_replies(provider: EmbeddedProvider) -> list[str]:
    options = genai.types.HttpOptions(base_url=provider.gemini_url)
    gemini = genai.Client(api_key="k", vertexai=False, http_options=options)
    async with openai.AsyncOpenAI(base_url=provider.openai_url, api_key="k", max_retries=0) as client:
        completion = await client.chat.completions.create(**SAME)
        response = await client.responses.create(model="m", input="same")
        generated = await gemini.aio.models.generate_content(model="m", contents="same")
    await gemini.aio.aclose()
    gemini.close()
    return [completion.choices[0].message.content, response.output_text, generated.text]


@pytest.mark.filterwarnings("ignore:Inheritance class AiohttpClientSession:DeprecationWarning")
def test_async_sdks_get_the_same_text_for_the_same_prompt(provider: EmbeddedProvider) -> None:
    """The answer depends on the prompt alone, not on format or driver."""
    replies = asyncio.run(_sdk_replies(provider))
    assert len(set(replies)) == 1
    assert provider.meter.calls == 3


def test_500_concurrent_requests_are_all_answered_and_billed(provider: EmbeddedProvider) -> None:
    """500 requests that wait at the same time are neither refused nor lost. (TESTKIT-2)"""
    provider.script(Behaviour(delay=0.2))
    limits = httpx2.Limits(max_connections=None)

    async def burst() -> list[Any]:
        async with httpx2.AsyncClient(trust_env=False, limits=limits, timeout=30) as client:
            url, headers = f"{provider.openai_url}/chat/completions", {"Authorization": "Bearer k"}
            posts = (client.post(url, json=CHAT, headers=headers) for _ in range(500))
            return await asyncio.gather(*posts)

    assert {reply.status_code for reply in asyncio.run(burst())} == {200}
    assert provider.meter.calls == 500
    assert provider.meter.total_tokens == 500 * 42


@pytest.mark.parametrize("wire_format", WIRE_FORMATS)
def test_output_limit_is_kept_and_said(wire_format: Any, wire: Any) -> None:
    """A reply longer than the limit is cut to it exactly, and its finish reason says so. (TESTKIT-2)"""
    reply = wire.ask(wire_format, wire.body(wire_format, limit=17))
    assert wire.provider.meter.completion_tokens == 17
    assert wire.provider.requests[0].output_limit == 17
    marks = ('"length"', '"MAX_TOKENS"', '"max_tokens"', '"max_output_tokens"')
    assert any(mark in json.dumps(reply) for mark in marks)


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_both_chat_limits_are_understood(field: str, wire: Any) -> None:
    """Old and new field mean the same limit."""
    wire.ask("openai_chat", wire.body("openai_chat") | {field: 5})
    assert wire.provider.meter.completion_tokens == 5


@pytest.mark.parametrize("reply_tokens", ["limit", None])
def test_reply_can_fill_the_limit(reply_tokens: Any) -> None:
    """With reply_tokens="limit" or None the answer takes all it may, and says that it was cut."""
    with EmbeddedProvider(reply_tokens=reply_tokens) as provider, openai_client(provider) as client:
        assert chat(client, max_tokens=333).usage.completion_tokens == 333
        assert chat(client, max_tokens=7).choices[0].finish_reason == "length"
        assert chat(client).usage.completion_tokens == 1024


def test_n_gives_that_many_choices_and_bills_them_all(provider: EmbeddedProvider) -> None:
    """The output limit holds for each choice."""
    with openai_client(provider) as client:
        reply = chat(client, n=3, max_tokens=10)
    assert [choice.index for choice in reply.choices] == [0, 1, 2]
    assert reply.usage.completion_tokens == provider.meter.completion_tokens == 30


def test_custom_reply_sees_the_request_and_is_cut_at_the_limit() -> None:
    """A `reply` function gets prompt and system prompt; its text is kept to the letter, up to the limit."""

    def shout(request: ReceivedRequest) -> str:
        return f"{request.system_prompt}:\n{request.prompt.upper()}  and more"

    with EmbeddedProvider(reply=shout) as provider, openai_client(provider) as client:
        messages = [{"role": "system", "content": "S"}, {"role": "user", "content": "hello"}]
        whole = client.chat.completions.create(model="m", messages=messages)
        part = client.chat.completions.create(model="m", messages=messages, max_tokens=3)
    assert whole.choices[0].message.content == "S:\nHELLO  and more"
    assert part.choices[0].message.content == "S:\nHELLO  and"
    assert part.usage.completion_tokens == 3


def test_failing_reply_function_is_a_500_that_is_not_billed() -> None:
    """An error in a user's function reaches the client as an error and breaks nothing."""

    def fail(request: ReceivedRequest) -> str:
        raise LookupError("no such plan")

    with EmbeddedProvider(reply=fail) as provider, openai_client(provider) as client:
        with pytest.raises(openai.InternalServerError, match="no such plan"):
            chat(client)
        assert (provider.meter.calls, provider.meter.refused) == (0, 1)


def test_count_tokens_replaces_the_count_of_prompts() -> None:
    """Prompts are counted by the given function, system prompt included."""
    with EmbeddedProvider(count_tokens=len) as provider, openai_client(provider) as client:
        client.responses.create(model="m", input="12345", instructions="678")
        assert provider.meter.prompt_tokens == 8


def _asking_for_json(wire_format: str, body: dict[str, Any]) -> dict[str, Any]:
    named = {"type": "json_schema", "name": "person", "schema": PERSON}
    match wire_format:
        case "openai_responses":
            return body | {"text": {"format": named}}
        case "generate_content":
            config = {"responseMimeType": "application/json", "responseJsonSchema": PERSON}
            return body | {"generationConfig": config}
        case "anthropic_messages":
            return body | {"output_config": {"format": {"type": "json_schema", "schema": PERSON}}}
    return body | {"response_format": {"type": "json_schema", "json_schema": named}}


def _text(wire_format: str, reply: dict[str, Any]) -> str:
    match wire_format:
        case "openai_responses":
            text = reply["output"][0]["content"][0]["text"]
        case "generate_content":
            text = reply["candidates"][0]["content"]["parts"][0]["text"]
        case "anthropic_messages":
            text = reply["content"][0]["text"]
        case _:
            text = reply["choices"][0]["message"]["content"]
    return str(text)


@pytest.mark.parametrize("wire_format", WIRE_FORMATS)
def test_json_schema_is_answered_with_an_instance_of_it(wire_format: Any, wire: Any) -> None:
    """Every format's way to ask for structured output gives JSON that fits."""
    question = _asking_for_json(wire_format, wire.body(wire_format, limit=1000))
    value = json.loads(_text(wire_format, wire.ask(wire_format, question)))
    assert value == {
        "name": "text",
        "age": 18,
        "height": 0,
        "member": True,
        "colour": "red",
        "towns": [{"zip": "text."}],
    }


def test_gemini_schema_with_upper_case_types_is_understood(provider: EmbeddedProvider) -> None:
    """The SDK's own schema type is answered, too."""
    schema = {"type": "OBJECT", "properties": {"n": {"type": "INTEGER"}}, "required": ["n"]}
    config = {"response_mime_type": "application/json", "response_schema": schema}
    with gemini_client(provider) as client:
        reply = client.models.generate_content(model="m", contents="hi", config=config)
    assert reply.parsed == {"n": 0}


def test_forced_tool_is_called_with_fitting_arguments(wire: Any) -> None:
    """In Anthropic's format a chosen tool, and the command's StructuredOutput, are called."""
    tool = {"name": "StructuredOutput", "input_schema": PERSON}
    for more in ({}, {"tool_choice": {"type": "tool", "name": "StructuredOutput"}}):
        reply = wire.ask("anthropic_messages", wire.body("anthropic_messages") | {"tools": [tool]} | more)
        assert reply["stop_reason"] == "tool_use"
        assert reply["content"][0]["input"]["age"] == 18


@pytest.mark.parametrize("wire_format", WIRE_FORMATS)
@pytest.mark.parametrize("key", [None, "bad"])
def test_missing_and_bad_keys_are_refused_and_not_billed(wire_format: Any, key: Any, wire: Any) -> None:
    """401 in each format's shape, 400 with API_KEY_INVALID in Gemini's; the request is on record. (TESTKIT-5)"""
    status, _, body = wire.post(wire_format, key=key)
    assert status == (400 if wire_format == "generate_content" else 401)
    assert ("API_KEY_INVALID" in body.decode()) == (wire_format == "generate_content")
    assert wire.provider.meter.calls == 0
    assert wire.provider.meter.refused == 1
    assert len(wire.provider.requests) == 1


def test_sdks_raise_their_own_errors_for_a_bad_key(provider: EmbeddedProvider) -> None:
    """The SDKs recognise the refusals."""
    with openai_client(provider, key="bad") as client, pytest.raises(openai.AuthenticationError) as caught:
        chat(client)
    assert caught.value.code == "invalid_api_key"
    with gemini_client(provider, key="bad") as client, pytest.raises(genai.errors.ClientError) as refused:
        client.models.generate_content(model="m", contents="hi")
    assert refused.value.code == 400


@pytest.mark.parametrize("wire_format", WIRE_FORMATS)
@pytest.mark.parametrize("body", [b"{", b"", b"[]", b"\xff", b"[" * 200_000, b"{}"])
def test_malformed_bodies_are_400_in_the_formats_shape(wire_format: Any, body: bytes, wire: Any) -> None:
    """What is no valid request is refused, not billed, and harms nobody."""
    status, _, raw = wire.post(wire_format, body)
    assert status == 400
    assert json.loads(raw)["error"]["message"]
    assert wire.provider.meter.calls == 0


@pytest.mark.parametrize(
    ("wire_format", "change"),
    [
        ("openai_chat", {"max_tokens": 0}),
        ("openai_chat", {"max_tokens": "5"}),
        ("openai_chat", {"messages": "hello"}),
        ("openai_responses", {"max_output_tokens": 15}),
        ("openai_responses", {"input": []}),
        ("anthropic_messages", {"max_tokens": None}),
        ("generate_content", {"generationConfig": {"maxOutputTokens": -1}}),
    ],
)
def test_invalid_fields_are_400(wire_format: Any, change: dict[str, Any], wire: Any) -> None:
    """Limits have the real ones' bounds, and required fields are required."""
    assert wire.post(wire_format, wire.body(wire_format) | change)[0] == 400


def test_unknown_paths_are_404_and_other_methods_405(wire: Any) -> None:
    """Errors for them have the shape of the format that the path looks like."""
    shapes = {"/v1/nothing": "param", "/api/v1/nothing": "user_id", "/v1beta/models/m:embed": "status"}
    for path, field in shapes.items():
        status, _, body = wire.post("openai_chat", path=path)
        assert status == 404
        assert f'"{field}"' in body.decode()
    raw = wire.exchange(b"GET /v1/chat/completions HTTP/1.1\r\nconnection: close\r\n\r\n")
    assert raw.startswith(b"HTTP/1.1 405 ")


def test_keys_are_never_kept(wire: Any) -> None:
    """Headers on record say that a key was there, the query that may hold one is dropped. (TESTKIT-7)"""
    secret = "sk-very-secret"
    for wire_format in WIRE_FORMATS:
        wire.post(wire_format, key=secret)
    wire.post("generate_content", key=None, path=f"/v1/models/m:generateContent?key={secret}")
    assert wire.provider.meter.calls == 6
    for request in wire.provider.requests:
        assert secret not in f"{request!r} {request.headers} {request.path}"
    assert wire.provider.requests[0].headers["authorization"] == "present"


def test_only_the_last_requests_are_kept() -> None:
    """`keep_requests` bounds memory, not the meter."""
    with EmbeddedProvider(keep_requests=3) as provider, openai_client(provider) as client:
        for number in range(5):
            chat(client, str(number))
        assert [request.prompt for request in provider.requests] == ["2", "3", "4"]
        assert provider.meter.calls == 5


def test_wait_for_requests_returns_when_they_have_arrived(provider: EmbeddedProvider) -> None:
    """A test can wait until a request is under way before it acts; too few requests are an error."""
    provider.script(Behaviour(delay=0.3))
    with openai_client(provider) as client:
        thread = threading.Thread(target=chat, args=(client,))
        thread.start()
        provider.wait_for_requests(1)
        assert provider.meter.calls == 1
        thread.join()
    with pytest.raises(TimeoutError):
        provider.wait_for_requests(2, timeout=0.01)


def test_reset_forgets_everything(wire: Any) -> None:
    """Meter, requests and behaviours start anew."""
    wire.provider.script(Behaviour(status=500))
    wire.post("openai_chat")
    wire.provider.reset()
    assert wire.provider.requests == []
    assert wire.provider.meter.refused == 0
    assert wire.post("openai_chat")[0] == 200

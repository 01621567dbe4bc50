"""What a call over HTTP sends and answers when all is well: real SDKs and clients against loopback, sync and async."""

from __future__ import annotations

import copy
import json

from llm_connect import RunConfig
from llm_connect.testing import Behaviour, EmbeddedProvider
from tests.providers.conftest import Ask, Make, Wiring
from tests.providers.http_helpers import PROMPT, SYSTEM, each_format


@each_format
def test_a_call_gives_an_answer(make: Make, ask: Ask, provider: EmbeddedProvider, wiring: Wiring) -> None:
    """Text, model, finish, usage as billed, and the metadata that is always there. (ADAPTER-1, CALL-6)"""
    response = ask(make(), PROMPT)
    assert len(response.content.split()) == 40
    assert (response.model, response.finish_reason) == ("test-model", "stop")
    assert response.usage.prompt_tokens == provider.meter.prompt_tokens
    assert response.usage.completion_tokens == provider.meter.completion_tokens == 40
    assert response.usage.total_tokens == provider.meter.total_tokens
    assert response.usage.estimated is False
    assert response.metadata["provider"] == wiring.name
    assert response.metadata["attempts"] == 1
    assert 0 < response.metadata["latency_seconds"] < 30
    assert response.metadata["request_id"]
    assert "hint" not in response.metadata
    assert provider.requests[0].prompt == PROMPT


def test_an_answer_as_dict_goes_through_json(make: Make, ask: Ask) -> None:
    """`to_dict` of an answer is what `json.dumps` takes and gives back, and its cost is text. (MODEL-4)"""
    response = ask(make(), PROMPT)
    data = response.to_dict()
    assert json.loads(json.dumps(data)) == data
    assert data["cost"] == (None if response.cost is None else str(response.cost))


@each_format
def test_usage_is_in_one_normal_form(make: Make, ask: Ask, provider: EmbeddedProvider) -> None:
    """Hidden, cached and thinking tokens are parts of input and output at every provider. (WIRE-8)"""
    provider.script(Behaviour(hidden_prompt_tokens=500, cached_tokens=400, reasoning_tokens=30))
    usage = ask(make(), PROMPT).usage
    assert usage.prompt_tokens == provider.meter.prompt_tokens > 500
    assert usage.completion_tokens == provider.meter.completion_tokens == 70
    assert (usage.cached_tokens, usage.reasoning_tokens) == (400, 30)


@each_format
def test_finish_reasons_are_one_closed_set(make: Make, ask: Ask, provider: EmbeddedProvider, wiring: Wiring) -> None:
    """Each provider's own word becomes one of ours. (MODEL-9)"""
    adapter = make()
    for word, meant in wiring.finish.items():
        provider.script(Behaviour(finish_reason=word), times=1)
        assert ask(adapter, PROMPT).finish_reason == meant


@each_format
def test_an_answer_that_was_all_thinking_is_an_answer(make: Make, ask: Ask, provider: EmbeddedProvider) -> None:
    """Empty text at the limit is a response with usage and a hint, because it was paid for. (ADAPTER-1, WIRE-10)"""
    provider.script(Behaviour(reasoning_tokens=99))
    response = ask(make(), PROMPT, RunConfig(max_tokens=20))
    assert (response.content, response.finish_reason) == ("", "length")
    assert response.usage.completion_tokens == 20
    assert "max_tokens" in response.metadata["hint"]


@each_format
def test_a_reply_without_usage_is_an_answer_with_unknown_usage(
    make: Make, ask: Ask, provider: EmbeddedProvider
) -> None:
    """The paid answer is not lost, and its usage is marked as not the provider's. (CALL-11)"""
    provider.script(Behaviour(usage="missing"))
    response = ask(make(), PROMPT)
    assert response.content
    assert response.usage.estimated is True


@each_format
def test_settings_that_are_not_set_are_not_sent(
    make: Make, ask: Ask, provider: EmbeddedProvider, wiring: Wiring
) -> None:
    """None means that the provider's default holds. (MODEL-5)"""
    ask(make(), PROMPT)
    body = provider.requests[0].body
    assert wiring.sent(body, wiring.temperature_path) is None
    assert wiring.sent(body, wiring.limit_path) is None
    assert provider.requests[0].system_prompt == ""


@each_format
def test_settings_that_are_set_are_sent_under_the_right_field(
    make: Make, ask: Ask, provider: EmbeddedProvider, wiring: Wiring
) -> None:
    """Temperature, output limit and system prompt arrive, and the limit limits."""
    response = ask(make(), PROMPT, RunConfig(temperature=0, max_tokens=16, system_prompt=SYSTEM))
    request = provider.requests[0]
    assert wiring.sent(request.body, wiring.temperature_path) == 0
    assert wiring.sent(request.body, wiring.limit_path) == 16 == request.output_limit
    assert (request.system_prompt, request.prompt) == (SYSTEM, PROMPT)
    assert response.finish_reason == "length"


def test_the_configs_model_wins_for_one_call(make: Make, ask: Ask, provider: EmbeddedProvider) -> None:
    """`model_name` is for the call; the adapter's own model stays. (PROVIDER-3)"""
    adapter = make()
    assert ask(adapter, PROMPT, RunConfig(model_name="other-model")).model == "other-model"
    assert ask(adapter, PROMPT).model == "test-model"
    assert [request.model for request in provider.requests] == ["other-model", "test-model"]


@each_format
def test_a_schema_is_asked_for_and_answered(make: Make, ask: Ask) -> None:
    """The portable `json_schema` reaches every provider in its own field."""
    schema = {
        "type": "object",
        "properties": {"colour": {"const": "green"}},
        "required": ["colour"],
        "additionalProperties": False,
    }
    response = ask(make(), PROMPT, RunConfig(model_params={"json_schema": schema}))
    assert response.content.replace(" ", "") == '{"colour":"green"}'


@each_format
def test_any_text_arrives_as_it_is(make: Make, ask: Ask, provider: EmbeddedProvider) -> None:
    """Control characters, quotes, other scripts and emoji pass unchanged."""
    text = '\x00\x07 "quoted" \\ 日本語 😀 \u2028 ${x} <|im_end|>'
    ask(make(), text, RunConfig(system_prompt=text))
    assert provider.requests[0].prompt == text
    assert provider.requests[0].system_prompt == text


def test_a_large_prompt_arrives_whole(make: Make, ask: Ask, provider: EmbeddedProvider) -> None:
    """Two megabytes are sent in one request."""
    text = "word " * 400_000
    ask(make(), text)
    assert provider.requests[0].prompt == text


@each_format
def test_a_config_is_not_changed(make: Make, ask: Ask) -> None:
    """A config that was used equals one that was not. (ADAPTER-5)"""
    config = RunConfig(max_tokens=5, model_params={"json_schema": {"type": "object"}, "top_p": 0.5})
    unused = copy.deepcopy(config)
    ask(make(), PROMPT, config)
    assert config == unused

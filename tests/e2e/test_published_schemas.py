"""What our adapters send and the embedded provider answers, against OpenAI's own published document."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from llm_connect import OpenAIAdapter, RunConfig
from llm_connect.engine.deadline import Deadline
from llm_connect.testing import EmbeddedProvider
from tests.published_schema import errors_in, unknown_fields

REQUESTS = {"chat_completions": "CreateChatCompletionRequest", "responses": "CreateResponse"}
REPLIES = {"chat_completions": "CreateChatCompletionResponse", "responses": "Response"}
SCHEMA = {"type": "object", "title": "Colour", "properties": {"name": {"type": "string"}}, "required": ["name"]}

#: Every parameter that the format's adapter lets through.
COMMON = {
    "prompt_cache_key": "k",
    "reasoning_effort": "low",
    "safety_identifier": "s",
    "service_tier": "default",
    "store": True,
    "top_p": 0.9,
    "user": "u",
    "verbosity": "low",
}
PARAMS: dict[str, dict[str, Any]] = {
    "chat_completions": COMMON
    | {
        "frequency_penalty": 0.1,
        "logit_bias": {"50256": -100},
        "presence_penalty": 0.1,
        "response_format": {"type": "json_object"},
        "seed": 7,
        "stop": ["x", "y"],
    },
    "responses": COMMON | {"metadata": {"team": "a"}},
}
WITH_SCHEMA = {"json_schema": SCHEMA, "json_schema_strict": True}
SETTINGS: dict[str, Any] = {"temperature": 0.5, "max_tokens": 20, "system_prompt": "Be brief."}


def configs(api: str) -> dict[str, RunConfig]:
    """From nothing set to everything set."""
    params = PARAMS[api]
    structured = {name: value for name, value in params.items() if name != "response_format"} | WITH_SCHEMA
    return {
        "nothing": RunConfig(),
        "settings": RunConfig(**SETTINGS),
        "least limit": RunConfig(max_tokens=1),
        "parameters": RunConfig(**SETTINGS, model_params=params),
        "schema": RunConfig(**SETTINGS, model_params=structured),
    }


CASES = [pytest.param(api, name, id=f"{api}-{name}") for api in REQUESTS for name in configs(api)]


@pytest.fixture
def provider() -> Iterator[EmbeddedProvider]:
    """A running provider."""
    with EmbeddedProvider() as running:
        yield running


@pytest.mark.parametrize(("api", "name"), CASES)
def test_requests_and_replies_are_what_openai_says_they_are(api: Any, name: str, provider: EmbeddedProvider) -> None:
    """A rendered request with any options fits the published schema and has no field of our own, and so does the
    reply of the embedded provider to it. (WIRE-4, TESTKIT-1)"""
    with OpenAIAdapter(api=api, model="gpt-5", api_key="k", base_url=provider.openai_url) as adapter:
        config = configs(api)[name]
        request = adapter.render("Name a colour.", config, config.max_tokens)
        assert errors_in(request.body, REQUESTS[api]) == []
        assert unknown_fields(request.body, REQUESTS[api]) == set()
        reply = adapter.send(request, Deadline.after(10))
    assert reply.status == 200
    assert errors_in(json.loads(reply.body), REPLIES[api]) == []


@pytest.mark.parametrize("api", REQUESTS)
def test_every_parameter_is_among_those_tested(api: Any) -> None:
    """The error for an unknown key lists what is known, and the tests above leave none of it out. (WIRE-3)"""
    adapter = OpenAIAdapter(api=api, api_key="k")
    with pytest.raises(Exception, match="known are") as caught:
        adapter.render("x", RunConfig(model_params={"no such": 1}), None)
    known = str(caught.value).rpartition("known are: ")[2].rstrip(".").split(", ")
    assert set(known) == set(PARAMS[api]) | set(WITH_SCHEMA)

"""Replies in OpenAI's formats against OpenAI's own published schema, where it is at hand."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llm_connect.testing import Behaviour, EmbeddedProvider
from tests.published_schema import errors_in

NAMES = {"openai_chat": "CreateChatCompletionResponse", "openai_responses": "Response"}
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
CASES = {
    "plain": Behaviour(),
    "reasoning": Behaviour(reasoning_tokens=9, cached_tokens=1),
    "spent on reasoning": Behaviour(reasoning_tokens=99),
    "empty": Behaviour(empty_text=True),
    "filtered": Behaviour(finish_reason="content_filter"),
    "too long": Behaviour(ignore_limit=2),
    "zero": Behaviour(usage="zero"),
    "missing": Behaviour(usage="missing"),
}


def asked(wire: Any, wire_format: str) -> dict[str, Any]:
    return dict(wire.body(wire_format, limit=20)) | {"model": "gpt-5", "temperature": 0.5}


@pytest.mark.parametrize("wire_format", NAMES)
@pytest.mark.parametrize("case", CASES)
def test_replies_fit_the_published_schema(case: str, wire_format: Any, wire: Any) -> None:
    """A good reply and its variants are what OpenAI says they are."""
    wire.provider.script(CASES[case])
    assert errors_in(wire.ask(wire_format, asked(wire, wire_format)), NAMES[wire_format]) == []


def test_structured_response_fits_the_published_schema(wire: Any) -> None:
    """The echo of the wanted format does, too."""
    text = {"format": {"type": "json_schema", "name": "n", "schema": SCHEMA, "strict": True}}
    reply = wire.ask("openai_responses", asked(wire, "openai_responses") | {"text": text})
    assert errors_in(reply, "Response") == []


@pytest.mark.parametrize("case", CASES)
def test_replies_fit_the_sdks_types(case: str, provider: EmbeddedProvider, wire: Any) -> None:
    """The SDK's models accept them in strict mode, without a coercion. (TESTKIT-1)"""
    types = pytest.importorskip("openai.types")
    responses = pytest.importorskip("openai.types.responses")
    provider.script(CASES[case])
    chat = json.dumps(wire.ask("openai_chat", asked(wire, "openai_chat")))
    types.chat.ChatCompletion.model_validate_json(chat, strict=True)
    response = json.dumps(wire.ask("openai_responses", asked(wire, "openai_responses")))
    responses.Response.model_validate_json(response, strict=True)

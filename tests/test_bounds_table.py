"""The table of docs/bounds.md is what the code does."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from llm_connect import ClaudeCodeAdapter, GeminiAdapter, MockLLMAdapter, OpenAIAdapter, OpenRouterAdapter, RunConfig
from llm_connect.budget.accounting.bounds import Bound, normalized_utf8_bytes, utf8_bytes
from llm_connect.protocols.wire import Reply

DOCUMENT = Path(__file__).parent.parent / "docs" / "bounds.md"
SCHEMA = {"type": "object", "properties": {"colour": {"type": "string"}}}
#: NFKC makes 33 bytes of its 3.
PROMPT = "\ufdfa hello"
COUNTED = 3
SIZES = {"bytes": [utf8_bytes(PROMPT)], "NFKC": [normalized_utf8_bytes(PROMPT)], "its count": [COUNTED]}
SIZES["bytes or NFKC"] = SIZES["bytes"] + SIZES["NFKC"]


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    call: str
    text: str
    beside: str
    grade: str

    @property
    def figure(self) -> int:
        return int(self.beside.split()[0].replace(",", ""))


def rows() -> list[Row]:
    table = DOCUMENT.read_text("utf-8").partition("## What is counted")[2].partition("\n- ")[0]
    found = re.findall(r"^\| (.+?) \| (.+?) \| (.+?) \| `(\w+)` \| .+ \|$", table, re.MULTILINE)
    return [Row(*cells) for cells in found]


def openai(model: str = "gpt-4.1", **options: Any) -> OpenAIAdapter:
    return OpenAIAdapter(api_key="key-1234", model=model, **options)


def openrouter(model: str) -> OpenRouterAdapter:
    return OpenRouterAdapter(api_key="key-1234", model=model)


def claude(**options: Any) -> ClaudeCodeAdapter:
    return ClaudeCodeAdapter(cli_path="/bin/true", **options)


def bounds(*adapters: Any, **params: Any) -> list[Bound]:
    return [adapter.bound(PROMPT, RunConfig(max_tokens=50, model_params=params)) for adapter in adapters]


def counted(adapter: Any, reply: dict[str, Any], **params: Any) -> list[Bound]:
    """The bound that a call has when the provider has told its count."""
    (plain,) = bounds(adapter, **params)
    return [adapter.counting.bound(plain, Reply(200, {}, json.dumps(reply).encode()), adapter.model)]


CALLS: dict[str, Callable[[], list[Bound]]] = {
    "OpenAI, chat completions": lambda: bounds(openai(), openai("gpt-5.5"), openai("o3")),
    "OpenAI, responses": lambda: bounds(openai(api="responses")),
    "OpenAI, told how to think or how long to write": lambda: [
        *bounds(openai(), reasoning_effort="low"),
        *bounds(openai(), verbosity="low"),
    ],
    "OpenAI, a JSON schema": lambda: bounds(openai(), json_schema=SCHEMA),
    "OpenAI, responses, a JSON schema, by OpenAI's count": lambda: counted(
        openai(api="responses", count_tokens="provider"), {"input_tokens": COUNTED}, json_schema=SCHEMA
    ),
    'OpenAI, a model that is not known, or "-pro"': lambda: bounds(openai("unheard-of"), openai("gpt-5-pro")),
    "OpenAI, deep research": lambda: bounds(openai("o4-mini-deep-research")),
    "another server at `base_url`": lambda: bounds(
        openai(base_url="http://127.0.0.1:9"), openai("gemma-3", base_url="http://127.0.0.1:9")
    ),
    "Gemini": lambda: bounds(GeminiAdapter(api_key="key-1234")),
    "Gemini, by Gemini's count": lambda: counted(
        GeminiAdapter(api_key="key-1234", count_tokens="provider"), {"totalTokens": COUNTED}
    ),
    "OpenRouter, a model of OpenAI's": lambda: bounds(openrouter("openai/gpt-5")),
    "OpenRouter, Claude, Gemini or Gemma": lambda: bounds(
        openrouter("anthropic/claude-opus-5.5"),
        openrouter("google/gemini-2.5-pro"),
        openrouter("google/gemma-3-27b-it"),
    ),
    "OpenRouter, another model": lambda: bounds(openrouter("x-ai/grok-4"), openrouter("openrouter/auto")),
    'OpenRouter, ":online"': lambda: bounds(
        openrouter("openai/gpt-5:online"), openrouter("google/gemini-3-pro:online")
    ),
    "OpenRouter, a preset": lambda: bounds(openrouter("openai/gpt-5@preset/a"), openrouter("@preset/a")),
    "Claude Code": lambda: bounds(claude(api_key="key-1234")),
    "Claude Code, by a login": lambda: bounds(claude(login=True)),
    "Claude Code, a JSON schema": lambda: bounds(claude(api_key="key-1234"), json_schema=SCHEMA),
    "an adapter of your own": lambda: bounds(MockLLMAdapter()),
}


def test_every_row_is_looked_at() -> None:
    """The rows of the table are the calls of this test, in the same order."""
    assert [row.call for row in rows()] == list(CALLS)


@pytest.mark.parametrize("row", rows(), ids=lambda row: row.call)
def test_a_row_is_what_the_code_does(row: Row) -> None:
    """How text counts, what is added, and the grade. (BUDGET-30)"""
    for bound in CALLS[row.call]():
        assert bound.grade == row.grade
        beside = [bound.prompt_tokens - size for size in SIZES[row.text]]
        if row.beside.endswith("and the schema"):
            compact = len(json.dumps(SCHEMA, separators=(",", ":")))
            assert any(row.figure + compact <= more <= row.figure + 3 * compact for more in beside)
        else:
            assert row.figure in beside


def test_a_system_prompt_adds_its_bytes_and_seventeen_at_most() -> None:
    """As the document says."""
    for adapter in (openai(), openai(api="responses"), GeminiAdapter(api_key="key-1234"), openrouter("openai/gpt-5")):
        plain, system = (
            adapter.bound(PROMPT, RunConfig(system_prompt=prompt)).prompt_tokens for prompt in (None, "x" * 100)
        )
        assert 100 <= system - plain <= 117

"""Our own adapters, and those of the documents, keep every rule: real SDKs and the real command on loopback."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest

from llm_connect import (
    ClaudeCodeAdapter,
    ErrorLLMAdapter,
    GeminiAdapter,
    LLMAdapter,
    LLMRateLimitError,
    MockLLMAdapter,
    OpenAIAdapter,
    OpenRouterAdapter,
    RunConfig,
)
from llm_connect.testing import Behaviour, EmbeddedProvider, check_adapter, conformance_rules
from tests.providers.claude_binary import find_claude, needs_claude
from tests.test_documents import ROOT, blocks

KEY = "sk-canary-7f3d9b1c5e8a2046"
PROMPT = "Which colours does the evening sky show over lake 1843, 晚霞是什么颜色?"
SYSTEM = "Answer like a lighthouse keeper who has counted 2975 storms."
ECHO = f"You sent '{PROMPT}' under '{SYSTEM}' with the key {KEY}!"
WAYS_TO_FAIL = (
    Behaviour(status=400, error_message=ECHO, headers={"x-request-id": f"req_{KEY}"}),
    Behaviour(status=503, error_message=ECHO),
    Behaviour(body=f"<html>{ECHO}</html>".encode(), content_type="text/html"),
    Behaviour(cut=5),
)
DRIPPING = Behaviour(drip=0.2, drip_headers=True)
RULES = [rule.name for rule in conformance_rules()]

Make = Callable[[EmbeddedProvider], LLMAdapter]
Serve = Callable[..., EmbeddedProvider]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts providers, each with a behaviour of its own."""
    with ExitStack() as running:

        def start(behaviour: Behaviour | None = None, **options: Any) -> EmbeddedProvider:
            provider = running.enter_context(EmbeddedProvider(**options))
            if behaviour is not None:
                provider.script(behaviour)
            return provider

        yield start


def check(
    make: Make,
    serve: Serve,
    slowly: Behaviour = DRIPPING,
    ways: tuple[Behaviour, ...] = WAYS_TO_FAIL,
    **options: Any,
) -> list[str]:
    """The rules that an adapter keeps, whose answers would be longer than their limit."""
    good, slow = serve(reply_tokens=200), serve(slowly)
    failing = [serve(behaviour) for behaviour in ways]
    providers = (good, slow, *failing)
    report = check_adapter(
        lambda: make(good),
        slow=lambda: make(slow),
        failing=[partial(make, provider) for provider in failing],
        count_requests=lambda: sum(provider.meter.calls + provider.meter.refused for provider in providers),
        billed_tokens=lambda: sum(provider.meter.total_tokens for provider in providers),
        secrets=[KEY],
        prompt=PROMPT,
        config=RunConfig(system_prompt=SYSTEM),
        **options,
    )
    return [result.rule.name for result in report.kept]


OVER_HTTP: dict[str, Make] = {
    "openai": lambda provider: OpenAIAdapter(api_key=KEY, base_url=provider.openai_url),
    "openai-responses": lambda provider: OpenAIAdapter(api_key=KEY, base_url=provider.openai_url, api="responses"),
    "gemini": lambda provider: GeminiAdapter(api_key=KEY, base_url=provider.gemini_url),
    "openrouter": lambda provider: OpenRouterAdapter(api_key=KEY, base_url=provider.openrouter_url),
}


@pytest.mark.parametrize("name", OVER_HTTP)
def test_our_adapters_over_http(name: str, serve: Serve) -> None:
    """Each of our adapters over HTTP keeps every rule, with its real SDK. (TESTKIT-11)"""
    assert check(OVER_HTTP[name], serve) == RULES


@needs_claude
def test_our_adapter_over_the_command(serve: Serve) -> None:
    """Our adapter over the real `claude` command keeps every rule. (TESTKIT-11)"""

    def make(provider: EmbeddedProvider) -> LLMAdapter:
        return ClaudeCodeAdapter(api_key=KEY, base_url=provider.anthropic_url, cli_path=find_claude())

    # On a busy machine the command takes seconds before it sends.
    patient = {"deadline_seconds": 6.0, "patience_seconds": 60}
    assert check(make, serve, ways=WAYS_TO_FAIL[:2], calls=1, attempts=2, **patient) == RULES


def test_the_mock() -> None:
    """The mock keeps every rule but one: it stands for any provider, so it takes any parameter. (TESTKIT-11)"""
    mocks: list[MockLLMAdapter] = []

    def make(**options: Any) -> MockLLMAdapter:
        mocks.append(MockLLMAdapter(prompt_tokens=9, completion_tokens=4, **options))
        return mocks[-1]

    report = check_adapter(
        make,
        slow=lambda: make(delay_seconds=60),
        failing=lambda: ErrorLLMAdapter(LLMRateLimitError("slow down", status_code=429)),
        count_requests=lambda: sum(len(mock.calls) for mock in mocks),
        billed_tokens=lambda: sum(13 * len(mock.calls) for mock in mocks),
        secrets=[KEY],
        waived={"unknown_parameter_is_refused": "stands for any provider"},
        deadline_seconds=0.3,
    )
    assert [result.rule.name for result in report.results if result.verdict != "kept"] == [
        "unknown_parameter_is_refused"
    ]


@cache
def of_the_documents() -> dict[str, Any]:
    """The classes of docs/writing-an-adapter.md."""
    code = [text for _, text in blocks(ROOT / "docs" / "writing-an-adapter.md", "python")]
    namespace: dict[str, Any] = {"__name__": "document"}
    for text in code[:4]:
        exec(text, namespace)
    return namespace


def plain(name: str, provider: EmbeddedProvider) -> LLMAdapter:
    adapter: LLMAdapter = of_the_documents()[name](
        url=f"{provider.openai_url}/chat/completions", api_key=KEY, model="plain-1"
    )
    return adapter


DOCUMENTED: dict[str, Make] = {
    "PlainAdapter": partial(plain, "PlainAdapter"),
    "ExactAdapter": partial(plain, "ExactAdapter"),
    "StreamingAdapter": partial(plain, "StreamingAdapter"),
    "LoggingAdapter": lambda provider: of_the_documents()["LoggingAdapter"](plain("PlainAdapter", provider)),
}


@pytest.mark.parametrize("name", DOCUMENTED)
def test_the_adapters_of_the_documents(name: str, serve: Serve) -> None:
    """What docs/writing-an-adapter.md shows keeps every rule: template, bound, wrapper and stream. (TESTKIT-11)"""
    assert check(DOCUMENTED[name], serve, Behaviour(drip=0.1), deadline_seconds=0.5) == RULES


def test_the_template_is_short() -> None:
    """The template of docs/writing-an-adapter.md stays within a page."""
    _, template = blocks(Path(ROOT / "docs" / "writing-an-adapter.md"), "python")[0]
    assert len(template.splitlines()) <= 65

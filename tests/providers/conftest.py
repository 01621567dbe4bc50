"""Parts shared by the tests of the adapters: real SDKs and clients, and the `claude` command, against loopback."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from llm_connect import LLMAdapter, LLMResponse, create_adapter
from llm_connect.providers.claude_code import ClaudeCodeAdapter
from llm_connect.testing import EmbeddedProvider, WireFormat
from tests.providers.claude_helpers import KEY as CLAUDE_KEY
from tests.providers.claude_helpers import Script
from tests.providers.claude_stand_in import stand_in
from tests.providers.messages_server import MessagesServer, messages_server
from tests.transports import TRANSPORTS, Transport, choose

KEY = "sk-loopback-0123456789abcdef"


@dataclass(frozen=True)
class Wiring:
    """What of an adapter the tests have to know by name."""

    name: str
    wire_format: WireFormat
    variables: tuple[str, ...]
    module: str
    extra: str
    limit_path: tuple[str, ...]
    temperature_path: tuple[str, ...]
    finish: dict[str, str]
    options: dict[str, Any] = field(default_factory=dict)

    def url(self, provider: EmbeddedProvider) -> str:
        """The base URL for this adapter."""
        return str(getattr(provider, f"{self.name}_url"))

    def sent(self, body: Any, path: tuple[str, ...]) -> Any:
        """The field of a request body at a path; None when it is absent."""
        for name in path:
            body = body.get(name, {})
        return None if body == {} else body


CHAT_FINISH = {"stop": "stop", "length": "length", "content_filter": "content_filter", "odd": "unknown"}
WIRINGS = {
    "openai": Wiring(
        name="openai",
        wire_format="openai_chat",
        variables=("OPENAI_API_KEY",),
        module="openai",
        extra="openai",
        limit_path=("max_completion_tokens",),
        temperature_path=("temperature",),
        finish=CHAT_FINISH,
    ),
    "openai-responses": Wiring(
        name="openai",
        wire_format="openai_responses",
        variables=("OPENAI_API_KEY",),
        module="openai",
        extra="openai",
        limit_path=("max_output_tokens",),
        temperature_path=("temperature",),
        finish={
            "completed": "stop",
            "max_output_tokens": "length",
            "content_filter": "content_filter",
            "odd": "unknown",
        },
        options={"api": "responses"},
    ),
    "gemini": Wiring(
        name="gemini",
        wire_format="generate_content",
        variables=("GEMINI_API_KEY", "GOOGLE_API_KEY"),
        module="google.genai",
        extra="gemini",
        limit_path=("generationConfig", "maxOutputTokens"),
        temperature_path=("generationConfig", "temperature"),
        finish={"STOP": "stop", "MAX_TOKENS": "length", "SAFETY": "content_filter", "ODD": "unknown"},
    ),
    "openrouter": Wiring(
        name="openrouter",
        wire_format="openrouter",
        variables=("OPENROUTER_API_KEY",),
        module="httpx2",
        extra="openrouter",
        limit_path=("max_tokens",),
        temperature_path=("temperature",),
        finish=CHAT_FINISH | {"error": "error"},
    ),
}

Make = Callable[..., Any]
Ask = Callable[..., LLMResponse]


@pytest.fixture
def provider() -> Iterator[EmbeddedProvider]:
    """A running provider."""
    with EmbeddedProvider() as running:
        yield running


@pytest.fixture(params=["gemini", "openai", "openrouter"])
def wiring(request: pytest.FixtureRequest) -> Wiring:
    """Each adapter over HTTP in turn; a test that is about formats, too, asks for all of WIRINGS."""
    return WIRINGS[request.param]


@pytest.fixture
def make(wiring: Wiring, provider: EmbeddedProvider) -> Iterator[Make]:
    """Makes adapters of the wiring that talk to the provider; closes them at the end."""
    made: list[Any] = []

    def make_one(**options: Any) -> Any:
        defaults = {"model": "test-model", "api_key": KEY, "base_url": wiring.url(provider), **wiring.options}
        made.append(create_adapter(wiring.name, **defaults | options))
        return made[-1]

    yield make_one
    for adapter in made:
        adapter.close()


def ask_sync(adapter: LLMAdapter, *arguments: Any) -> LLMResponse:
    """One call in this thread."""
    return adapter.execute_prompt(*arguments)


def ask_async(adapter: LLMAdapter, *arguments: Any) -> LLMResponse:
    """One call in an event loop of its own."""

    async def call() -> LLMResponse:
        return await adapter.async_execute_prompt(*arguments)

    return asyncio.run(call())


@pytest.fixture(params=["sync", *TRANSPORTS])
def ask(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Ask:
    """Both forms of a call, the async one over each transport."""
    if request.param == "sync":
        return ask_sync
    choose(request.param, monkeypatch)
    return ask_async


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Transport:
    """What carries async calls, for tests that make them themselves."""
    choose(request.param, monkeypatch)
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def server() -> Iterator[MessagesServer]:
    with messages_server() as running:
        yield running


@pytest.fixture
def script(tmp_path: Path) -> Script:
    """An adapter whose command is a script of these Python lines; `here` is where it leaves traces."""

    def make(lines: str) -> ClaudeCodeAdapter:
        return ClaudeCodeAdapter(api_key=CLAUDE_KEY, cli_path=stand_in(tmp_path, lines), base_url="http://127.0.0.1:9")

    return make

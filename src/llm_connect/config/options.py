"""The options of each adapter, for type checkers: `create_adapter` selects them by the provider's name.

A test compares them with the constructors.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Literal, TypeAlias, TypedDict

from llm_connect.budget.accounting.bounds import CountTokens
from llm_connect.budget.accounting.prices import Price
from llm_connect.budget.tracker import BudgetTracker
from llm_connect.engine.http_options import Verify

if TYPE_CHECKING:
    import httpx2
    import openai

    from llm_connect.testing.mock import Reply

#: The names that `create_adapter` knows.
Provider: TypeAlias = Literal["claude-code", "gemini", "mock", "openai", "openrouter"]


class AdapterOptions(TypedDict, total=False):
    """The options of all adapters."""

    model: str
    budget_tracker: BudgetTracker | None
    price: Price | None
    count_tokens: CountTokens


class ServiceOptions(AdapterOptions, total=False):
    """The options of the adapters for paid services."""

    api_key: str | None
    base_url: str | None
    max_concurrency: int


class HttpAdapterOptions(ServiceOptions, total=False):
    """The options of the HTTP adapters."""

    verify: Verify
    proxy: str | None
    http_client: httpx2.Client | None
    async_http_client: httpx2.AsyncClient | None
    max_reply_bytes: int
    max_reply_structure: int


class ClaudeCodeOptions(ServiceOptions, total=False):
    cli_path: str | os.PathLike[str] | None
    login: bool


class GeminiOptions(HttpAdapterOptions, total=False):
    pass


class MockOptions(AdapterOptions, total=False):
    reply: Reply
    prompt_tokens: int
    completion_tokens: int
    delay_seconds: float


class OpenAIOptions(HttpAdapterOptions, total=False):
    api: Literal["chat_completions", "responses"]
    client: openai.OpenAI | None
    async_client: openai.AsyncOpenAI | None


class OpenRouterOptions(HttpAdapterOptions, total=False):
    app_name: str | None
    app_url: str | None

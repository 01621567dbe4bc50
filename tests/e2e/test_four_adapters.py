"""The four adapters together: three SDKs and clients and the real `claude` command, in one event loop."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace

from llm_connect import BudgetTracker, ClaudeCodeAdapter, GeminiAdapter, OpenAIAdapter, OpenRouterAdapter, RunConfig
from llm_connect.testing import Behaviour, EmbeddedProvider
from tests.providers.claude_binary import find_claude, needs_claude

KEY = "key-0123456789"
CONFIG = RunConfig(max_tokens=50, max_retries=0, timeout_seconds=60)


@needs_claude
async def test_four_adapters_in_one_gather() -> None:
    """All four answer at the same time, and their one budget counts what was billed. (PROVIDER-16)"""
    tracker = BudgetTracker(total=100_000, total_calls=8)
    config = replace(CONFIG, budget_tracker=tracker)
    with EmbeddedProvider() as provider:
        # All are under way together: the three over HTTP are held until the command, which is slower, has asked.
        provider.script(Behaviour(delay=3))
        async with (
            OpenAIAdapter(api_key=KEY, base_url=provider.openai_url) as openai,
            GeminiAdapter(api_key=KEY, base_url=provider.gemini_url) as gemini,
            OpenRouterAdapter(api_key=KEY, base_url=provider.openrouter_url) as openrouter,
            ClaudeCodeAdapter(api_key=KEY, base_url=provider.anthropic_url, cli_path=find_claude()) as claude,
        ):
            adapters = [openai, gemini, openrouter, claude] * 2
            calls = (adapter.async_execute_prompt(f"question {n}", config) for n, adapter in enumerate(adapters))
            responses = await asyncio.gather(*calls)
        assert [response.metadata["provider"] for response in responses] == [a.provider for a in adapters]
        assert all(response.content for response in responses)
        assert sum(response.usage.total_tokens for response in responses) == provider.meter.total_tokens
        assert (tracker.spent, tracker.held, tracker.spent_calls) == (provider.meter.total_tokens, 0, 8)
        assert sum(entry.amount.tokens for entry in tracker.ledger) == tracker.spent
        assert {request.prompt for request in provider.requests} == {f"question {n}" for n in range(8)}
        formats = Counter(request.wire_format for request in provider.requests)
        assert formats == dict.fromkeys(("openai_chat", "generate_content", "openrouter", "anthropic_messages"), 2)

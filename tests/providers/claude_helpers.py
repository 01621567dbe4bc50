"""What several tests of the `claude` command as a model need."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from llm_connect.errors import LLMError
from llm_connect.interface.config import RunConfig
from llm_connect.providers.claude_code import ClaudeCodeAdapter
from llm_connect.types.response import LLMResponse
from tests.providers.claude_binary import find_claude
from tests.providers.messages_server import MessagesServer

ONCE = RunConfig(max_retries=0, timeout_seconds=30)
KEY = "sk-ant-test-key"
GOOD_RESULT = json.dumps(
    {"type": "result", "terminal_reason": "completed", "stop_reason": "end_turn", "modelUsage": {"m": {}}}
)

Script = Callable[[str], ClaudeCodeAdapter]


def real(server: MessagesServer, **options: Any) -> ClaudeCodeAdapter:
    return ClaudeCodeAdapter(**{"api_key": KEY, "cli_path": find_claude(), "base_url": server.url, **options})


def error_of(adapter: ClaudeCodeAdapter, config: RunConfig = ONCE) -> LLMError:
    with pytest.raises(LLMError) as caught:
        adapter.execute_prompt("What is 2 + 2?", config)
    return caught.value


async def called(way: str, adapter: ClaudeCodeAdapter, prompt: str, config: RunConfig) -> LLMResponse:
    if way == "async":
        return await adapter.async_execute_prompt(prompt, config)
    return await asyncio.to_thread(adapter.execute_prompt, prompt, config)

"""The engines of the chain: providers with keys in the environment, the embedded provider, or a local model."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from llm_connect import ClaudeCodeAdapter, GeminiAdapter, OpenAIAdapter, OpenRouterAdapter
from llm_connect.testing import EmbeddedProvider, Meter

from .agents import Team
from .local_engine import MODEL, LocalEngine
from .replies import reply, set_delays

#: Nothing looks at it: the servers on this machine take any key.
ANY_KEY = "none"


@dataclass(frozen=True, kw_only=True)
class Engine:
    """A team, a suitable cap in tokens, and its provider's meter if there is one."""

    label: str
    team: Team
    cap: int
    meter: Meter | None = None


@asynccontextmanager
async def open_engine(name: str) -> AsyncIterator[Engine]:
    """Open the engine of that name: "embedded", "local", or "auto", which uses provider keys if all three are set.

    Leaving the block closes its adapters and its server. Raises LLMConfigurationError if a part is missing.
    """
    async with AsyncExitStack() as stack:
        if name == "local":
            yield await _local_model(stack)
        elif name == "auto" and _has_keys():
            yield await _paid_providers(stack)
        else:
            yield await _embedded_provider(stack)


async def _paid_providers(stack: AsyncExitStack) -> Engine:
    opened = stack.enter_async_context
    command = find_claude() if os.environ.get("ANTHROPIC_API_KEY") else None
    team = Team(
        planner=await opened(OpenAIAdapter()),
        researcher=await opened(GeminiAdapter()),
        writer=await opened(OpenRouterAdapter()),
        reviewer=await opened(ClaudeCodeAdapter(cli_path=command)) if command else None,
        # Thinking is part of the output, and counts against its limit.
        max_tokens=(400, 1500, 800, 400),
    )
    return Engine(label="the providers whose keys are in the environment", team=team, cap=20_000)


async def _embedded_provider(stack: AsyncExitStack) -> Engine:
    server = stack.enter_context(EmbeddedProvider(reply=reply))
    set_delays(server)
    opened, command = stack.enter_async_context, find_claude()
    team = Team(
        planner=await opened(OpenAIAdapter(api_key=ANY_KEY, base_url=server.openai_url)),
        researcher=await opened(GeminiAdapter(api_key=ANY_KEY, base_url=server.gemini_url)),
        writer=await opened(OpenRouterAdapter(api_key=ANY_KEY, base_url=server.openrouter_url)),
        reviewer=await opened(ClaudeCodeAdapter(api_key=ANY_KEY, base_url=server.anthropic_url, cli_path=command))
        if command
        else None,
    )
    label = "the embedded provider (no model: it makes its answers from the words of the question)"
    return Engine(label=label, team=team, cap=3_000, meter=server.meter)


async def _local_model(stack: AsyncExitStack) -> Engine:
    server = stack.enter_context(LocalEngine())
    opened, command = stack.enter_async_context, find_claude()
    openai = await opened(OpenAIAdapter(model=MODEL, api_key=ANY_KEY, base_url=server.openai_url))
    team = Team(
        planner=openai,
        researcher=openai,
        writer=await opened(OpenRouterAdapter(model=MODEL, api_key=ANY_KEY, base_url=server.openai_url)),
        reviewer=await opened(ClaudeCodeAdapter(model=MODEL, api_key=ANY_KEY, base_url=server.url, cli_path=command))
        if command
        else None,
        max_tokens=(48, 24, 48, 24),
    )
    return Engine(label=f"a local model, {MODEL} (a base model: it babbles)", team=team, cap=3_000)


def find_claude() -> str | None:
    """Return the claude command on the PATH, else the one in the package claude-agent-sdk."""
    spec = find_spec("claude_agent_sdk")
    folders = [] if spec is None else list(spec.submodule_search_locations or ())
    bundled = [path for path in (Path(folder, "_bundled", "claude") for folder in folders) if path.exists()]
    return shutil.which("claude") or next(map(str, bundled), None)


def _has_keys() -> bool:
    gemini = os.environ.get("GEMINI_API_KEY") or os.environ.get("GOOGLE_API_KEY")
    return bool(os.environ.get("OPENAI_API_KEY") and gemini and os.environ.get("OPENROUTER_API_KEY"))

"""The plain openai SDK, which several contenders wrap or accompany."""

from __future__ import annotations

from typing import Any

import openai

from benchmarks.overshoot.attempts import Task
from benchmarks.overshoot.scenarios import COMPLETION_USD, GUESSED_OUTPUT, MODEL, PROMPT_USD, Scenario


def clients(task: Task) -> tuple[openai.OpenAI, openai.AsyncOpenAI]:
    """Return a sync and an async client; retries are off, because a budget outside the SDK does not see them."""
    settings: dict[str, Any] = {"base_url": task.url, "api_key": "loopback", "max_retries": 0, "timeout": 60}
    return openai.OpenAI(**settings), openai.AsyncOpenAI(**settings)


def request(scenario: Scenario, agent: str) -> dict[str, Any]:
    """Return the request of each call."""
    limit = {} if scenario.max_tokens is None else {"max_completion_tokens": scenario.max_tokens}
    return {"model": MODEL, "messages": [{"role": "user", "content": scenario.prompt(agent)}], **limit}


def estimated_tokens(scenario: Scenario, agent: str) -> tuple[int, int]:
    """Estimate prompt and completion tokens the usual way: a token for four characters, plus the output limit."""
    return -(-len(scenario.prompt(agent)) // 4), scenario.max_tokens or GUESSED_OUTPUT


def usd(prompt_tokens: int, completion_tokens: int) -> float:
    """USD, in floats as these contenders count."""
    return (prompt_tokens * float(PROMPT_USD) + completion_tokens * float(COMPLETION_USD)) / 1_000_000


def as_float(cap: object) -> float:
    """Return a cap in USD for contenders that add up floats: raised by a millionth, so rounding decides nothing."""
    return float(str(cap)) * (1 + 1e-6)

"""Streams of the `claude` command: `python claude.py` prints, as JSON, the ratio of the times to the first text, ours
and of the same binary spawned bare, and how long the provider sees the connection of a stream that was left.

The provider is the embedded one on loopback.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "shared"))

from bare_claude import KEY, MODEL, PROMPT, SYSTEM, find_claude, started

from llm_connect import BudgetTracker, ClaudeCodeAdapter, RunConfig
from llm_connect.testing import Behaviour, EmbeddedProvider

_ROUNDS = 5


def bare(command: str, url: str) -> float:
    begun = time.perf_counter()
    with started(command, url, "--include-partial-messages") as printed:
        assert any('"type":"text_delta"' in line for line in printed)
        return time.perf_counter() - begun


def ours(adapter: ClaudeCodeAdapter, config: RunConfig) -> float:
    begun = time.perf_counter()
    with adapter.stream_prompt(PROMPT, config) as stream:
        next(stream)
        seconds = time.perf_counter() - begun
        list(stream)
    return seconds


def left(adapter: ClaudeCodeAdapter, config: RunConfig, provider: EmbeddedProvider) -> float:
    """Watched by another thread, because leaving also waits for the command to end."""
    with ThreadPoolExecutor(1) as watcher:
        with adapter.stream_prompt(PROMPT, config) as stream:
            next(stream)
            next(stream)
            watched = watcher.submit(alone, provider)
            begun = time.perf_counter()
        return watched.result() - begun


def alone(provider: EmbeddedProvider) -> float:
    """The moment in which the provider sees no client any more."""
    while provider.connections:
        time.sleep(0.0002)
    return time.perf_counter()


def main() -> None:
    command = find_claude()
    if command is None:
        print("{}")
        return
    config = RunConfig(max_tokens=100, system_prompt=SYSTEM, budget_tracker=BudgetTracker(total=10**12))
    with EmbeddedProvider() as provider:
        url = provider.anthropic_url
        with ClaudeCodeAdapter(model=MODEL, api_key=KEY, base_url=url, cli_path=command) as adapter:
            first = statistics.median(ours(adapter, config) / bare(command, url) for _ in range(_ROUNDS))
            provider.script(Behaviour(stall="in_stream", pieces=8))
            slowest = max(left(adapter, config, provider) for _ in range(_ROUNDS))
    print(json.dumps({"first": first, "left": slowest}))


if __name__ == "__main__":
    main()

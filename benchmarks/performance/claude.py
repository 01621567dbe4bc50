"""The Claude adapter beside the same binary spawned bare: `python claude.py ROUNDS` prints ratios of wall time as JSON.

The provider is the embedded one on loopback; with 16 at once each form starts them in 16 threads.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from llm_connect import BudgetTracker, ClaudeCodeAdapter, RunConfig
from llm_connect.testing import EmbeddedProvider

KEY, MODEL, PROMPT, SYSTEM = "key-0123456789", "claude-haiku-4-5-20251001", "Name a colour.", "Be brief."
_AT_ONCE = 16
_ARGUMENTS = (
    *("-p", "--output-format", "stream-json", "--verbose", "--bare", "--tools", "", "--no-session-persistence"),
    *("--strict-mcp-config", "--setting-sources", "", "--max-budget-usd", "0.000001"),
    *("--model", MODEL, "--system-prompt", SYSTEM),
)


def find_claude() -> str | None:
    """LLM_CONNECT_CLAUDE, else `claude` on the PATH, else the one in the wheel of claude-agent-sdk."""
    named = os.environ.get("LLM_CONNECT_CLAUDE") or shutil.which("claude")
    spec = importlib.util.find_spec("claude_agent_sdk")
    if named or spec is None or spec.origin is None:
        return named
    bundled = Path(spec.origin).parent / "_bundled" / "claude"
    return str(bundled) if bundled.exists() else None


def bare(command: str, url: str) -> None:
    """As somebody would start it who wants one answer, and nothing of the machine in it."""
    with tempfile.TemporaryDirectory() as home:
        environment = {
            "PATH": os.defpath,
            "HOME": home,
            "CLAUDE_CONFIG_DIR": home,
            "ANTHROPIC_API_KEY": KEY,
            "ANTHROPIC_BASE_URL": url,
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "CLAUDE_CODE_MAX_OUTPUT_TOKENS": "100",
            "CLAUDE_CODE_MAX_RETRIES": "0",
            "MAX_THINKING_TOKENS": "0",
        }
        words = [command, *_ARGUMENTS]
        done = subprocess.run(
            words, input=PROMPT, env=environment, cwd=home, capture_output=True, text=True, check=False
        )
    assert '"type":"assistant"' in done.stdout, done.stderr


def wall(call: Callable[[], object], at_once: int) -> float:
    started = time.perf_counter()
    if at_once == 1:
        call()
    else:
        with ThreadPoolExecutor(at_once) as pool:
            for done in [pool.submit(call) for _ in range(at_once)]:
                done.result()
    return time.perf_counter() - started


def main(rounds: int) -> None:
    command = find_claude()
    if command is None:
        print("{}")
        return
    config = RunConfig(max_tokens=100, system_prompt=SYSTEM, budget_tracker=BudgetTracker(total=10**12))
    with EmbeddedProvider() as provider:
        url = provider.anthropic_url
        with ClaudeCodeAdapter(model=MODEL, api_key=KEY, base_url=url, cli_path=command) as adapter:
            pair = (lambda: adapter.execute_prompt(PROMPT, config), lambda: bare(command, url))
            print(json.dumps({"one": ratio(pair, 1, rounds), "sixteen": ratio(pair, _AT_ONCE, max(1, rounds // 4))}))


def ratio(pair: tuple[Callable[[], object], Callable[[], object]], at_once: int, rounds: int) -> float:
    """How long the first of a pair takes, beside the second; the median of some rounds."""
    return statistics.median(wall(pair[0], at_once) / wall(pair[1], at_once) for _ in range(rounds))


if __name__ == "__main__":
    main(int(sys.argv[1]))

"""The `claude` command, started for one answer and isolated from the machine."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

KEY, MODEL, PROMPT, SYSTEM = "key-0123456789", "claude-haiku-4-5-20251001", "Name a colour.", "Be brief."
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


@contextmanager
def started(command: str, url: str, *more: str) -> Iterator[IO[str]]:
    """Return the command's output for `PROMPT` from the provider at `url`, with `more` arguments."""
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
        words = [command, *_ARGUMENTS, *more]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        with subprocess.Popen(words, env=environment, cwd=home, text=True, **pipes) as process:  # type: ignore[call-overload]
            process.stdin.write(PROMPT)
            process.stdin.close()
            yield process.stdout
            process.stdout.read()

"""Where the real `claude` command is, for tests that drive it."""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path

import pytest

#: Seconds after which a call that gets no reply ends. A busy machine may start the command more slowly than that: if
#: the command has asked for nothing by then, the next of these is tried.
DEADLINES = (4, 16, 64)


def find_claude() -> str | None:
    """LLM_CONNECT_CLAUDE, else `claude` on the PATH, else the one in the wheel of claude-agent-sdk."""
    named = os.environ.get("LLM_CONNECT_CLAUDE") or shutil.which("claude")
    if named:
        return named
    spec = importlib.util.find_spec("claude_agent_sdk")
    if spec is None or spec.origin is None:
        return None
    bundled = Path(spec.origin).parent / "_bundled" / "claude"
    return str(bundled) if bundled.exists() else None


needs_claude = pytest.mark.skipif(
    find_claude() is None,
    reason="no claude command: set LLM_CONNECT_CLAUDE, install it, or install claude-agent-sdk",
)

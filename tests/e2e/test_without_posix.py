"""Core, memory and SQLite budgets work where there is no fork, no fcntl and no signal to kill with, as on Windows."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

BARE = """
# Of the standard library, what needs POSIX itself where it is there.
import asyncio, concurrent.futures.thread, logging, os, random, select, shutil, signal, socket, subprocess, sys
for module, names in {
    os: ("fork", "register_at_fork", "killpg", "setsid", "getpgid", "getuid", "geteuid", "waitid", "pidfd_open"),
    signal: ("SIGKILL", "SIGALRM", "SIGHUP", "setitimer", "pthread_sigmask"),
    select: ("poll", "epoll", "kqueue"),
}.items():
    for name in names:
        if hasattr(module, name): delattr(module, name)
for name in ("fcntl", "pwd", "grp", "resource", "termios"): sys.modules[name] = None
"""
PROGRAM = """
from llm_connect import BudgetTracker, LLMConfigurationError, MockLLMAdapter, RunConfig, open_budget
tracker = BudgetTracker(total=1000)
assert MockLLMAdapter("hi").execute_prompt("x", RunConfig(budget_tracker=tracker)).content == "hi"
assert tracker.spent > 0 and tracker.held == 0
with open_budget("sqlite:///" + sys.argv[1], total=1000) as budget:
    assert MockLLMAdapter("hi").execute_prompt("x", RunConfig(budget_tracker=budget)).content == "hi"
    assert budget.spent > 0 and budget.held == 0
from llm_connect import ClaudeCodeAdapter
try:
    ClaudeCodeAdapter(api_key="key-0123456789", cli_path=sys.executable)
except LLMConfigurationError as error:
    print(error)
"""


def test_without_posix_all_but_the_claude_command_works(tmp_path: Path) -> None:
    """What needs POSIX says so when it is used, and nothing else needs it. (PROVIDER-48)"""
    command = [sys.executable, "-c", BARE + PROGRAM, str(tmp_path / "budget.db")]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=240, cwd=Path.cwd(), check=False)
    assert ran.stderr == ""
    assert "POSIX" in ran.stdout

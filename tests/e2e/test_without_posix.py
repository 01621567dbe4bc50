"""What works where there is no fork, no fcntl and no signal to kill with, as on Windows (tests/without_posix.py)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

IMPORTS = """
import tests.without_posix
import importlib, pkgutil, sys
import llm_connect
for module in pkgutil.walk_packages(llm_connect.__path__, "llm_connect."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
for name in llm_connect.__all__:
    getattr(llm_connect, name)
print(len([name for name in sys.modules if name.startswith("llm_connect.")]))
"""
BUDGETS = """
import tests.without_posix
import asyncio, sys, threading
from llm_connect import BudgetTracker, LLMBudgetExceededError, MockLLMAdapter, RunConfig, open_budget

def book(budget):
    config = RunConfig(budget_tracker=budget, max_tokens=20)
    llm = MockLLMAdapter("hi")
    assert llm.execute_prompt("x", config).content == "hi"
    assert asyncio.run(llm.async_execute_prompt("x", config)).content == "hi"
    for_helper = config.delegate("helper", total=500, max_tokens=20)
    assert llm.execute_prompt("x", for_helper).content == "hi"
    hold = budget.reserve(900)
    ending = threading.Timer(0.1, hold.release)
    ending.start()
    budget.reserve(900, max_wait_seconds=60).settle(0)
    try:
        budget.consume(1001)
    except LLMBudgetExceededError as refused:
        assert refused.reason == "never_fits"
    assert budget.spent > 0 and budget.held == 0
    assert sum(entry.amount.tokens for entry in budget.ledger) == budget.spent
    return budget.spent

url = "sqlite:///" + sys.argv[1]
spent = book(BudgetTracker(total=1000))
with open_budget(url, total=1000) as budget:
    assert book(budget) == spent
with open_budget(url) as budget:
    print(budget.spent == spent)
"""
#: Two of them share a file: each adds 1 a hundred times, and the limit lets 150 through.
SHARER = """
import tests.without_posix
import sys
from llm_connect import LLMBudgetExceededError, open_budget
through = 0
with open_budget("sqlite:///" + sys.argv[1], total=150) as budget:
    for _ in range(100):
        try:
            budget.consume(1)
            through += 1
        except LLMBudgetExceededError:
            pass
print(through)
"""
REPLACED = """
import tests.without_posix
import os, sys
from llm_connect import LLMStoreError, open_budget
path = sys.argv[1]
with open_budget("sqlite:///" + path + ".other", total=10) as other:
    other.record(1)
budget = open_budget("sqlite:///" + path, total=10)
budget.record(3)
os.replace(path + ".other", path)
try:
    budget.record(1)
except LLMStoreError as error:
    print(type(error).__name__)
"""
CALLS = """
import tests.without_posix
import asyncio
from llm_connect import BudgetTracker, GeminiAdapter, OpenAIAdapter, OpenRouterAdapter, RunConfig
from llm_connect.testing import EmbeddedProvider

KEY = "key-0123456789"

async def run(adapter, config):
    async with adapter:
        assert (await adapter.async_execute_prompt("x", config)).content
        async with adapter.async_stream_prompt("x", config) as stream:
            assert [chunk async for chunk in stream]

with EmbeddedProvider() as provider:
    for adapter_class, url in (
        (OpenAIAdapter, provider.openai_url), (GeminiAdapter, provider.gemini_url),
        (OpenRouterAdapter, provider.openrouter_url),
    ):
        tracker = BudgetTracker(total=10_000)
        config = RunConfig(max_tokens=20, max_retries=0, timeout_seconds=120, budget_tracker=tracker)
        with adapter_class(api_key=KEY, base_url=url) as adapter:
            assert adapter.execute_prompt("x", config).content
            with adapter.stream_prompt("x", config) as stream:
                assert list(stream)
        asyncio.run(run(adapter_class(api_key=KEY, base_url=url), config))
        assert tracker.spent_calls == 4 and tracker.held == 0
        print(adapter.provider)
    assert provider.meter.total_tokens > 0
"""
COMMAND = """
import tests.without_posix
import sys
from llm_connect import ClaudeCodeAdapter, LLMConfigurationError
try:
    ClaudeCodeAdapter(api_key="key-0123456789", cli_path=sys.executable)
except LLMConfigurationError as error:
    print(error)
"""


def started(program: str, *arguments: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "error", "-c", program, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def output(process: subprocess.Popen[str]) -> str:
    printed, complaints = process.communicate(timeout=240)
    assert (complaints, process.returncode) == ("", 0)
    return printed


def test_every_module_is_imported() -> None:
    """No module needs POSIX to be imported. (PROVIDER-48)"""
    assert int(output(started(IMPORTS))) > 150


def test_budgets_in_memory_and_in_a_file_book(tmp_path: Path) -> None:
    """Calls, waits, children and refusals need no POSIX, and a file keeps what was spent. (PROVIDER-48)"""
    assert output(started(BUDGETS, tmp_path / "budget.db")) == "True\n"


def test_processes_share_a_file(tmp_path: Path) -> None:
    """SQLite's own locks keep the cap between processes. (PROVIDER-48)"""
    sharers = [started(SHARER, tmp_path / "budget.db") for _ in range(2)]
    assert sum(int(output(sharer)) for sharer in sharers) == 150


@pytest.mark.allow_skip
@pytest.mark.skipif(os.name == "nt", reason="Windows lets nobody replace a file that is open")
def test_a_replaced_file_is_noticed(tmp_path: Path) -> None:
    """A budget knows its file by the numbers that every system gives to a file. (PROVIDER-48)"""
    assert output(started(REPLACED, tmp_path / "budget.db")) == "LLMStoreError\n"


def test_adapters_over_http_call() -> None:
    """Each adapter over HTTP answers in all four modes, and its calls are settled. (PROVIDER-48)"""
    assert output(started(CALLS)) == "openai\ngemini\nopenrouter\n"


def test_the_claude_command_says_that_it_needs_posix() -> None:
    """What needs POSIX is refused when it is made, with the systems that have it. (PROVIDER-48)"""
    assert output(started(COMMAND)) == "ClaudeCodeAdapter needs POSIX, as on Linux, macOS or WSL.\n"

"""How long adapters live, under a tracker: loops, threads, closing, forgetting, and a command that is stopped.

The life of one adapter runs in a process of its own, in Python's development mode with warnings as errors and with
memory traced: what is left open is named on its standard error, which must stay empty.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from llm_connect import BudgetTracker, ClaudeCodeAdapter, LLMResponse, LLMTimeoutError, RunConfig
from llm_connect.testing import Behaviour, EmbeddedProvider
from tests.providers.claude_binary import DEADLINES, find_claude, needs_claude
from tests.providers.claude_stand_in import stand_in
from tests.transports import TRANSPORTS

KEY = "key-0123456789"
#: Another for each test process, by which its commands are found.
COMMANDS_KEY = f"key-of-{os.getpid()}-{time.monotonic_ns()}"
#: Calls in the life below.
CALLS = 3 + 2 * 5 + 16 + 3 + 2
LIFE = """
import asyncio, gc, json, logging, sys, threading
from concurrent.futures import ThreadPoolExecutor
from llm_connect import BudgetTracker, RunConfig, create_adapter

# In development mode asyncio also tells of steps that a busy machine was slow at.
logging.getLogger("asyncio").addFilter(lambda record: not record.getMessage().startswith("Executing "))
name, options, transport = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3]
if transport == "httpx2":
    sys.modules["aiohttp"] = None
tracker = BudgetTracker(total=10_000_000)
config = RunConfig(max_tokens=20, budget_tracker=tracker)

async def calls(adapter, number):
    await asyncio.gather(*(adapter.async_execute_prompt("hello", config) for _ in range(number)))

adapter = create_adapter(name, **options)
for _ in range(3):
    asyncio.run(calls(adapter, 1))

both = threading.Barrier(2, timeout=30)

def loop(_):
    both.wait()
    asyncio.run(calls(adapter, 5))

with ThreadPoolExecutor(2) as pool:
    list(pool.map(loop, range(2)))
with ThreadPoolExecutor(16) as pool:
    list(pool.map(lambda _: adapter.execute_prompt("hello", config), range(16)))

async def close_twice():
    for _ in range(2):
        await calls(adapter, 1)
        await adapter.aclose()
    await adapter.aclose()

asyncio.run(close_twice())
adapter.execute_prompt("hello", config)
adapter.close()
adapter.close()

async def forget():
    await calls(create_adapter(name, **options), 1)
    gc.collect()

asyncio.run(forget())
create_adapter(name, **options).execute_prompt("hello", config)
del adapter
gc.collect()
print(tracker.spent, tracker.spent_calls, tracker.held, tracker.held_calls, threading.active_count())
"""
ASK_AND_ANSWER = "answered(ask()[1])"
needs_proc = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="no /proc to look for processes in")
DEVELOPMENT = ("-X", "dev", "-X", "tracemalloc", "-W", "error")


@pytest.fixture
def provider() -> Iterator[EmbeddedProvider]:
    with EmbeddedProvider() as running:
        yield running


LIVES = [("openai", "aiohttp"), ("gemini", "httpx2"), ("openrouter", "aiohttp"), ("claude-code", "aiohttp")]
LIVES_AT_NIGHT = sorted({*product(["openai", "gemini", "openrouter"], TRANSPORTS)}.difference(LIVES))


@pytest.mark.parametrize(
    ("name", "transport"),
    [*LIVES, *(pytest.param(*life, marks=pytest.mark.at_night) for life in LIVES_AT_NIGHT)],
)
def test_a_life_leaves_nothing_behind(provider: EmbeddedProvider, name: str, transport: str, tmp_path: Path) -> None:
    """Loops one after the other and at once, 16 threads, closed twice, used again, forgotten: no warning, no socket, no
    thread, no hold, and the books are the bill. (CALL-9, CALL-10)
    """
    options: dict[str, Any] = {"api_key": KEY, "model": "test-model"}
    if name == "claude-code":
        # The real one, dozens of times, would take minutes.
        options |= {"cli_path": str(stand_in(tmp_path, ASK_AND_ANSWER)), "base_url": provider.anthropic_url}
    else:
        options["base_url"] = getattr(provider, f"{name}_url")
    done = subprocess.run(
        [sys.executable, *DEVELOPMENT, "-c", LIFE, name, json.dumps(options), transport],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    spent, *rest = map(int, done.stdout.split())
    assert rest == [CALLS, 0, 0, 1]
    assert (spent, CALLS) == (provider.meter.total_tokens, provider.meter.calls)


@needs_claude
@needs_proc
@pytest.mark.parametrize("form", ["sync", "async"])
async def test_a_command_that_was_too_slow_is_gone_and_booked(provider: EmbeddedProvider, form: str) -> None:
    """After a timeout no process of the real command is left, and its hold is presumed. (PROVIDER-13)"""
    provider.script(Behaviour(stall="after_headers"))
    for seconds in DEADLINES:
        tracker = BudgetTracker(total=10_000)
        config = RunConfig(max_tokens=20, budget_tracker=tracker, timeout_seconds=seconds)
        with claude_at(provider) as adapter, pytest.raises(LLMTimeoutError):
            await called(form, adapter, config)
        assert processes() == []
        if provider.requests:
            break
    assert len(provider.requests) == 1
    check_presumed(tracker, provider)


@needs_claude
@needs_proc
async def test_a_command_that_was_cancelled_is_gone_and_booked(provider: EmbeddedProvider) -> None:
    """After a cancellation no process of the real command is left, and its hold is presumed. (CALL-8, PROVIDER-13)"""
    provider.script(Behaviour(stall="after_headers"))
    tracker = BudgetTracker(total=10_000)
    config = RunConfig(max_tokens=20, budget_tracker=tracker)
    with claude_at(provider) as adapter:
        task = asyncio.create_task(adapter.async_execute_prompt("hello", config))
        await asyncio.to_thread(provider.wait_for_requests, 1, timeout=30)
        assert len(processes()) == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert processes() == []
    check_presumed(tracker, provider)


async def called(form: str, adapter: ClaudeCodeAdapter, config: RunConfig) -> LLMResponse:
    """One call, in a thread or in this task."""
    if form == "sync":
        return await asyncio.to_thread(adapter.execute_prompt, "hello", config)
    return await adapter.async_execute_prompt("hello", config)


def claude_at(provider: EmbeddedProvider) -> ClaudeCodeAdapter:
    """The real command, talking to the provider."""
    return ClaudeCodeAdapter(api_key=COMMANDS_KEY, base_url=provider.anthropic_url, cli_path=find_claude())


def processes() -> list[str]:
    """The processes that have the key of these tests in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if f"ANTHROPIC_API_KEY={COMMANDS_KEY}".encode() in path.read_bytes().split(b"\0"):
                found.append(path.parent.name)
    return found


def check_presumed(tracker: BudgetTracker, provider: EmbeddedProvider) -> None:
    """One attempt, booked at its bound, which covers what the provider billed; nothing is held."""
    (entry,) = tracker.ledger
    assert entry.outcome == "presumed"
    assert provider.meter.total_tokens <= entry.bound.tokens == tracker.spent
    assert (tracker.held, tracker.held_calls) == (0, 0)

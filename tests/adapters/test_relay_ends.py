"""However a call of the `claude` command ends, its relay leaves nothing: no socket, no thread, no process, no warning.

Each end is reached twice in a process of its own, in Python's development mode with warnings as errors.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from llm_connect.testing import Behaviour, EmbeddedProvider
from tests.adapters.claude_stand_in import stand_in

DEVELOPMENT = ("-X", "dev", "-X", "tracemalloc", "-W", "error")
#: It tells that it is about to ask.
ASK_AND_ANSWER = "open(f'{here}/asking-{os.getpid()}', 'w').close()\nanswered(ask()[1])"
CALL = """
import asyncio, gc, json, logging, os, sys, threading, time
from pathlib import Path
from llm_connect import BudgetTracker, ClaudeCodeAdapter, LLMError, RunConfig

# In development mode asyncio also tells of steps that a busy machine was slow at.
logging.getLogger("asyncio").addFilter(lambda record: not record.getMessage().startswith("Executing "))
way, options = sys.argv[1], json.loads(sys.argv[2])
folder = Path(options["cli_path"]).parent
tracker = BudgetTracker(total=100_000)
adapter = ClaudeCodeAdapter(**options)

def asking():
    return [name for name in os.listdir(folder) if name.startswith("asking-")]

def forget():
    for name in asking():
        (folder / name).unlink()

async def under_way(step):
    forget()
    step()
    while not asking():
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.2)

async def stepped(coroutine):
    # Some steps of a coroutine that no task of the loop owns.
    forget()
    last = None
    while last is None or time.monotonic() < last:
        waited = coroutine.send(None)
        waited._asyncio_future_blocking = False
        while not waited.done() and (last is None or time.monotonic() < last):
            await asyncio.sleep(0.01)
            if last is None and asking():
                last = time.monotonic() + 0.2

def call(timeout=60):
    return adapter.async_execute_prompt("hi", RunConfig(budget_tracker=tracker, timeout_seconds=timeout, max_retries=0))

def sync(timeout):
    try:
        adapter.execute_prompt("hi", RunConfig(budget_tracker=tracker, timeout_seconds=timeout, max_retries=0))
    except LLMError as error:
        return type(error).__name__

async def to_its_end(timeout):
    try:
        await call(timeout)
    except LLMError as error:
        return type(error).__name__

async def cancelled(times):
    tasks = []
    await under_way(lambda: tasks.append(asyncio.create_task(call())))
    for _ in range(times):
        tasks[0].cancel()
        await asyncio.sleep(0.01)
    try:
        await tasks[0]
    except asyncio.CancelledError:
        return "CancelledError"

async def left_alone():
    await under_way(lambda: asyncio.create_task(call()))

def closed(before_the_loop):
    loop, coroutine = asyncio.new_event_loop(), call()
    loop.run_until_complete(stepped(coroutine))
    if before_the_loop:
        coroutine.close()
    loop.close()
    coroutine.close()

ENDS = {
    "sync": lambda: sync(60),
    "async": lambda: asyncio.run(to_its_end(60)),
    "sync deadline": lambda: sync(1.5),
    "async deadline": lambda: asyncio.run(to_its_end(1.5)),
    "cancelled": lambda: asyncio.run(cancelled(1)),
    "cancelled twice": lambda: asyncio.run(cancelled(2)),
    "left alone": lambda: asyncio.run(left_alone()),
    "closed": lambda: closed(True),
    "loop closed": lambda: closed(False),
}

def state():
    gc.collect()
    return [len(os.listdir("/proc/self/fd")), threading.active_count(), tracker.held]

first, before = ENDS[way](), state()
second, after = ENDS[way](), state()
print(json.dumps([[first, second], before, after, [entry.outcome for entry in tracker.ledger]]))
"""
WAYS: dict[str, tuple[Behaviour, str | None, str]] = {
    "sync": (Behaviour(), None, "settled"),
    "async": (Behaviour(), None, "settled"),
    "sync deadline": (Behaviour(stall="before_headers"), "LLMTimeoutError", "presumed"),
    "async deadline": (Behaviour(stall="after_headers"), "LLMTimeoutError", "presumed"),
    "cancelled": (Behaviour(stall="before_headers"), "CancelledError", "presumed"),
    "cancelled twice": (Behaviour(stall="after_headers"), "CancelledError", "presumed"),
    "left alone": (Behaviour(stall="after_headers"), None, "presumed"),
    "closed": (Behaviour(stall="after_headers"), None, "presumed"),
    "loop closed": (Behaviour(stall="before_headers"), None, "presumed"),
}


@pytest.fixture
def provider() -> Iterator[EmbeddedProvider]:
    with EmbeddedProvider() as running:
        yield running


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="no /proc to count open files in")
@pytest.mark.parametrize(
    ("way", "behaviour", "raised", "outcome"),
    [
        *((way, *expected) for way, expected in WAYS.items()),
        *((way, Behaviour(status=404), "LLMAPIError", "released") for way in ("sync", "async")),
        *((way, Behaviour(cut="before_reply"), "LLMConnectionError", "presumed") for way in ("sync", "async")),
    ],
)
def test_an_end_leaves_nothing(
    provider: EmbeddedProvider, tmp_path: Path, way: str, behaviour: Behaviour, raised: str | None, outcome: str
) -> None:
    """An answer, an error, a deadline, a cancellation, a loop that is torn down: all is as before, and no hold is left.

    (ADAPTER-6, CALL-8, CALL-9, CALL-12, PROVIDER-13)
    """
    provider.script(behaviour)
    options = {
        "api_key": "key-0123456789",
        "base_url": provider.anthropic_url,
        "cli_path": str(stand_in(tmp_path, ASK_AND_ANSWER)),
    }
    done = subprocess.run(
        [sys.executable, *DEVELOPMENT, "-c", CALL, way, json.dumps(options)],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    errors, before, after, outcomes = json.loads(done.stdout)
    assert errors == [raised] * 2
    assert before == after
    assert after[1:] == [1, 0]
    assert outcomes == [outcome] * 2
    assert len(provider.requests) == 2

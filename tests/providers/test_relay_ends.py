"""However a call of the `claude` command ends, its relay leaves nothing: no socket, no thread, no process, no warning.

Each end is reached twice, in a process of its own, in Python's development mode with warnings as errors.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from llm_connect.testing import Behaviour, EmbeddedProvider
from tests.providers.claude_stand_in import stand_in

pytestmark = pytest.mark.slow

DEVELOPMENT = ("-X", "dev", "-X", "tracemalloc", "-W", "error")
ASK_AND_ANSWER = "answered(ask()[1])"
CALLS = """
import asyncio, gc, json, logging, os, sys, threading
from pathlib import Path
from llm_connect import BudgetTracker, ClaudeCodeAdapter, LLMError, RunConfig

# In development mode asyncio also tells of steps that a busy machine was slow at.
logging.getLogger("asyncio").addFilter(lambda record: not record.getMessage().startswith("Executing "))
ways, options = json.loads(sys.argv[1]), json.loads(sys.argv[2])
folder = Path(options["cli_path"]).parent
tracker = BudgetTracker(total=100_000)
adapter = ClaudeCodeAdapter(**options)

def arrived():
    try:
        return int((folder / "arrived").read_text())
    except (OSError, ValueError):
        return 0

async def under_way(step):
    before = arrived()
    step()
    while arrived() <= before:
        await asyncio.sleep(0.01)

async def stepped(coroutine):
    # As far as its request goes, by steps of a coroutine that no task of the loop owns.
    before = arrived()
    while arrived() <= before:
        waited = coroutine.send(None)
        waited._asyncio_future_blocking = False
        while not waited.done() and arrived() <= before:
            await asyncio.sleep(0.01)

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
    "sync deadline": lambda: sync(4),
    "async deadline": lambda: asyncio.run(to_its_end(4)),
    "cancelled": lambda: asyncio.run(cancelled(1)),
    "cancelled twice": lambda: asyncio.run(cancelled(2)),
    "left alone": lambda: asyncio.run(left_alone()),
    "closed": lambda: closed(True),
    "loop closed": lambda: closed(False),
}

def state():
    gc.collect()
    return [len(os.listdir("/proc/self/fd")), threading.active_count(), tracker.held]

def reached(way):
    first, before = ENDS[way](), state()
    second, after = ENDS[way](), state()
    return [[first, second], before, after]

results = [reached(way) for way in ways]
print(json.dumps([results, [entry.outcome for entry in tracker.ledger]]))
"""
ANSWER = Behaviour()
ERROR = Behaviour(status=404)
BREAK = Behaviour(cut="before_reply")
SILENCE = Behaviour(stall="before_headers")
STALL = Behaviour(stall="after_headers")
#: How the calls of one process end: the way, what the provider does, the error, and what becomes of the hold.
Ends = list[tuple[str, Behaviour, str | None, str]]
IN_A_THREAD: Ends = [
    ("sync", ANSWER, None, "settled"),
    ("sync", ERROR, "LLMAPIError", "released"),
    ("sync", BREAK, "LLMConnectionError", "presumed"),
    ("sync deadline", SILENCE, "LLMTimeoutError", "presumed"),
]
IN_A_LOOP: Ends = [
    ("async", ANSWER, None, "settled"),
    ("async", ERROR, "LLMAPIError", "released"),
    ("async", BREAK, "LLMConnectionError", "presumed"),
    ("async deadline", STALL, "LLMTimeoutError", "presumed"),
]
DROPPED: Ends = [
    ("cancelled", SILENCE, "CancelledError", "presumed"),
    ("cancelled twice", STALL, "CancelledError", "presumed"),
    ("left alone", STALL, None, "presumed"),
    ("closed", STALL, None, "presumed"),
    ("loop closed", SILENCE, None, "presumed"),
]


@pytest.fixture
def provider() -> Iterator[EmbeddedProvider]:
    with EmbeddedProvider() as running:
        yield running


@contextmanager
def telling_arrivals(provider: EmbeddedProvider, folder: Path) -> Iterator[None]:
    """Meanwhile the file `arrived` says how many requests have come to the provider."""
    over = threading.Event()

    def tell() -> None:
        while not over.wait(0.02):
            (folder / "arriving").write_text(str(len(provider.requests)))
            (folder / "arriving").replace(folder / "arrived")

    teller = threading.Thread(target=tell)
    teller.start()
    try:
        yield
    finally:
        over.set()
        teller.join()


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="no /proc to count open files in")
@pytest.mark.parametrize("ends", [IN_A_THREAD, IN_A_LOOP, DROPPED], ids=["in a thread", "in a loop", "dropped"])
def test_an_end_leaves_nothing(provider: EmbeddedProvider, tmp_path: Path, ends: Ends) -> None:
    """An answer, an error, a deadline, a cancellation, a loop that is torn down: all is as before, and no hold is left.

    (ADAPTER-6, CALL-8, CALL-9, CALL-12, PROVIDER-13)
    """
    for _, behaviour, _, _ in ends:
        provider.script(behaviour, times=2)
    options = {
        "api_key": "key-0123456789",
        "base_url": provider.anthropic_url,
        "cli_path": str(stand_in(tmp_path, ASK_AND_ANSWER)),
    }
    with telling_arrivals(provider, tmp_path):
        done = subprocess.run(
            [sys.executable, *DEVELOPMENT, "-c", CALLS, json.dumps([way for way, *_ in ends]), json.dumps(options)],
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
    assert (done.returncode, done.stderr) == (0, "")
    results, outcomes = json.loads(done.stdout)
    for (way, _, error, _), (errors, before, after) in zip(ends, results, strict=True):
        assert (way, errors, before) == (way, [error] * 2, after)
        assert after[1:] == [1, 0]
    assert outcomes == [outcome for *_, outcome in ends for _ in range(2)]
    assert len(provider.requests) == 2 * len(ends)

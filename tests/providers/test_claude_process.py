"""However the process of the `claude` command behaves, its call ends well and leaves none: stubborn stand-ins."""

from __future__ import annotations

import asyncio
import gc
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from llm_connect.errors import LLMConfigurationError, LLMSubprocessError, LLMTimeoutError
from llm_connect.interface.config import RunConfig
from llm_connect.providers import subprocesses
from tests.providers.claude_helpers import GOOD_RESULT, KEY, ONCE, Script, called, error_of

pytestmark = pytest.mark.slow


def zombie() -> object:
    """A child of this process that has ended and that nobody has waited for."""
    try:
        return os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in ("Z", "X")


def wait_for(condition: Callable[[], bool], seconds: float = 5.0) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()


def pids(directory: Path) -> list[int]:
    return [int(name.name.removeprefix("pid-")) for name in directory.glob("pid-*")]


STUBBORN = """
signal.signal(signal.SIGTERM, signal.SIG_IGN)
for _ in range(2):
    open(f"{here}/pid-{os.getpid()}", "w").close()
    if os.fork():
        break
time.sleep(60)
"""


def test_stubborn_group_is_ended(script: Script, tmp_path: Path) -> None:
    """A command that ignores SIGTERM, and its child, are gone soon after the deadline. (ADAPTER-6, PROVIDER-13)"""
    started = time.monotonic()
    error = error_of(script(STUBBORN), RunConfig(timeout_seconds=2))
    assert type(error) is LLMTimeoutError
    assert time.monotonic() - started < 2.2 + 10
    assert len(pids(tmp_path)) == 2
    assert wait_for(lambda: not any(map(alive, pids(tmp_path))))


@pytest.mark.parametrize("cancellations", [1, 2])
async def test_cancellation_ends_the_group(script: Script, tmp_path: Path, cancellations: int) -> None:
    """A cancelled call leaves no process, even when it is cancelled again while it cleans up. (CALL-8, PROVIDER-13)"""
    task = asyncio.create_task(script(STUBBORN).async_execute_prompt("hi", RunConfig(timeout_seconds=60)))
    await asyncio.to_thread(wait_for, lambda: len(pids(tmp_path)) == 2)
    for _ in range(cancellations):
        task.cancel()
        await asyncio.sleep(0.05)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(wait_for, lambda: not any(map(alive, pids(tmp_path))))


def test_loop_that_ends_leaves_no_process(script: Script, tmp_path: Path) -> None:
    """`asyncio.run` that ends with a call under way ends its process, too. (PROVIDER-13)"""
    adapter = script(STUBBORN)

    async def main() -> None:
        asyncio.create_task(adapter.async_execute_prompt("hi", RunConfig(timeout_seconds=60)))  # noqa: RUF006
        await asyncio.to_thread(wait_for, lambda: len(pids(tmp_path)) == 2)

    asyncio.run(main())
    assert wait_for(lambda: not any(map(alive, pids(tmp_path))))


def test_loop_that_is_dropped_leaves_no_process(script: Script, tmp_path: Path) -> None:
    """A loop closed under a call, without a cancellation, ends the process when the call is dropped."""
    call = script(STUBBORN).async_execute_prompt("hi", RunConfig(timeout_seconds=60))

    async def main() -> None:
        call.send(None)
        await asyncio.to_thread(wait_for, lambda: len(pids(tmp_path)) == 2)

    loop = asyncio.new_event_loop()
    loop.run_until_complete(main())
    loop.close()
    call.close()
    gc.collect()
    assert wait_for(lambda: not any(map(alive, pids(tmp_path))))


async def test_call_that_is_closed_leaves_no_process(script: Script, tmp_path: Path) -> None:
    """A coroutine that is closed, which may await nothing any more, ends its process at once."""
    call = script(STUBBORN).async_execute_prompt("hi", RunConfig(timeout_seconds=60))
    call.send(None)
    await asyncio.to_thread(wait_for, lambda: len(pids(tmp_path)) == 2)
    call.close()
    assert await asyncio.to_thread(wait_for, lambda: not any(map(alive, pids(tmp_path))))


def test_left_behind_child_is_ended(script: Script, tmp_path: Path) -> None:
    """A child that outlives a command that ended well is ended, and the answer is not lost. (PROVIDER-13)"""
    adapter = script(
        "if os.fork():\n"
        f"    print({GOOD_RESULT!r})\n"
        "else:\n"
        "    os.close(1)\n"
        "    open(f'{here}/pid-{os.getpid()}', 'w').close()\n"
        "    time.sleep(60)\n"
        "while not [name for name in os.listdir(here) if name.startswith('pid-')]: time.sleep(0.01)\n"
    )
    adapter.execute_prompt("hi", ONCE)
    assert wait_for(lambda: not any(map(alive, pids(tmp_path))))


@pytest.mark.parametrize("way", ["sync", "async"])
async def test_a_command_that_fails_leaves_no_process(script: Script, tmp_path: Path, way: str) -> None:
    """A child that outlives a command that ended with an error is ended, too. (PROVIDER-13)"""
    adapter = script(
        "if not os.fork():\n"
        "    os.close(1)\n"
        "    os.close(2)\n"
        "    open(f'{here}/pid-{os.getpid()}', 'w').close()\n"
        "    time.sleep(60)\n"
        "while not [name for name in os.listdir(here) if name.startswith('pid-')]: time.sleep(0.01)\n"
        "sys.exit(3)\n"
    )
    with pytest.raises(LLMSubprocessError):
        await called(way, adapter, "hi", ONCE)
    assert len(pids(tmp_path)) == 1
    assert await asyncio.to_thread(wait_for, lambda: not any(map(alive, pids(tmp_path))))


@pytest.mark.parametrize("way", ["sync", "async"])
async def test_early_exit_with_an_unread_prompt(script: Script, way: str) -> None:
    """A command that ends without reading its prompt fails with its exit code and stderr."""
    adapter = script("sys.stderr.write('no such model\\n')\nsys.exit(3)\n")
    prompt = "x" * 5_000_000
    with pytest.raises(LLMSubprocessError) as caught:
        await called(way, adapter, prompt, ONCE)
    assert (caught.value.return_code, caught.value.stderr) == (3, "no such model")


def test_endless_output_is_ended(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that writes without end is ended at a cap."""
    monkeypatch.setattr(subprocesses, "MOST_OUTPUT_BYTES", 1_000_000)
    error = error_of(script("while True: os.write(1, b'x' * 60000)\n"))
    assert type(error) is LLMSubprocessError
    assert "too much output" in str(error)


def test_loud_stderr_does_not_block(script: Script) -> None:
    """Megabytes on standard error neither block the command nor are kept; a key in them is hidden."""
    adapter = script("sys.stderr.write('x' * 5_000_000 + os.environ['ANTHROPIC_API_KEY'])\nsys.exit(2)\n")
    error = error_of(adapter)
    assert isinstance(error, LLMSubprocessError)
    assert len(error.stderr) < 5_000
    assert error.stderr.endswith("[key]")
    assert KEY not in str(error)


async def test_many_at_once(script: Script) -> None:
    """Calls beyond max_concurrency wait, all end well, and no zombie is left. (ADAPTER-8)"""
    adapter = script(f"print({GOOD_RESULT!r})\n")
    responses = await asyncio.gather(*(adapter.async_execute_prompt("hi", ONCE) for _ in range(40)))
    assert {response.finish_reason for response in responses} == {"stop"}
    assert zombie() is None


def test_command_that_vanishes(script: Script, tmp_path: Path) -> None:
    """A command that cannot be started any more is a configuration error: nothing was sent."""
    adapter = script("")
    (tmp_path / "claude").unlink()
    error = error_of(adapter)
    assert type(error) is LLMConfigurationError
    assert not error.maybe_billed

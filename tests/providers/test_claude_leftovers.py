"""Nothing of a run is left: no process, whatever it did to get away, and no folder, however its owner ended."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from llm_connect import ClaudeCodeAdapter, LLMError, LLMTimeoutError, RunConfig
from tests.providers.claude_helpers import GOOD_RESULT, Script
from tests.providers.claude_stand_in import stand_in

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="there is no /proc to look at")

RUN = RunConfig(max_retries=0, timeout_seconds=60)
SHORT = RunConfig(max_retries=0, timeout_seconds=4)
#: A child that gets away from the command: in its group, in a session of its own, or with another parent, too.
AWAY = {
    "in the group": "pass",
    "a session": "os.setsid()",
    "a session and a new parent": "os.setsid(); os.fork() and os._exit(0)",
    "another program": "os.setsid()",
}


def leaving(away: str, then: str, *, holds_stdout: bool) -> str:
    """A command that leaves such a child behind, whose number it notes, and then does something."""
    hold = "" if holds_stdout else "os.close(1); os.open('/dev/null', os.O_WRONLY); "
    note = "open(here + '/pid.new', 'w').write(str(os.getpid())); os.rename(here + '/pid.new', here + '/pid')"
    return f"""
if os.fork() == 0:
    {hold}
    {AWAY[away]}
    {note}
    {"os.execv('/bin/sleep', ['sleep', '120'])" if away == "another program" else "time.sleep(120)"}
    os._exit(0)
while not os.path.exists(here + '/pid'):
    time.sleep(0.005)
{then}
"""


def _sync(adapter: ClaudeCodeAdapter, config: RunConfig) -> str:
    return adapter.execute_prompt("hi", config).content


def _async(adapter: ClaudeCodeAdapter, config: RunConfig) -> str:
    return asyncio.run(adapter.async_execute_prompt("hi", config)).content


def _stream(adapter: ClaudeCodeAdapter, config: RunConfig) -> str:
    with adapter.stream_prompt("hi", config) as stream:
        return "".join(chunk.text for chunk in stream)


def _astream(adapter: ClaudeCodeAdapter, config: RunConfig) -> str:
    async def take() -> str:
        async with adapter.async_stream_prompt("hi", config) as stream:
            return "".join([chunk.text async for chunk in stream])

    return asyncio.run(take())


@pytest.fixture(params=[_sync, _async, _stream, _astream], ids=["sync", "async", "stream", "async stream"])
def ask(request: pytest.FixtureRequest) -> Any:
    """All four forms of a call."""
    return request.param


def check_gone(pid: int) -> None:
    """It has ended; nobody may have collected it yet."""
    until = time.monotonic() + 20
    while (state := _state(pid)) not in ("", "Z", "X"):
        assert time.monotonic() < until, f"process {pid} is left, in state {state}"
        time.sleep(0.005)


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


@pytest.mark.parametrize("away", AWAY)
def test_a_child_that_gets_away_is_ended(script: Script, tmp_path: Path, ask: Any, away: str) -> None:
    """What the command leaves behind ends with the call, also in a session of its own. (PROVIDER-42)"""
    adapter = script(leaving(away, f"print({GOOD_RESULT!r})", holds_stdout=False))
    assert ask(adapter, RUN) == ""
    check_gone(int((tmp_path / "pid").read_text()))


def test_a_child_that_gets_away_from_a_late_command_is_ended(script: Script, tmp_path: Path, ask: Any) -> None:
    """A command that is ended at the deadline takes its children along, too. (PROVIDER-42)"""
    with pytest.raises(LLMTimeoutError):
        ask(script(leaving("a session", "time.sleep(120)", holds_stdout=False)), SHORT)
    check_gone(int((tmp_path / "pid").read_text()))


@pytest.mark.parametrize("away", ["in the group", "a session"])
def test_a_child_that_holds_the_output_does_not_delay_the_end(
    script: Script, tmp_path: Path, ask: Any, away: str
) -> None:
    """The result is taken when the command ends, not when the last one lets go of its output. (PROVIDER-43)"""
    adapter = script(leaving(away, f"print({GOOD_RESULT!r})", holds_stdout=True))
    started = time.monotonic()
    assert ask(adapter, RUN) == ""
    assert time.monotonic() - started < 45
    check_gone(int((tmp_path / "pid").read_text()))


def test_all_that_was_written_before_the_end_is_read(script: Script, ask: Any) -> None:
    """A pipe that is still full when the command ends is read to its last byte. (PROVIDER-43)"""
    lines = f"sys.stdout.write('x' * 60_000 + chr(10)); print({GOOD_RESULT!r})"
    assert ask(script(leaving("a session", lines, holds_stdout=True)), RUN) == ""


OWNER = """
import sys
from llm_connect import ClaudeCodeAdapter, LLMError, RunConfig
adapter = ClaudeCodeAdapter(api_key="key-1234", cli_path=sys.argv[1], base_url="http://127.0.0.1:9")
try:
    adapter.execute_prompt("hi", RunConfig(system_prompt="a secret of the house", max_retries=0, timeout_seconds=100))
except LLMError:
    pass
"""


@contextmanager
def owner(command: Path, temporary: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that makes one call, with its folders in `temporary`; ended afterwards."""
    environment = {**os.environ, "TMPDIR": str(temporary)}
    process = subprocess.Popen([sys.executable, "-c", OWNER, str(command)], env=environment)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def folders(temporary: Path) -> list[str]:
    return sorted(path.name for path in temporary.glob("llm-connect-*"))


def wait_for(condition: Callable[[], Any]) -> Any:
    until = time.monotonic() + 60
    while not (found := condition()):
        assert time.monotonic() < until
        time.sleep(0.01)
    return found


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_folder_of_a_killed_process_goes_at_the_next_start(tmp_path: Path, number: signal.Signals) -> None:
    """The system prompt of a call whose process was ended does not stay; that of a living one does. (PROVIDER-44)"""
    temporary, elsewhere = tmp_path / "tmp", tmp_path / "elsewhere"
    for path in (temporary, elsewhere, temporary / "llm-connect-of-another-kind", tmp_path / "a", tmp_path / "b"):
        path.mkdir()
    (elsewhere / "lock").touch()
    (temporary / "llm-connect-link").symlink_to(elsewhere)
    strangers = folders(temporary)
    slow = stand_in(tmp_path / "a", "open(here + '/pid', 'w').write(str(os.getpid())); time.sleep(100)")
    quick = stand_in(tmp_path / "b", "sys.exit(1)")
    note = tmp_path / "a" / "pid"
    with owner(slow, temporary) as first:
        pid = int(wait_for(lambda: note.exists() and note.read_text()))
        assert len(folders(temporary)) == len(strangers) + 1
        with owner(quick, temporary) as second:
            assert second.wait(60) == 0
        assert len(folders(temporary)) == len(strangers) + 1
        first.send_signal(number)
        first.wait(60)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        assert len(folders(temporary)) == len(strangers) + 1
        with owner(quick, temporary) as third:
            assert third.wait(60) == 0
    assert folders(temporary) == strangers
    assert (elsewhere / "lock").exists()


def test_no_folder_is_left_of_a_call(script: Script, ask: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call takes its folder along, however it ends. (PROVIDER-44)"""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert ask(script(f"print({GOOD_RESULT!r})"), RUN) == ""
    with pytest.raises(LLMError):
        ask(script("sys.exit(3)"), RUN)
    assert folders(tmp_path) == []

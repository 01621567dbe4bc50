"""One subprocess under a deadline, sync and async. POSIX only: it relies on process groups.

The child gets its own session, and no process of its group survives the call: not after its end, a timeout, a
cancellation (even a second one), an exception, or an event loop that is torn down. The output ends with the child
itself, even if another process still holds the pipe.

Each child also has its own mark in its environment, and its children inherit it. On a system with /proc, such as Linux,
all processes with the mark are found and killed, even those with a session of their own, whoever their parent is by
now. A process that was deliberately given another environment is not found.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import IO

from llm_connect.engine.deadline import Deadline
from llm_connect.errors import LLMConfigurationError, LLMSubprocessError
from llm_connect.protocols.wire import Failure
from llm_connect.providers.strands import READ, Pause, RunFailed, Strand, Strands

#: The most bytes on standard output; more than this ends the child.
MOST_OUTPUT_BYTES = 64 * 1024 * 1024

_STDERR_BYTES = 4_000
_CHUNK_BYTES = 64 * 1024
#: The most chunks that a pipe can hold from before the child's end.
_MOST_IN_A_PIPE = 16
_LONGEST_GRACE_SECONDS = 1.0
_GRACE_PART_OF_TIMEOUT = 0.05
_FIRST_PAUSE_SECONDS = 0.001
_LONGEST_PAUSE_SECONDS = 0.05
_MARK = "LLM_CONNECT_RUN"
_PROC = "/proc"
#: A process may start another one during the search for marks.
_MOST_ROUNDS = 20


@dataclass(frozen=True, slots=True)
class Command:
    """A command and its place: `argv[0]` is a path, and `environment` is the child's complete environment."""

    argv: tuple[str, ...]
    environment: Mapping[str, str]
    cwd: str
    stdin: bytes


class CommandStream:
    """The output of a command while it runs beside `strands`, in a thread or in an event loop.

    facts: more headers for the reply. ends: is closed with it, after the command.
    headers: empty until the command has ended by itself; then its exit code, the end of standard error, and `facts`.

    Reading raises TimeoutError at the deadline, RunFailed, and the strands' exceptions. Closing it early ends the
    strands and their connections first, and then the command with its whole group.
    """

    #: A process has no HTTP status.
    status = 0

    def __init__(
        self,
        command: Command,
        deadline: Deadline,
        strands: Strands,
        *,
        facts: Callable[[], Mapping[str, str]],
        ends: ExitStack,
    ) -> None:
        self.headers: Mapping[str, str] = {}
        self._strands = strands
        self._facts = facts
        # A small part of the whole time, so that a stubborn child cannot hold a call far beyond its deadline.
        self._grace = min(_LONGEST_GRACE_SECONDS, _GRACE_PART_OF_TIMEOUT * deadline.remaining())
        self._child: Child = ends.enter_context(_started(command, deadline))
        strands.start(self._child.read_all())
        self._ends = ends.pop_all()

    def read(self, deadline: Deadline) -> bytes:
        self._strands.run(self._child.some_read, deadline)
        piece = self._child.take()
        if not piece:
            self.headers = {**self._child.facts(), **self._facts()}
        return piece

    async def aread(self) -> bytes:
        await self._strands.arun(self._child.some_read)
        piece = self._child.take()
        if not piece:
            self.headers = {**self._child.facts(), **self._facts()}
        return piece

    def close(self) -> None:
        with self._ends:
            self._strands.close()
            if not self.headers:
                self._child.stop(self._grace)

    async def aclose(self) -> None:
        with self._ends:
            self._strands.close()
            if not self.headers:
                await self._child.astop(self._grace)

    def abandon(self) -> None:
        """Kill the command: nothing can be awaited."""
        with self._ends:
            self._strands.close()
            self._child.kill()


@contextmanager
def starting(path: str) -> Iterator[None]:
    """Turns errors before the start of the command at `path` into RunFailed."""
    try:
        yield
    except (OSError, ValueError) as error:
        wrong_path = isinstance(error, FileNotFoundError | PermissionError | ValueError)
        kind = LLMConfigurationError if wrong_path else LLMSubprocessError
        message = f"The command {path!r} could not be started ({error}): check cli_path=."
        raise RunFailed(Failure(kind=kind, message=message, maybe_billed=False)) from error


@contextmanager
def _started(command: Command, deadline: Deadline) -> Iterator[Child]:
    """Start a child. Its input and standard error are nameless files: others cannot read them, and nothing blocks."""
    if deadline.passed:
        raise TimeoutError
    with ExitStack() as files:
        mark = secrets.token_hex(16)
        with starting(command.argv[0]):
            stdin = files.enter_context(tempfile.TemporaryFile())
            stderr = files.enter_context(tempfile.TemporaryFile())
            stdin.write(command.stdin)
            stdin.seek(0)
            process = subprocess.Popen(  # noqa: S603 - no shell, and the path is the user's choice
                command.argv,
                env={**command.environment, _MARK: mark},
                cwd=command.cwd,
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=stderr,
                start_new_session=True,
            )
        assert process.stdout is not None
        child = Child(process, process.stdout, stderr, mark)
        try:
            with process.stdout:
                yield child
        finally:
            child.kill()


class Child:
    """A running child, and its output so far."""

    def __init__(self, process: subprocess.Popen[bytes], stdout: IO[bytes], stderr: IO[bytes], mark: str) -> None:
        self._process = process
        self._mark = mark
        self._killed = False
        self._stdout = stdout.fileno()
        os.set_blocking(self._stdout, False)
        self._stderr = stderr
        self._chunks: list[bytes] = []
        self._size = 0
        self._at_end = self._has_ended = False

    def read_all(self) -> Strand:
        """Read until the child has ended, and then the rest that a pipe can hold."""
        with _exit_of(self._process) as exit_of:
            while self._process.poll() is None:
                yield (exit_of,) if self._at_end else ((self._stdout, READ), exit_of)
                self._read_some()
            for _ in range(_MOST_IN_A_PIPE):
                if self._at_end or not self._read_some():
                    break
        self._has_ended = True

    def some_read(self) -> bool:
        return bool(self._chunks) or self._has_ended

    def take(self) -> bytes:
        """Take the output since the last time; empty at the end."""
        taken, self._chunks = b"".join(self._chunks), []
        return taken

    async def await_exit(self) -> None:
        pause = _FIRST_PAUSE_SECONDS
        while self._process.poll() is None:
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    def stop(self, grace: float) -> None:
        """Ask the group to end, and kill it after `grace` seconds."""
        self._signal(signal.SIGTERM)
        try:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(grace)
        finally:
            self.kill()

    async def astop(self, grace: float) -> None:
        """Like `stop`; a cancellation meanwhile cuts the grace short."""
        self._signal(signal.SIGTERM)
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(grace):
                    await self.await_exit()
        finally:
            self.kill()

    def kill(self) -> None:
        """Kill the rest of the group and those that left it, and reap the child."""
        self._signal(signal.SIGKILL)
        self._process.wait()
        if not self._killed:
            _kill_marked(self._mark)
            self._killed = True

    def facts(self) -> dict[str, str]:
        """The exit code, and the end of standard error."""
        size = self._stderr.seek(0, os.SEEK_END)
        self._stderr.seek(max(0, size - _STDERR_BYTES))
        stderr = self._stderr.read().decode("utf-8", "replace").strip()
        return {"exit-code": str(self._process.returncode), "stderr": stderr}

    def _read_some(self) -> bool:
        """Read the available output; True if there was any."""
        try:
            chunk = os.read(self._stdout, _CHUNK_BYTES)
        except BlockingIOError:
            return False
        self._at_end = not chunk
        self._size += len(chunk)
        if chunk:
            self._chunks.append(chunk)
        if self._size > MOST_OUTPUT_BYTES:
            message = "The command wrote too much output and was ended."
            raise RunFailed(Failure(kind=LLMSubprocessError, message=message))
        return not self._at_end

    def _signal(self, number: signal.Signals) -> None:
        # PermissionError: macOS raises it for a group that consists of zombies.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)


@contextmanager
def _exit_of(process: subprocess.Popen[bytes]) -> Iterator[tuple[int, int] | Pause]:
    """The wait by which a strand notices the exit soon: a file, if the system has one for that."""
    try:
        handle = os.pidfd_open(process.pid)
    except (AttributeError, OSError):
        yield Pause(_LONGEST_PAUSE_SECONDS)
        return
    try:
        yield handle, READ
    finally:
        os.close(handle)


def _kill_marked(mark: str) -> None:
    """Kill all processes with the mark."""
    wanted = f"{_MARK}={mark}".encode()
    for _ in range(_MOST_ROUNDS):
        if not [pid for pid in _processes() if _killed(pid, wanted)]:
            return


def _processes() -> Iterator[int]:
    with suppress(OSError), os.scandir(_PROC) as entries:
        yield from (int(entry.name) for entry in entries if entry.name.isdecimal())


def _killed(pid: int, wanted: bytes) -> bool:
    """Kill the process if it has the mark; True if it was killed. Its number cannot pass to another one meanwhile."""
    if not _carries(pid, wanted):
        return False
    with suppress(OSError):
        handle = os.pidfd_open(pid)
        try:
            if _carries(pid, wanted):
                signal.pidfd_send_signal(handle, signal.SIGKILL)
                return True
        finally:
            os.close(handle)
    return False


def _carries(pid: int, wanted: bytes) -> bool:
    try:
        with open(f"{_PROC}/{pid}/environ", "rb") as file:
            return wanted in file.read().split(b"\0")
    except OSError:
        # It has ended, or belongs to another user; a zombie has nothing to read.
        return False

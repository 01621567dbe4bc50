"""One subprocess under a deadline, sync and async. POSIX only: it relies on process groups.

The child gets its own session, and no process of its group survives the call: not after its end, a timeout, a
cancellation (even a second one), an exception, or an event loop that is torn down. On Linux, processes that left the
group do not survive either (see process_marks.py). The output ends with the child itself, even if another process
still holds the pipe.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import IO

from llm_connect.engine.deadline import Deadline
from llm_connect.providers.process_marks import kill_marked, new_mark
from llm_connect.providers.strands import READ, Pause, Strand, Strands, seconds_left

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


@dataclass(frozen=True, slots=True)
class Command:
    """A command and its place: `argv[0]` is a path, and `environment` is the child's complete environment."""

    argv: tuple[str, ...]
    environment: Mapping[str, str]
    cwd: str
    stdin: bytes


@dataclass(frozen=True, slots=True)
class Finished:
    """The result of a child that ended by itself; only the end of standard error is kept."""

    return_code: int
    stdout: bytes
    stderr: str


class NotStarted(Exception):
    """The child could not be started; `__cause__` is the reason."""


class OutputTooLong(Exception):
    """The child wrote more than MOST_OUTPUT_BYTES and was ended."""


def run(command: Command, deadline: Deadline, strands: Strands) -> Finished:
    """Run `command` to its end, beside `strands`.

    Raises TimeoutError at the deadline, NotStarted, OutputTooLong, and strands' exceptions; the command is then ended.
    """
    grace = grace_of(deadline)
    with started(command, deadline) as child:
        try:
            strands.start(child.read_all())
            strands.run(child.all_read, deadline)
            child.wait(deadline)
        except BaseException:
            child.stop(grace)
            raise
        return child.finished()


async def arun(command: Command, deadline: Deadline, strands: Strands) -> Finished:
    """Like `run`, for a coroutine."""
    grace = grace_of(deadline)
    with started(command, deadline) as child:
        try:
            async with asyncio.timeout(deadline.remaining()):
                strands.start(child.read_all())
                await strands.arun(child.all_read)
                await child.await_exit()
        except GeneratorExit:
            # The event loop is gone: nothing can be awaited any more.
            child.kill()
            raise
        except BaseException:
            await child.astop(grace)
            raise
        return child.finished()


@contextmanager
def starting() -> Iterator[None]:
    """Turns errors before the start of a child into NotStarted."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise NotStarted from error


@contextmanager
def started(command: Command, deadline: Deadline) -> Iterator[Child]:
    """Start a child. Its input and standard error are nameless files: others cannot read them, and nothing blocks."""
    if deadline.passed:
        raise TimeoutError
    with ExitStack() as files:
        mark = new_mark()
        with starting():
            stdin = files.enter_context(tempfile.TemporaryFile())
            stderr = files.enter_context(tempfile.TemporaryFile())
            stdin.write(command.stdin)
            stdin.seek(0)
            process = subprocess.Popen(  # noqa: S603 - no shell, and the path is the user's choice
                command.argv,
                env={**command.environment, **mark},
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

    def __init__(
        self, process: subprocess.Popen[bytes], stdout: IO[bytes], stderr: IO[bytes], mark: dict[str, str]
    ) -> None:
        self._process = process
        self._mark = mark
        self._killed = False
        self._stdout = stdout.fileno()
        os.set_blocking(self._stdout, False)
        self._stderr = stderr
        self._chunks: list[bytes] = []
        self._size = 0
        self._at_end = False

    def read_all(self) -> Strand:
        with _exit_of(self._process) as exit_of:
            while not self._at_end:
                yield ((self._stdout, READ), exit_of)
                ended = self._process.poll() is not None
                for _ in range(_MOST_IN_A_PIPE if ended else 1):
                    if not self._read_some():
                        break
                self._at_end = self._at_end or ended

    def all_read(self) -> bool:
        return self._at_end

    def some_read(self) -> bool:
        return bool(self._chunks) or self._at_end

    def take(self) -> bytes:
        """Take the output since the last time; empty at the end. `finished` does not repeat it."""
        taken, self._chunks = b"".join(self._chunks), []
        return taken

    def wait(self, deadline: Deadline) -> None:
        try:
            self._process.wait(seconds_left(deadline))
        except subprocess.TimeoutExpired:
            raise TimeoutError from None

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
            kill_marked(self._mark)
            self._killed = True

    def finished(self) -> Finished:
        return Finished(self._process.returncode, b"".join(self._chunks), self._end_of_stderr())

    def _read_some(self) -> bool:
        """Read the available output; True if there may be more."""
        try:
            chunk = os.read(self._stdout, _CHUNK_BYTES)
        except BlockingIOError:
            return False
        self._chunks.append(chunk)
        self._size += len(chunk)
        self._at_end = not chunk
        if self._size > MOST_OUTPUT_BYTES:
            raise OutputTooLong
        return not self._at_end

    def _signal(self, number: signal.Signals) -> None:
        # PermissionError: macOS raises it for a group that consists of zombies.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)

    def _end_of_stderr(self) -> str:
        size = self._stderr.seek(0, os.SEEK_END)
        self._stderr.seek(max(0, size - _STDERR_BYTES))
        return self._stderr.read().decode("utf-8", "replace").strip()


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


def grace_of(deadline: Deadline) -> float:
    """A small part of the whole time, so that a stubborn child cannot hold a call far beyond its deadline."""
    return min(_LONGEST_GRACE_SECONDS, _GRACE_PART_OF_TIMEOUT * deadline.remaining())

"""One run of a command whose output is read while it arrives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack

from llm_connect.engine.deadline import Deadline
from llm_connect.providers.strands import Strands
from llm_connect.providers.subprocesses import Child, Command, Finished, grace_of, started


class CommandStream:
    """The output of a running command, in a thread or in an event loop.

    headers: empty until the command has ended by itself, then the result of `headers_of`.
    ends: is closed with it, after the command.

    Closing it early ends the strands and their connections first, and then the command with its whole group.
    """

    status = 0

    def __init__(
        self,
        command: Command,
        deadline: Deadline,
        *,
        strands: Strands,
        headers_of: Callable[[Finished], Mapping[str, str]],
        ends: ExitStack,
    ) -> None:
        self.headers: Mapping[str, str] = {}
        self._strands = strands
        self._headers_of = headers_of
        self._grace = grace_of(deadline)
        self._child: Child = ends.enter_context(started(command, deadline))
        strands.start(self._child.read_all())
        self._ends = ends.pop_all()

    def read(self, deadline: Deadline) -> bytes:
        self._strands.run(self._child.some_read, deadline)
        piece = self._child.take()
        if not piece:
            self._child.wait(deadline)
            self.headers = self._headers_of(self._child.finished())
        return piece

    async def aread(self) -> bytes:
        await self._strands.arun(self._child.some_read)
        piece = self._child.take()
        if not piece:
            await self._child.await_exit()
            self.headers = self._headers_of(self._child.finished())
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

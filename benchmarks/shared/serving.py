"""A provider on loopback that does not read the request: the part of HTTP/1.1 that our clients need.

It prints its port and answers until its standard input ends. Standard library only.
"""

from __future__ import annotations

import asyncio
import re
import resource
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable

_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


class Connection(asyncio.Protocol, ABC):
    """One connection, on which one request follows the other; a subclass answers."""

    def __init__(self) -> None:
        self._head = b""
        self._body: list[bytes] = []
        self._missing = 0

    @abstractmethod
    def answer(self, head: bytes, body: bytes) -> None:
        """Answer a request, now or later."""

    def write(self, data: bytes) -> None:
        """Send, unless the client has gone."""
        if not self.transport.is_closing():
            self.transport.write(data)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        if self._missing:
            self._missing -= len(data)
            self._body.append(data)
        else:
            self._head += data
            head, end, body = self._head.partition(b"\r\n\r\n")
            if not end:
                return
            length = _LENGTH.search(head)
            self._missing = (int(length[1]) if length else 0) - len(body)
            self._head, self._body = head, [body]
        if self._missing <= 0:
            self._missing = 0
            head, self._head = self._head, b""
            self.answer(head, b"".join(self._body))


def serve(connection: Callable[[], Connection]) -> None:
    """Answer on a port of the system's choice."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    asyncio.run(_serve(connection))


async def _serve(connection: Callable[[], Connection]) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(connection, "127.0.0.1", 0, backlog=16_384)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)

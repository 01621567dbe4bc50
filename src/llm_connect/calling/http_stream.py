"""A reply over httpx2 that is read while it comes."""

from __future__ import annotations

import httpx2

from llm_connect.calling.deadline import Deadline
from llm_connect.calling.sockets import socket_deadline


class HttpStream:
    """The response of a sync client, whose body has not been read."""

    def __init__(self, response: httpx2.Response) -> None:
        self.status: int = response.status_code
        self.headers: httpx2.Headers = response.headers
        self._response = response
        self._pieces = response.iter_bytes()

    def read(self, deadline: Deadline) -> bytes:
        with socket_deadline(deadline):
            return next(filter(None, self._pieces), b"")

    def close(self) -> None:
        self._response.close()


class AsyncHttpStream:
    """The response of an async client, whose body has not been read."""

    def __init__(self, response: httpx2.Response) -> None:
        self.status: int = response.status_code
        self.headers: httpx2.Headers = response.headers
        self._response = response
        self._pieces = response.aiter_bytes()

    async def aread(self) -> bytes:
        async for piece in self._pieces:
            if piece:
                return piece
        return b""

    async def aclose(self) -> None:
        try:
            await self._pieces.aclose()
        finally:
            await self._response.aclose()

    def abandon(self) -> None:
        """Its socket has gone with the event loop."""

"""A reply over httpx2 that is read while it arrives."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import httpx2

from llm_connect.engine.deadline import Deadline
from llm_connect.engine.lost_loops import abandon_response

#: The most bytes per read.
_PART_BYTES = 1 << 15


class _Opened:
    """A response whose body has not been read. It uses the client of its connection until it is closed."""

    def __init__(self, response: httpx2.Response) -> None:
        self.status: int = response.status_code
        self.headers: httpx2.Headers = response.headers
        self._response = response
        self._ends: list[Callable[[], None]] = []

    def end_with(self, end: Callable[[], None]) -> None:
        """Call `end` once when it is closed: it gives the client back."""
        self._ends.append(end)

    def _end(self) -> None:
        while self._ends:
            self._ends.pop()()


class HttpStream(_Opened):
    """A response of a sync client."""

    def __init__(self, response: httpx2.Response) -> None:
        super().__init__(response)
        self._pieces = filter(None, response.iter_bytes())

    def read(self, deadline: Deadline) -> bytes:
        """The sockets obey the deadline, which the head of the exchange has."""
        return next(self._pieces, b"")

    def close(self) -> None:
        try:
            self._response.close()
        finally:
            self._end()

    def abandon(self) -> None:
        self.close()


class AsyncHttpStream(_Opened):
    """A response of an async client."""

    def __init__(self, response: httpx2.Response) -> None:
        super().__init__(response)
        self._pieces = response.aiter_bytes()
        self._more = b""

    async def aread(self) -> bytes:
        if self._more:
            # A body that unpacks to far more than arrived must not block other tasks.
            await asyncio.sleep(0)
        else:
            self._more = await self._next()
        part, self._more = self._more[:_PART_BYTES], self._more[_PART_BYTES:]
        return part

    async def _next(self) -> bytes:
        async for piece in self._pieces:
            if piece:
                return piece
        return b""

    async def aclose(self) -> None:
        try:
            await self._pieces.aclose()
        finally:
            try:
                await self._response.aclose()
            finally:
                self._end()

    def abandon(self) -> None:
        try:
            abandon_response(self._response)
        finally:
            self._end()

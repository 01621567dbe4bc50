"""A reply over httpx2 that is read while it arrives."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx2

from llm_connect.engine.client_leases import Lease
from llm_connect.engine.deadline import Deadline
from llm_connect.engine.lost_loops import abandon_response
from llm_connect.engine.sockets import SocketDeadline

#: The most bytes per read.
_PART_BYTES = 1 << 15


class _Leased:
    """Uses clients until it is closed."""

    def __init__(self) -> None:
        self._leases: list[Lease[Any]] = []

    def keep(self, lease: Lease[Any]) -> None:
        """Share the use of a client that the caller has leased."""
        lease.take_too()
        self._leases.append(lease)

    def _give_back(self) -> None:
        while self._leases:
            self._leases.pop().give_back()


class HttpStream(_Leased):
    """The response of a sync client, whose body has not been read."""

    def __init__(self, response: httpx2.Response) -> None:
        super().__init__()
        self.status: int = response.status_code
        self.headers: httpx2.Headers = response.headers
        self._response = response
        self._pieces = response.iter_bytes()

    def read(self, deadline: Deadline) -> bytes:
        with SocketDeadline(deadline):
            return next(filter(None, self._pieces), b"")

    def close(self) -> None:
        try:
            self._response.close()
        finally:
            self._give_back()

    def abandon(self) -> None:
        self.close()


class AsyncHttpStream(_Leased):
    """The response of an async client, whose body has not been read."""

    def __init__(self, response: httpx2.Response) -> None:
        super().__init__()
        self.status: int = response.status_code
        self.headers: httpx2.Headers = response.headers
        self._response = response
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
                self._give_back()

    def abandon(self) -> None:
        try:
            abandon_response(self._response)
        finally:
            self._give_back()

"""Clients of httpx2 that send a request as it is, and do no more than that.

A client of httpx2 follows redirects, logs in, keeps cookies and calls hooks. None of it is wanted here, and going
through it takes a tenth of a call and a dozen objects for each that is under way.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import httpx2

from llm_connect.calling.heads import note_headers

#: An address is taken apart once: a client has few, and taking one apart costs as much as sending it.
_parsed = lru_cache(maxsize=64)(httpx2.URL)


class PlainClient(httpx2.Client):
    """A client for threads. An open response has to be closed by its caller; else it is read to its end."""

    def build_request(self, method: str, url: httpx2.URL | str, **parts: Any) -> httpx2.Request:
        return super().build_request(method, _parsed(url), **parts)

    def send(self, request: httpx2.Request, *, stream: bool = False, **_: Any) -> httpx2.Response:
        _check_open(self)
        response = self._transport.handle_request(request)
        _note(response, request)
        try:
            if not stream:
                response.read()
        except BaseException:
            response.close()
            raise
        return response


class AsyncPlainClient(httpx2.AsyncClient):
    """A client for one event loop, like `PlainClient`."""

    def build_request(self, method: str, url: httpx2.URL | str, **parts: Any) -> httpx2.Request:
        return super().build_request(method, _parsed(url), **parts)

    async def send(self, request: httpx2.Request, *, stream: bool = False, **_: Any) -> httpx2.Response:
        _check_open(self)
        response = await self._transport.handle_async_request(request)
        _note(response, request)
        try:
            if not stream:
                await response.aread()
        except BaseException:
            await response.aclose()
            raise
        return response


def _check_open(client: httpx2.Client | httpx2.AsyncClient) -> None:
    if client.is_closed:
        raise RuntimeError("This client has been closed.")


def _note(response: httpx2.Response, request: httpx2.Request) -> None:
    # The SDKs ask a response for its request.
    response.request = request
    note_headers(response.headers)

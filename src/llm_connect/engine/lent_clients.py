"""The user's own HTTP clients: their replies are measured, and they are never closed here."""

from __future__ import annotations

from typing import Any

import httpx2

from llm_connect import _forks
from llm_connect.engine.certificates import told_of_certificate
from llm_connect.engine.http_options import HttpOptions
from llm_connect.engine.lost_loops import close_after
from llm_connect.engine.measuring import measure
from llm_connect.engine.response_headers import note_headers
from llm_connect.errors import LLMConfigurationError


class LentClient(httpx2.Client):
    """Sends through `own`, which also builds the requests."""

    def __init__(self, own: httpx2.Client, options: HttpOptions) -> None:
        _check_process(own, options)
        super().__init__(transport=own._transport, timeout=None, trust_env=False)
        self._own, self._limits = own, options.limits

    def build_request(self, *arguments: Any, **options: Any) -> httpx2.Request:
        return self._own.build_request(*arguments, **options)

    def send(self, request: httpx2.Request, *, stream: bool = False, **options: Any) -> httpx2.Response:
        try:
            response = self._own.send(request, **{**options, "stream": True, "follow_redirects": False})
        except httpx2.ConnectError as error:
            raise told_of_certificate(error, request) from None
        note_headers(response.headers)
        try:
            measure(response, self._limits, streamed=stream)
            if not stream:
                response.read()
        except BaseException:
            response.close()
            raise
        return response

    def close(self) -> None:
        """A no-op: only the user closes it."""


class AsyncLentClient(httpx2.AsyncClient):
    """Like `LentClient`, for one event loop."""

    def __init__(self, own: httpx2.AsyncClient, options: HttpOptions) -> None:
        _check_process(own, options)
        super().__init__(transport=own._transport, timeout=None, trust_env=False)
        self._own, self._limits = own, options.limits

    def build_request(self, *arguments: Any, **options: Any) -> httpx2.Request:
        return self._own.build_request(*arguments, **options)

    async def send(self, request: httpx2.Request, *, stream: bool = False, **options: Any) -> httpx2.Response:
        try:
            response = await self._own.send(request, **{**options, "stream": True, "follow_redirects": False})
        except httpx2.ConnectError as error:
            raise told_of_certificate(error, request) from None
        note_headers(response.headers)
        try:
            measure(response, self._limits, streamed=stream)
            if not stream:
                await response.aread()
        except BaseException as error:
            await close_after(error, response)
            raise
        return response

    async def aclose(self) -> None:
        """A no-op: only the user closes it."""


def _check_process(own: httpx2.Client | httpx2.AsyncClient, options: HttpOptions) -> None:
    """Raise LLMConfigurationError in a fork if `own` may share a connection with its parent."""
    if options.made_in == _forks.generation:
        return
    pools = [getattr(each, "_pool", None) for each in (own._transport, *own._mounts.values()) if each is not None]
    if any(pool is None or pool.connections for pool in pools):
        raise LLMConfigurationError(
            "Your own HTTP client has connections of the process before os.fork, whose answers it would take: make the "
            "client and its adapter in this process."
        )

"""Clients of httpx2 that send a request as it is, and do nothing else.

A client of httpx2 follows redirects, logs in, keeps cookies and calls hooks. Calls need none of that, and it costs a
tenth of a call, and a dozen objects for each call under way. Joining the address and the headers for each request
costs about as much, although they are the same for all; here requests share them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import httpx2

from llm_connect.engine.certificates import told_of_certificate
from llm_connect.engine.http_options import DEFAULT_LIMITS, ReplyLimits
from llm_connect.engine.lost_loops import close_after, close_transports, transports_of_pool
from llm_connect.engine.measuring import measure
from llm_connect.engine.response_headers import note_headers

_Joined: TypeAlias = tuple[httpx2.URL, httpx2.Headers]

#: The most that are kept: a client has few addresses, and its key rarely changes.
_MOST = 64
#: Headers of every request of httpx2 that HTTP/1.1 implies. Each costs two percent of a call.
_IMPLIED = ("Accept", "Connection")
_NO_TIMEOUT = {"timeout": httpx2.Timeout(None).as_dict()}


class _Requests:
    """Builds requests as httpx2 does, but joins their common parts only once."""

    def __init__(self, *, reply_limits: ReplyLimits = DEFAULT_LIMITS, **options: Any) -> None:
        super().__init__(**options)
        self.reply_limits = reply_limits
        self._joined: dict[tuple[Any, ...], _Joined] = {}
        for name in _IMPLIED:
            self.headers.pop(name, None)  # type: ignore[attr-defined]

    def build_request(
        self,
        method: str,
        url: httpx2.URL | str,
        *,
        headers: Any = None,
        content: Any = None,
        timeout: Any = None,
        **others: Any,
    ) -> httpx2.Request:
        """Like httpx2's method, which still builds every request that has more than a body and headers."""
        body = content.encode() if isinstance(content, str) else content
        given = tuple(headers.items()) if isinstance(headers, Mapping) else headers
        plain = isinstance(body, bytes) and isinstance(given, tuple | list) and timeout is None
        if not plain or others != dict.fromkeys(others):
            parts = {"headers": headers, "content": content, "timeout": timeout, **others}
            request: httpx2.Request = super().build_request(method, url, **parts)  # type: ignore[misc]
            return request
        address, shared = self._join(url, tuple(given))
        # As a stream, because httpx2 searches the headers eight times for a body in another form.
        stream = httpx2.ByteStream(body)
        request = httpx2.Request(method, address, headers=shared, stream=stream, extensions=_NO_TIMEOUT)
        request.headers["Content-Length"] = str(len(body))
        request.read()
        return request

    def _join(self, url: httpx2.URL | str, headers: tuple[Any, ...]) -> _Joined:
        """The address and all headers except the length of the body, as httpx2 makes them."""
        joined = self._joined.get((url, *headers))
        if joined is None:
            first = super().build_request("POST", url, headers=headers, content=b"-")  # type: ignore[misc]
            del first.headers["Content-Length"]
            if len(self._joined) >= _MOST:
                self._joined.clear()
            joined = self._joined[(url, *headers)] = (first.url, first.headers)
        return joined


class PlainClient(_Requests, httpx2.Client):
    """A client for threads. The caller closes a streamed response; any other is read to its end."""

    def send(self, request: httpx2.Request, *, stream: bool = False, **_: Any) -> httpx2.Response:
        _check_open(self)
        try:
            response = self._transport.handle_request(request)
        except httpx2.ConnectError as error:
            raise told_of_certificate(error, request) from None
        _note(response, request)
        try:
            short = measure(response, self.reply_limits, streamed=stream)
            if short and not stream:
                _keep(response, b"".join(response.stream))  # type: ignore[arg-type]
                response.close()
            elif not stream:
                response.read()
        except BaseException:
            response.close()
            raise
        return response


class AsyncPlainClient(_Requests, httpx2.AsyncClient):
    """A client for one event loop, like `PlainClient`."""

    async def send(self, request: httpx2.Request, *, stream: bool = False, **_: Any) -> httpx2.Response:
        _check_open(self)
        try:
            response = await self._transport.handle_async_request(request)
        except httpx2.ConnectError as error:
            raise told_of_certificate(error, request) from None
        _note(response, request)
        try:
            short = measure(response, self.reply_limits, streamed=stream)
            # The content of `AiohttpTransport` has it.
            whole = getattr(response.stream, "whole", None) if short and not stream else None
            if whole is not None:
                _keep(response, await whole())
                response.is_closed = True
            elif not stream:
                await response.aread()
        except BaseException as error:
            await close_after(error, response)
            raise
        return response

    async def aclose(self) -> None:
        """Like httpx2's method, which leaves connections open if it is cancelled at one of them."""
        pool = getattr(self._transport, "_pool", None)
        held = [] if pool is None else list(transports_of_pool(pool))
        try:
            await super().aclose()
        except BaseException:
            close_transports(held)
            raise


def _check_open(client: httpx2.Client | httpx2.AsyncClient) -> None:
    if client.is_closed:
        raise RuntimeError("This client has been closed.")


def _keep(response: httpx2.Response, content: bytes) -> None:
    """Keep the whole content. httpx2 itself would read it through several generators, for a twentieth of a call."""
    response._content = content
    response.is_stream_consumed = True


def _note(response: httpx2.Response, request: httpx2.Request) -> None:
    # The SDKs read the request from the response.
    response.request = request
    note_headers(response.headers)

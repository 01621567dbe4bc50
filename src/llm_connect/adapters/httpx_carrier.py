"""httpx2 as a carrier of JSON requests."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TypeAlias

import httpx2

from llm_connect.calling import http
from llm_connect.calling.carrier import Carrier
from llm_connect.calling.http_stream import AsyncHttpStream, HttpStream
from llm_connect.calling.provider import Request
from llm_connect.protocols.wire import Failure, Reply

_Target: TypeAlias = tuple[httpx2.URL, httpx2.Headers]
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode


class HttpxCarrier(Carrier):
    """Sends JSON to paths below `base_url`, with the given headers."""

    def __init__(self, *, base_url: str, headers: Mapping[str, str], max_connections: int) -> None:
        self._base_url = base_url.rstrip("/")
        self._options: dict[str, Any] = {"headers": dict(headers)}
        self._max_connections = max_connections
        self._targets: dict[str, _Target] = {}

    def make(self) -> httpx2.Client:
        return http.sync_client(self._max_connections, **self._options)

    def amake(self) -> httpx2.AsyncClient:
        return http.async_client(self._max_connections, **self._options)

    def close(self, client: httpx2.Client) -> None:
        client.close()

    async def aclose(self, client: httpx2.AsyncClient) -> None:
        await client.aclose()

    def post(self, client: httpx2.Client, request: Request) -> Reply:
        return http.reply_of(client.send(self._made(client, request)))

    async def apost(self, client: httpx2.AsyncClient, request: Request) -> Reply:
        return http.reply_of(await client.send(self._made(client, request)))

    def _made(self, client: httpx2.Client | httpx2.AsyncClient, request: Request) -> httpx2.Request:
        if not request.body:
            return httpx2.Request(request.method, self._base_url + request.path, headers=client.headers)
        # Not by the client, which takes address and headers apart and joins them anew for each call. And the body as a
        # stream: for one in another form, httpx2 looks through the headers eight times.
        address, headers = self._target(client, request.path)
        body = _encode(request.body).encode()
        made = httpx2.Request(request.method, address, headers=headers, stream=httpx2.ByteStream(body))
        made.headers["Content-Length"] = str(len(body))
        made.read()
        return made

    def _target(self, client: httpx2.Client | httpx2.AsyncClient, path: str) -> _Target:
        """Where JSON is posted to, and the headers that every such request has."""
        known = self._targets.get(path)
        if known is None:
            address = httpx2.URL(self._base_url + path)
            headers = [(b"Host", address.netloc), *client.headers.raw, (b"Content-Type", b"application/json")]
            known = self._targets[path] = (address, httpx2.Headers(headers))
        return known

    def open(self, client: httpx2.Client, request: Request) -> HttpStream:
        return HttpStream(client.send(self._made(client, request), stream=True))

    async def aopen(self, client: httpx2.AsyncClient, request: Request) -> AsyncHttpStream:
        return AsyncHttpStream(await client.send(self._made(client, request), stream=True))

    def failure_of(self, error: Exception) -> Failure:
        return http.failure_of(error)

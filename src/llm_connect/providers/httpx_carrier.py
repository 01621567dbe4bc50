"""httpx2 as a carrier of JSON requests."""

from __future__ import annotations

import json
from collections.abc import Mapping

import httpx2

from llm_connect.engine import http
from llm_connect.engine.clients import Carrier
from llm_connect.engine.exchange import Request
from llm_connect.engine.http_options import DEFAULT_OPTIONS, HttpOptions
from llm_connect.engine.sockets import watch
from llm_connect.protocols.wire import Failure

_JSON = {"Content-Type": "application/json"}
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode


class HttpxClients(Carrier):
    """The base of carriers that send through clients of httpx2: our own, or the user's."""

    def __init__(self, max_connections: int, options: HttpOptions) -> None:
        self._max_connections = max_connections
        self._http = options

    def sync_client(self) -> httpx2.Client:
        own, other = self._http.http_client, self._http.async_http_client
        http.refuse_half(own, other, "http_client")
        self.hidden: bool = own is not None and not watch(own)
        return http.sync_client(self._max_connections, self._http)

    def async_client(self) -> httpx2.AsyncClient:
        own, other = self._http.async_http_client, self._http.http_client
        http.refuse_half(own, other, "async_http_client")
        self.ahidden: bool = own is not None and not watch(own)
        return http.async_client(self._max_connections, self._http)

    def failure_of(self, error: Exception) -> Failure:
        return http.failure_of(error)


class HttpxCarrier(HttpxClients):
    """Sends JSON to paths below `base_url`, with the given headers."""

    def __init__(
        self, *, base_url: str, headers: Mapping[str, str], max_connections: int, options: HttpOptions = DEFAULT_OPTIONS
    ) -> None:
        super().__init__(max_connections, options)
        self._base_url = base_url.rstrip("/")
        self._headers = dict(headers)

    def make(self) -> httpx2.Client:
        return self.sync_client()

    def amake(self) -> httpx2.AsyncClient:
        return self.async_client()

    def close(self, client: httpx2.Client) -> None:
        client.close()

    async def aclose(self, client: httpx2.AsyncClient) -> None:
        await client.aclose()

    def abandon(self, client: httpx2.AsyncClient) -> None:
        http.abandon(client)

    def send(self, client: httpx2.Client, request: Request, *, stream: bool) -> httpx2.Response:
        return client.send(self._made(client, request), stream=stream)

    async def asend(self, client: httpx2.AsyncClient, request: Request, *, stream: bool) -> httpx2.Response:
        return await client.send(self._made(client, request), stream=stream)

    def _made(self, client: httpx2.Client | httpx2.AsyncClient, request: Request) -> httpx2.Request:
        address = self._base_url + request.path
        if not request.body:
            return client.build_request(request.method, address, headers=self._headers)
        content = _encode(request.body).encode()
        return client.build_request(request.method, address, headers=self._headers | _JSON, content=content)

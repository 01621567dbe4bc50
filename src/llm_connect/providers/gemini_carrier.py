"""The google-genai SDK as a carrier of generateContent and countTokens."""

from __future__ import annotations

import json
from typing import Any

import httpx2
from google import genai
from google.genai import types

from llm_connect.engine import http
from llm_connect.engine.certificates import trusted
from llm_connect.engine.exchange import Request
from llm_connect.engine.http_options import DEFAULT_OPTIONS, HttpOptions
from llm_connect.providers.httpx_carrier import HttpxClients


class GeminiCarrier(HttpxClients):
    """Sends the requests that the SDK builds through the SDK's own HTTP client, and takes the raw reply.

    The SDK's public method takes a body only as a part of its `config`, which it converts three times for each call.
    The method below that takes any status but 200 for an error, and decodes a reply before it looks at its status. The
    SDK is told not to retry, and not to use Vertex AI, whatever the environment says.
    """

    def __init__(
        self,
        *,
        api_key: str,
        base_url: str,
        version: str | None = None,
        max_connections: int,
        options: HttpOptions = DEFAULT_OPTIONS,
    ) -> None:
        super().__init__(max_connections, options)
        self._api_key = api_key
        self._base_url = base_url
        self._version = version

    def prepare(self) -> None:
        """Do the SDK's late imports, which come with its first client and its first async use."""
        with self._client(self._sync(), self._async()) as client:
            _ = client.aio

    def make(self) -> genai.Client:
        return self._client(self.sync_client(), self._async())

    def amake(self) -> genai.Client:
        return self._client(self._sync(), self.async_client())

    def _sync(self) -> httpx2.Client:
        return http.sync_client(self._max_connections, self._http)

    def _async(self) -> httpx2.AsyncClient:
        return http.async_client(self._max_connections, self._http)

    def close(self, client: genai.Client) -> None:
        client.close()
        _http(client, "httpx_client").close()

    async def aclose(self, client: genai.Client) -> None:
        await client.aio.aclose()
        client.close()
        await _http(client, "httpx_async_client").aclose()

    def abandon(self, client: genai.Client) -> None:
        client.close()
        http.abandon(_http(client, "httpx_async_client"))

    def send(self, client: genai.Client, request: Request, *, stream: bool) -> httpx2.Response:
        sender: httpx2.Client = _http(client, "httpx_client")
        return sender.send(_made(client, sender, request), stream=stream)

    async def asend(self, client: genai.Client, request: Request, *, stream: bool) -> httpx2.Response:
        sender: httpx2.AsyncClient = _http(client, "httpx_async_client")
        return await sender.send(_made(client, sender, request), stream=stream)

    def _client(self, client: httpx2.Client, async_client: httpx2.AsyncClient) -> genai.Client:
        # The SDK gets both clients, although it uses one, and a context for websockets, which it never uses. For each
        # missing one it would load the trusted roots, which takes longer than a call and blocks an event loop.
        options = types.HttpOptions(
            base_url=self._base_url,
            api_version=self._version,
            retry_options=types.HttpRetryOptions(attempts=1),
            httpx_client=client,
            httpx_async_client=async_client,
            async_client_args={"ssl": trusted(self._http.verify)},
        )
        return genai.Client(api_key=self._api_key, vertexai=False, http_options=options)


def _http(client: genai.Client, name: str) -> Any:
    return getattr(client._api_client._http_options, name)


def _made(client: genai.Client, sender: httpx2.Client | httpx2.AsyncClient, request: Request) -> httpx2.Request:
    """Build a request as the SDK does."""
    body: dict[str, object] = dict(request.body)
    made = client._api_client._build_request("post", request.path.removeprefix("/"), body)
    headers = {name: value for name, value in made.headers.items() if value is not None}
    return sender.build_request(made.method.upper(), made.url, headers=headers, content=json.dumps(made.data).encode())

"""The google-genai SDK as a carrier of generateContent and countTokens."""

from __future__ import annotations

import json
from typing import Any, Literal, TypedDict

import httpx2
from google import genai
from google.genai import types

from llm_connect.engine import http
from llm_connect.engine.certificates import trusted
from llm_connect.engine.clients import Carrier
from llm_connect.engine.exchange import Request
from llm_connect.engine.http_options import DEFAULT_OPTIONS, HttpOptions
from llm_connect.engine.http_stream import AsyncHttpStream, HttpStream
from llm_connect.engine.sockets import watch
from llm_connect.protocols.wire import Failure, Reply


class GeminiCarrier(Carrier):
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
        self._api_key = api_key
        self._base_url = base_url
        self._version = version
        self._max_connections = max_connections
        self._options = options

    def prepare(self) -> None:
        """Do the SDK's late imports, which come with its first client and its first async use."""
        with self._client() as client:
            _ = client.aio

    def make(self) -> genai.Client:
        own, other = self._options.http_client, self._options.async_http_client
        http.refuse_half(own, other, "http_client")
        self.hidden: bool = own is not None and not watch(own)
        return self._client()

    def amake(self) -> genai.Client:
        own, other = self._options.async_http_client, self._options.http_client
        http.refuse_half(own, other, "async_http_client")
        self.ahidden: bool = own is not None and not watch(own)
        return self._client()

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

    def post(self, client: genai.Client, request: Request) -> Reply:
        sender: httpx2.Client = _http(client, "httpx_client")
        return http.reply_of(sender.send(_made(client, sender, request)))

    async def apost(self, client: genai.Client, request: Request) -> Reply:
        sender: httpx2.AsyncClient = _http(client, "httpx_async_client")
        return http.reply_of(await sender.send(_made(client, sender, request)))

    def open(self, client: genai.Client, request: Request) -> HttpStream:
        sender: httpx2.Client = _http(client, "httpx_client")
        return HttpStream(sender.send(_made(client, sender, request), stream=True))

    async def aopen(self, client: genai.Client, request: Request) -> AsyncHttpStream:
        sender: httpx2.AsyncClient = _http(client, "httpx_async_client")
        return AsyncHttpStream(await sender.send(_made(client, sender, request), stream=True))

    def failure_of(self, error: Exception) -> Failure:
        return http.failure_of(error)

    def _client(self) -> genai.Client:
        # The SDK gets both clients, although it uses one, and a context for websockets, which it never uses. For each
        # missing one it would load the trusted roots, which takes longer than a call and blocks an event loop.
        options = types.HttpOptions(
            base_url=self._base_url,
            api_version=self._version,
            retry_options=types.HttpRetryOptions(attempts=1),
            httpx_client=http.sync_client(self._max_connections, self._options),
            httpx_async_client=http.async_client(self._max_connections, self._options),
            async_client_args={"ssl": trusted(self._options.verify)},
        )
        return genai.Client(api_key=self._api_key, vertexai=False, http_options=options)


def _http(client: genai.Client, name: str) -> Any:
    return getattr(client._api_client._http_options, name)


class _Arguments(TypedDict):
    http_method: Literal["post"]
    path: str
    request_dict: dict[str, object]


def _arguments(request: Request) -> _Arguments:
    return {"http_method": "post", "path": request.path.removeprefix("/"), "request_dict": request.body}


def _made(client: genai.Client, sender: httpx2.Client | httpx2.AsyncClient, request: Request) -> httpx2.Request:
    """Build a request as the SDK does."""
    arguments = {**_arguments(request), "request_dict": dict(request.body)}
    made = client._api_client._build_request(**arguments)  # type: ignore[arg-type]
    headers = {name: value for name, value in made.headers.items() if value is not None}
    return sender.build_request(made.method.upper(), made.url, headers=headers, content=json.dumps(made.data).encode())

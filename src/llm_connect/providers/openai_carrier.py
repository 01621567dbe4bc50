"""The openai SDK as a carrier of chat completions and of responses."""

from __future__ import annotations

from typing import Any, TypeVar

import httpx2
import openai

from llm_connect.engine import http
from llm_connect.engine.exchange import Request
from llm_connect.engine.http_options import DEFAULT_OPTIONS, HttpOptions
from llm_connect.engine.sockets import watch
from llm_connect.protocols.wire import Failure
from llm_connect.providers.httpx_carrier import HttpxClients

T = TypeVar("T", httpx2.Client, httpx2.AsyncClient)

#: The SDK's headers about this machine. Each costs a hundredth of a call, and the provider needs none of them.
_ABOUT_THIS_MACHINE = ("Lang", "Package-Version", "OS", "Arch", "Runtime", "Runtime-Version", "Async")


class OpenAICarrier(HttpxClients):
    """Posts through the SDK's low-level `post` and leaves the reply unparsed. The SDK's own parsing would turn errors
    under a good status into foreign exceptions or half-empty objects; so they reach the protocol as they are.
    """

    def __init__(
        self,
        *,
        api_key: str,
        base_url: str,
        max_connections: int,
        options: HttpOptions = DEFAULT_OPTIONS,
        client: openai.OpenAI | None,
        async_client: openai.AsyncOpenAI | None,
    ) -> None:
        super().__init__(max_connections, options)
        self._options: dict[str, Any] = {
            "api_key": api_key,
            "base_url": base_url,
            "timeout": None,
            "max_retries": 0,
            "default_headers": {f"X-Stainless-{name}": openai.Omit() for name in _ABOUT_THIS_MACHINE},
        }
        self._own_client, self._own_async_client = client, async_client
        #: The URL that the SDK would put before a path at each call. The user's own client has its own rules for that.
        self._base = ""

    def make(self) -> openai.OpenAI:
        own = self._own_client
        if own is not None:
            self.hidden: bool = not watch(own._client)
            return own.with_options(max_retries=0, http_client=http.LentClient(own._client, self._http))
        http.refuse_half(own, self._own_async_client, "client")
        made = openai.OpenAI(**self._options, http_client=_bare(self.sync_client()))
        self._base = str(made.base_url).rstrip("/")
        return made

    def amake(self) -> openai.AsyncOpenAI:
        own = self._own_async_client
        if own is not None:
            self.ahidden: bool = not watch(own._client)
            return own.with_options(max_retries=0, http_client=http.AsyncLentClient(own._client, self._http))
        http.refuse_half(own, self._own_client, "async_client")
        made = openai.AsyncOpenAI(**self._options, http_client=_bare(self.async_client()))
        self._base = str(made.base_url).rstrip("/")
        return made

    def close(self, client: openai.OpenAI) -> None:
        if self._own_client is None:
            client.close()

    async def aclose(self, client: openai.AsyncOpenAI) -> None:
        if self._own_async_client is None:
            await client.close()

    def abandon(self, client: openai.AsyncOpenAI) -> None:
        if self._own_async_client is None:
            http.abandon(client._client)

    def send(self, client: openai.OpenAI, request: Request, *, stream: bool) -> httpx2.Response:
        try:
            sent: httpx2.Response = client.post(self._base + request.path, **_arguments(request), stream=stream)
        except openai.APIStatusError as error:
            return error.response
        return sent

    async def asend(self, client: openai.AsyncOpenAI, request: Request, *, stream: bool) -> httpx2.Response:
        try:
            return await client.post(self._base + request.path, **_arguments(request), stream=stream)
        except openai.APIStatusError as error:
            return error.response

    def failure_of(self, error: Exception) -> Failure:
        wrapped = isinstance(error, openai.APIConnectionError) and isinstance(error.__cause__, Exception)
        return http.failure_of(error.__cause__ if wrapped else error)  # type: ignore[arg-type]


def _bare(client: T) -> T:
    """Remove the header that the SDK sends itself, because it would merge both for each call."""
    client.headers.pop("User-Agent", None)
    return client


def _arguments(request: Request) -> dict[str, Any]:
    # The user's own client follows redirects, and would send the prompt elsewhere.
    return {"cast_to": httpx2.Response, "body": request.body, "options": {"follow_redirects": False}}

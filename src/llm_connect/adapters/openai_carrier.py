"""The openai SDK as a carrier of chat completions."""

from __future__ import annotations

from typing import Any

import httpx2
import openai

from llm_connect.calling import http
from llm_connect.calling.carrier import Carrier
from llm_connect.calling.provider import Request
from llm_connect.protocols.wire import Failure, Reply


class OpenAICarrier(Carrier):
    """Posts through the SDK's low-level `post` and leaves the reply unparsed: errors under a good status, which
    the SDK's own parsing turns into foreign exceptions or half-empty objects, reach the protocol as they are.
    """

    def __init__(
        self,
        *,
        api_key: str,
        base_url: str | None,
        max_connections: int,
        client: openai.OpenAI | None,
        async_client: openai.AsyncOpenAI | None,
    ) -> None:
        self._options: dict[str, Any] = {
            "api_key": api_key,
            "base_url": base_url,
            "timeout": None,
            "max_retries": 0,
        }
        self._max_connections = max_connections
        self._own_client, self._own_async_client = client, async_client

    def make(self) -> openai.OpenAI:
        if self._own_client is not None:
            return self._own_client.with_options(max_retries=0)
        return openai.OpenAI(**self._options, http_client=http.sync_client(self._max_connections))

    def amake(self) -> openai.AsyncOpenAI:
        if self._own_async_client is not None:
            return self._own_async_client.with_options(max_retries=0)
        return openai.AsyncOpenAI(**self._options, http_client=http.async_client(self._max_connections))

    def close(self, client: openai.OpenAI) -> None:
        if self._own_client is None:
            client.close()

    async def aclose(self, client: openai.AsyncOpenAI) -> None:
        if self._own_async_client is None:
            await client.close()

    def post(self, client: openai.OpenAI, request: Request) -> Reply:
        try:
            return http.reply_of(client.post(request.path, cast_to=httpx2.Response, body=request.body))
        except openai.APIStatusError as error:
            return http.reply_of(error.response)

    async def apost(self, client: openai.AsyncOpenAI, request: Request) -> Reply:
        try:
            return http.reply_of(await client.post(request.path, cast_to=httpx2.Response, body=request.body))
        except openai.APIStatusError as error:
            return http.reply_of(error.response)

    def failure_of(self, error: Exception) -> Failure:
        wrapped = isinstance(error, openai.APIConnectionError) and isinstance(error.__cause__, Exception)
        return http.failure_of(error.__cause__ if wrapped else error)  # type: ignore[arg-type]

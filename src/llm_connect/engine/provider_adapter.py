"""The base of all provider adapters: their sync and async entries to the one call path."""

from __future__ import annotations

import os
from typing import Self

from llm_connect._flows import adrive, drive
from llm_connect.engine.exchange import Exchange
from llm_connect.engine.flow import Call
from llm_connect.engine.streaming import ProviderStream
from llm_connect.engine.warming import WarmUp
from llm_connect.errors import LLMConfigurationError
from llm_connect.interface.config import RunConfig
from llm_connect.interface.streams import AsyncLLMStream, LLMStream
from llm_connect.protocols.wire import Failure
from llm_connect.types.response import LLMResponse, Prompt


class ProviderAdapter(Exchange):
    """Base of the adapters that carry a protocol to a provider.

    The call path takes care of budget, deadline, retries and errors. Use an adapter as a context manager, or call
    `close` (`aclose` in a coroutine), to close its connections early.
    """

    metered = False

    def execute_prompt(self, prompt: Prompt, config: RunConfig | None = None) -> LLMResponse:
        return drive(Call(self, prompt, config or RunConfig()).run())

    async def async_execute_prompt(self, prompt: Prompt, config: RunConfig | None = None) -> LLMResponse:
        return await adrive(Call(self, prompt, config or RunConfig()).run())

    def stream_prompt(self, prompt: Prompt, config: RunConfig | None = None) -> LLMStream:
        return LLMStream(ProviderStream(self, prompt, config or RunConfig()))

    def async_stream_prompt(self, prompt: Prompt, config: RunConfig | None = None) -> AsyncLLMStream:
        return AsyncLLMStream(ProviderStream(self, prompt, config or RunConfig()))

    def validate_config(self, config: RunConfig) -> bool:
        """True if `config` can be rendered for this provider: its parameters are known here."""
        try:
            self.render("x", config, config.max_tokens)
        except LLMConfigurationError:
            return False
        return True

    def warm_up(self) -> None:
        """Do the preparations of the first call now: import the SDK and the list prices, and make a client.

            adapter = OpenAIAdapter()
            adapter.warm_up()

        Nothing is sent, and a second time costs nothing. Otherwise the first call does it, within its deadline.
        Raises LLMConfigurationError.
        """
        self._raise(WarmUp(self, None, self.price_list is not None).run())

    async def async_warm_up(self) -> None:
        """Like `warm_up`, for a coroutine: the slow parts run in a thread, and the event loop goes on."""
        self._raise(await WarmUp(self, None, self.price_list is not None).arun())

    def _raise(self, failure: Failure | None) -> None:
        if failure is not None:
            raise self._error_for(failure, model=self.model, maybe_billed=False)

    def close(self) -> None:
        """Close the connections of this adapter; it may be used again."""

    async def aclose(self) -> None:
        """Like `close`, and wait for the connections of the running event loop."""
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(model={self.model!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


def api_key_from(api_key: str | None, *variables: str) -> str:
    """The given key, else the first of the environment `variables` that is set."""
    for candidate in (api_key, *(os.environ.get(name) for name in variables)):
        if candidate is not None and candidate.strip():
            return _usable(candidate.strip())
    raise LLMConfigurationError(f"No API key: pass api_key=, or set the environment variable {' or '.join(variables)}.")


def _usable(key: str) -> str:
    if not key.isascii() or not key.isprintable() or " " in key:
        raise LLMConfigurationError("The API key contains characters not allowed in an HTTP header: copy it again.")
    return key

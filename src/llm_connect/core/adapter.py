"""The one interface over all providers."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod

from llm_connect.core.models import LLMResponse, Prompt, RunConfig


class LLMAdapter(ABC):
    """One model behind one method, in a sync and an async form.

        class EchoAdapter(LLMAdapter):
            def execute_prompt(self, prompt, config=None):
                usage = Usage(prompt_tokens=1, completion_tokens=1)
                return LLMResponse(content=prompt, model="echo", usage=usage)

    Guaranteed by every adapter: a success is an `LLMResponse`, a failure an `LLMError`; `config` is not
    changed; `config.timeout_seconds` is honoured. Whatever takes an `LLMAdapter` works with the mock.
    """

    @abstractmethod
    def execute_prompt(self, prompt: Prompt, config: RunConfig | None = None) -> LLMResponse:
        """Send `prompt` and wait for the answer. Raises LLMError."""

    async def async_execute_prompt(self, prompt: Prompt, config: RunConfig | None = None) -> LLMResponse:
        """Like `execute_prompt`, for a coroutine; by default in a worker thread. Raises LLMError."""
        return await asyncio.to_thread(self.execute_prompt, prompt, config)

    def validate_config(self, config: RunConfig) -> bool:
        """Whether this adapter expects to honour all of `config`; advice, without side effects."""
        return True

"""A provider in this process, and two good adapters for it: one metered by its base class, one that meters itself.

`broken_adapters` has what goes wrong with them.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Generator
from dataclasses import dataclass, field, replace
from typing import Any

from llm_connect import (
    AsyncLLMStream,
    BudgetTracker,
    LLMAdapter,
    LLMAPIError,
    LLMConfigurationError,
    LLMError,
    LLMResponse,
    LLMStream,
    LLMTimeoutError,
    RunConfig,
    StreamChunk,
    TextChunk,
    Usage,
)
from llm_connect.budget.admission.holds import Hold
from llm_connect.interface.adapter import DEFAULT_MAX_TOKENS
from llm_connect.interface.streams import nothing_yet
from llm_connect.types.chunks import chunks_of

KEY = "sk-canary-7f3d9b1c5e8a2046"


@dataclass
class Provider:
    """Counts and bills what arrives. seconds: how long an answer takes. fails: whether each call fails."""

    seconds: float = 0.002
    fails: bool = False
    answer_tokens: int = 40
    requests: int = 0
    billed: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def receive(self, prompt: str, config: RunConfig, *, billed: bool = True) -> Usage:
        """The usage of a request that has arrived."""
        prompt_tokens = len(prompt.encode()) + len((config.system_prompt or "").encode())
        completion_tokens = min(self.answer_tokens, config.max_tokens or self.answer_tokens)
        usage = Usage(prompt_tokens=prompt_tokens, completion_tokens=completion_tokens)
        with self.lock:
            self.requests += 1
            self.billed += usage.total_tokens * (billed and not self.fails)
        return usage


class Good(LLMAdapter):
    """Keeps all rules, and is metered by its base class."""

    provider = "good"
    model = "good-1"

    def __init__(self, provider: Provider) -> None:
        self.provider_here = provider
        self.key = KEY

    def execute_prompt(self, prompt: Any, config: RunConfig | None = None) -> LLMResponse:
        return self.call(prompt, config or RunConfig())

    async def async_execute_prompt(self, prompt: Any, config: RunConfig | None = None) -> LLMResponse:
        return await self.acall(prompt, config or RunConfig())

    def call(self, prompt: Any, config: RunConfig) -> LLMResponse:
        self.check(prompt, config)
        usage = self.send(prompt, config)
        time.sleep(min(self.provider_here.seconds, config.timeout_seconds))
        return self.respond(prompt, config, usage)

    async def acall(self, prompt: Any, config: RunConfig) -> LLMResponse:
        self.check(prompt, config)
        usage = self.send(prompt, config)
        await asyncio.sleep(min(self.provider_here.seconds, config.timeout_seconds))
        return self.respond(prompt, config, usage)

    def check(self, prompt: Any, config: RunConfig) -> None:
        """Refuse what cannot be sent."""
        if not isinstance(prompt, str) or not prompt.strip():
            raise LLMConfigurationError("The prompt is no text.")
        if prompt.encode(errors="replace").decode() != prompt:
            raise LLMConfigurationError("The prompt holds lone surrogates.")
        if config.model_params:
            raise LLMConfigurationError("model_params holds an unknown key.")

    def send(self, prompt: str, config: RunConfig) -> Usage:
        return self.provider_here.receive(prompt, config)

    def respond(self, prompt: str, config: RunConfig, usage: Usage) -> LLMResponse:
        """What the provider's reply becomes."""
        if self.provider_here.seconds > config.timeout_seconds:
            raise LLMTimeoutError("good good-1: timeout_seconds is over.", attempts=1)
        if self.provider_here.fails:
            raise self.failure(prompt)
        return LLMResponse(**self.answer(usage))

    def failure(self, prompt: str) -> Exception:
        return LLMAPIError("good good-1: 500.", status_code=500, attempts=1)

    def answer(self, usage: Usage) -> dict[str, Any]:
        """The fields of an answer."""
        metadata = {"provider": "good", "latency_seconds": self.provider_here.seconds, "attempts": 1}
        return {"content": "red", "model": "good-1", "usage": usage, "metadata": metadata}


class GoodByItself(Good):
    """Keeps all rules, and meters itself by the public form of a hold."""

    metered = False

    def execute_prompt(self, prompt: Any, config: RunConfig | None = None) -> LLMResponse:
        return self.call(prompt, config or RunConfig())

    async def async_execute_prompt(self, prompt: Any, config: RunConfig | None = None) -> LLMResponse:
        return await self.acall(prompt, config or RunConfig())

    def call(self, prompt: Any, config: RunConfig) -> LLMResponse:
        self.check(prompt, config)
        tracker = self.tracker_of(config)
        if tracker is None:
            return super().call(prompt, config)
        limit, asked = self.asked(prompt, config, tracker)
        hold = tracker.reserve(**asked)
        try:
            hold.dispatch()
            return self.settled(hold, super().call(prompt, replace(config, max_tokens=limit)))
        except BaseException as error:
            self.end(hold, error)
            raise

    async def acall(self, prompt: Any, config: RunConfig) -> LLMResponse:
        self.check(prompt, config)
        tracker = self.tracker_of(config)
        if tracker is None:
            return await super().acall(prompt, config)
        limit, asked = self.asked(prompt, config, tracker)
        hold = await tracker.areserve(**asked)
        try:
            hold.dispatch()
            return self.settled(hold, await super().acall(prompt, replace(config, max_tokens=limit)))
        except BaseException as error:
            self.end(hold, error)
            raise

    def tracker_of(self, config: RunConfig) -> BudgetTracker | None:
        return config.budget_tracker or self.budget_tracker

    def asked(self, prompt: str, config: RunConfig, tracker: BudgetTracker) -> tuple[int, dict[str, Any]]:
        """The output limit, and what is reserved for it; the price is not known, so a dollar is."""
        bound = self.bound(prompt, config)
        limit = bound.max_tokens
        if config.max_tokens is None and (free := tracker.remaining()) is not None:
            limit = max(min(DEFAULT_MAX_TOKENS, free - bound.prompt_tokens), config.clamp_floor)
        wait = 0.0 if config.when_short == "refuse" else config.budget_wait_seconds
        held = {"tokens": bound.prompt_tokens + limit, "usd": 1, "labels": config.labels, "max_wait_seconds": wait}
        return limit, held

    def settled(self, hold: Hold, response: LLMResponse) -> LLMResponse:
        hold.settle(usage=response.usage)
        return response

    def end(self, hold: Hold, error: BaseException) -> None:
        """End the hold of a call that failed."""
        if isinstance(error, LLMError) and not error.maybe_billed:
            hold.release()
        hold.end_unsettled()


class Letters:
    """The source of a stream that gives its answer letter by letter, and knows nothing of budgets."""

    def __init__(self, adapter: Good, prompt: Any, config: RunConfig | None) -> None:
        self.adapter = adapter
        self.prompt = prompt
        self.config = config or RunConfig()
        self.text = ""
        self.response = nothing_yet(adapter.model)

    def chunks(self) -> Generator[StreamChunk]:
        yield from self.given(self.adapter.call(self.prompt, self.config))

    async def achunks(self) -> AsyncGenerator[StreamChunk]:
        for chunk in self.given(await self.adapter.acall(self.prompt, self.config)):
            yield chunk

    def given(self, response: LLMResponse) -> Generator[StreamChunk]:
        for letter in response.content:
            self.text += letter
            yield TextChunk(letter)
        self.response = response
        yield from chunks_of(response, self.text)

    def abandon(self) -> None:
        """It has no connection."""


class Streaming(Good):
    """Keeps all rules, and writes its streams itself; its base class meters them."""

    source = Letters

    def stream_prompt(self, prompt: Any, config: RunConfig | None = None) -> LLMStream:
        return LLMStream(self.source(self, prompt, config))

    def async_stream_prompt(self, prompt: Any, config: RunConfig | None = None) -> AsyncLLMStream:
        return AsyncLLMStream(self.source(self, prompt, config))

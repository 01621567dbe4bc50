"""`LLMAdapter`, the interface of all providers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from llm_connect.budget.accounting.bounds import Bound, CallFacts, CountTokens, Demand, counter_of, measured, utf8_bytes
from llm_connect.budget.accounting.prices import Price
from llm_connect.budget.tracker import BudgetTracker
from llm_connect.interface import metering
from llm_connect.interface.attempt import terms_on
from llm_connect.interface.config import RunConfig
from llm_connect.interface.streams import AsyncLLMStream, LLMStream, StreamFlow, StreamSource
from llm_connect.types.chunks import chunks_of
from llm_connect.types.response import LLMResponse, Prompt

#: The output limit, in tokens, that a call under a budget holds and sends if it has none of its own.
DEFAULT_MAX_TOKENS = 2_000


class LLMAdapter(ABC):
    """A model behind one method, which also comes as an async method and as streams.

        class EchoAdapter(LLMAdapter):
            def execute_prompt(self, prompt, config=None):
                usage = Usage(prompt_tokens=1, completion_tokens=1)
                return LLMResponse(content=prompt, model="echo", usage=usage)

    Guaranteed by every adapter: it returns an `LLMResponse` or raises an `LLMError`, never changes `config`, and
    honours `config.timeout_seconds`. Code that takes an `LLMAdapter` also works with `MockLLMAdapter`.

    The base class meters every subclass that defines `execute_prompt`: with a budget, it holds `bound` before the
    method runs, and settles the hold by `response.usage`. A class that only wraps another adapter sets
    `metered = False`, so that only the inner adapter meters.
    """

    #: True if the methods that this class itself defines are metered; subclasses do not inherit the value.
    metered: ClassVar[bool] = True
    #: The budget of calls whose config has none.
    budget_tracker: BudgetTracker | None = None
    #: The price of the adapter's own model; a budget with a USD limit refuses calls without a known price.
    price: Price | None = None
    #: A tokenizer that makes `bound` tighter than bytes do: a function from text to tokens, or a `TokenCounter`.
    count_tokens: CountTokens = None

    @property
    def _why_no_price(self) -> str:
        """The reason why `price_for` knows no price, for an error; empty if there is nothing to add."""
        return ""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        metering.install(cls)

    @abstractmethod
    def execute_prompt(self, prompt: Prompt, config: RunConfig | None = None) -> LLMResponse:
        """Send `prompt` and return the answer. Raises LLMError."""

    async def async_execute_prompt(self, prompt: Prompt, config: RunConfig | None = None) -> LLMResponse:
        """Like `execute_prompt`, for a coroutine. Raises LLMError.

        By default it waits for budget in the task, and then runs `execute_prompt` in a worker thread. If the task is
        cancelled while it waits, nothing is booked. If it is cancelled while the thread works, the thread goes on and
        books the usage of the call.
        """
        return await metering.execute_in_thread(self, prompt, config)

    def stream_prompt(self, prompt: Prompt, config: RunConfig | None = None) -> LLMStream:
        """The answer to `prompt` as a stream of chunks.

            with adapter.stream_prompt("Hello") as stream:
                for chunk in stream:
                    print(chunk.text, end="")

        Nothing is sent or raised before the first chunk is requested. By default the stream yields the whole text of
        `execute_prompt` as one chunk.
        """
        return LLMStream(WholeReply(self, prompt, config))

    def async_stream_prompt(self, prompt: Prompt, config: RunConfig | None = None) -> AsyncLLMStream:
        """Like `stream_prompt`, for a coroutine; use it with `async with` and `async for`, without `await`."""
        return AsyncLLMStream(WholeReply(self, prompt, config))

    def validate_config(self, config: RunConfig) -> bool:
        """True if this adapter expects to honour all of `config`. It is only advice, and has no side effects."""
        return True

    def bound(self, prompt: Prompt, config: RunConfig) -> Bound:
        """The upper bound of a call; by default the bytes of the prompts and the output limit, graded "estimated".

        `count_tokens` replaces the bytes of a prompt if its count is smaller. Raises LLMConfigurationError if
        `count_tokens` raises, or returns an invalid number.
        """
        size = measured(utf8_bytes, counter_of(self.count_tokens))
        prompt_tokens = size(prompt) + size(config.system_prompt)
        return Bound(prompt_tokens=prompt_tokens, max_tokens=config.max_tokens or DEFAULT_MAX_TOKENS)

    def _asks(self, tracker: BudgetTracker, prompt: Prompt, config: RunConfig | None) -> tuple[Demand, CallFacts]:
        """The demand of a call on `tracker`, and its metadata, for `BudgetTracker.fits`."""
        terms = terms_on(tracker, self, prompt, config)
        return terms.demand, terms.facts

    def price_for(self, model: str | None, config: RunConfig) -> Price | None:
        """The price of `model` by the adapter's own knowledge; by default None, unknown.

        Called under a limit in USD, if neither the adapter's `price` nor the budget's `prices` apply.
        """
        return None


class WholeReply(StreamSource):
    """The source for an adapter that defines no stream: the whole reply as one chunk, metered like any call."""

    def __init__(self, adapter: LLMAdapter, prompt: Prompt, config: RunConfig | None) -> None:
        super().__init__()
        self._call = _Call(adapter, prompt, config)

    def _run(self) -> StreamFlow:
        response: LLMResponse = yield self._call
        self._response = response
        yield chunks_of(response)


@dataclass(slots=True)
class _Call:
    adapter: LLMAdapter
    prompt: Prompt
    config: RunConfig | None

    def run(self) -> LLMResponse:
        return self.adapter.execute_prompt(self.prompt, self.config)

    async def arun(self) -> LLMResponse:
        return await self.adapter.async_execute_prompt(self.prompt, self.config)

"""The one interface over all providers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from llm_connect.budget.accounting.bounds import Bound, utf8_bytes
from llm_connect.budget.accounting.demands import CallFacts, Demand
from llm_connect.budget.accounting.prices import Price
from llm_connect.budget.accounting.token_counters import CountTokens, counter_of, measured
from llm_connect.budget.tracker import BudgetTracker
from llm_connect.interface import metered_streams, metering
from llm_connect.interface.config import RunConfig
from llm_connect.interface.reservation import terms_on
from llm_connect.interface.stream_sources import WholeReply
from llm_connect.interface.streams import AsyncLLMStream, LLMStream
from llm_connect.types.response import LLMResponse, Prompt

#: The output limit, in tokens, that is held and sent when a call has a budget and no limit of its own.
DEFAULT_MAX_TOKENS = 2_000


class LLMAdapter(ABC):
    """One model behind one method, in a sync and an async form.

        class EchoAdapter(LLMAdapter):
            def execute_prompt(self, prompt, config=None):
                usage = Usage(prompt_tokens=1, completion_tokens=1)
                return LLMResponse(content=prompt, model="echo", usage=usage)

    Guaranteed by every adapter: a success is an `LLMResponse`, a failure an `LLMError`; `config` is not
    changed; `config.timeout_seconds` is honoured. Whatever takes an `LLMAdapter` works with the mock.

    A class that writes `execute_prompt` is metered without doing anything: with a budget in the config, `bound` is
    held before the method runs, and `response.usage` settles the hold. A class that only wraps another adapter says
    `metered = False`, and the inner adapter meters.
    """

    #: Whether the methods that this class itself writes are metered; not inherited.
    metered: ClassVar[bool] = True
    #: The budget of calls whose config has none.
    budget_tracker: BudgetTracker | None = None
    #: What tokens of its own model cost here; a budget that limits USD refuses calls whose price nobody knows.
    price: Price | None = None
    #: A tokenizer, which makes `bound` tighter than bytes do: a function from text to tokens, or a `TokenCounter`.
    count_tokens: CountTokens = None

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        metering.install(cls)
        metered_streams.install(cls)

    @abstractmethod
    def execute_prompt(self, prompt: Prompt, config: RunConfig | None = None) -> LLMResponse:
        """Send `prompt` and wait for the answer. Raises LLMError."""

    async def async_execute_prompt(self, prompt: Prompt, config: RunConfig | None = None) -> LLMResponse:
        """Like `execute_prompt`, for a coroutine; by default in a worker thread. Raises LLMError.

        By default budget is waited for without a thread. Cancelled while it waits, nothing is booked; cancelled
        while the thread works, the thread goes on and books what the call used.
        """
        return await metering.execute_in_thread(self, prompt, config)

    def stream_prompt(self, prompt: Prompt, config: RunConfig | None = None) -> LLMStream:
        """The answer to `prompt` as a stream of chunks; by default the whole of `execute_prompt` as one chunk.

            with adapter.stream_prompt("Hello") as stream:
                for chunk in stream:
                    print(chunk.text, end="")

        Nothing is sent before the first chunk is asked for, and nothing raised.
        """
        return LLMStream(WholeReply(self, prompt, config))

    def async_stream_prompt(self, prompt: Prompt, config: RunConfig | None = None) -> AsyncLLMStream:
        """Like `stream_prompt`, for a coroutine: `async with` and `async for`; it is not awaited itself."""
        return AsyncLLMStream(WholeReply(self, prompt, config))

    def validate_config(self, config: RunConfig) -> bool:
        """Whether this adapter expects to honour all of `config`; advice, without side effects."""
        return True

    def bound(self, prompt: Prompt, config: RunConfig) -> Bound:
        """What a call may use at most; by default the bytes of the prompts and the output limit, as an estimate.

        With `count_tokens`, what that says of the prompts, where it is less. Raises LLMConfigurationError when that
        raises, or gives no number.
        """
        size = measured(utf8_bytes, counter_of(self.count_tokens))
        prompt_tokens = size(prompt) + size(config.system_prompt)
        return Bound(prompt_tokens=prompt_tokens, max_tokens=config.max_tokens or DEFAULT_MAX_TOKENS)

    def _asks(self, tracker: BudgetTracker, prompt: Prompt, config: RunConfig | None) -> tuple[Demand, CallFacts]:
        """What a call would ask of `tracker`, for `BudgetTracker.fits`."""
        terms = terms_on(tracker, self, prompt, config)
        return terms.demand, terms.facts

    def price_for(self, model: str | None, config: RunConfig) -> Price | None:
        """What tokens of `model` cost, as far as the adapter itself knows; by default it does not.

        Asked for calls under a limit in USD, when neither the adapter's `price` nor the budget's `prices` say it.
        """
        return None

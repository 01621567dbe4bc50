"""Adapters without a provider, for tests of code that takes an `LLMAdapter`."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterable

from llm_connect._validation import check_count, check_number
from llm_connect.budget.accounting.bounds import CountTokens, counter_of
from llm_connect.budget.accounting.prices import Price
from llm_connect.budget.tracker import BudgetTracker
from llm_connect.errors import LLMConfigurationError, LLMError, LLMTimeoutError
from llm_connect.interface.adapter import LLMAdapter
from llm_connect.interface.attempt import check_prompt
from llm_connect.interface.config import RunConfig
from llm_connect.types.response import LLMResponse, Prompt
from llm_connect.types.usage import Usage

#: One reply: a text, a whole response, or what is raised in place of one.
One = str | LLMResponse | BaseException
Reply = One | Iterable[One] | Callable[[str], One]


class MockLLMAdapter(LLMAdapter):
    """Answers without a provider and remembers what it was asked.

        adapter = MockLLMAdapter("four")
        assert adapter.execute_prompt("2 + 2?").content == "four"
        assert adapter.prompts == ["2 + 2?"]

        adapter = MockLLMAdapter([LLMRateLimitError("slow down", status_code=429), "four"])

    reply: a text for every call, replies for one call each (the last one again when they run out), or a
        function of the prompt. A reply is a text, an LLMResponse, which is given as it is, or an exception, which is
        raised.
    prompt_tokens, completion_tokens: what each call whose reply is a text reports as used.
    budget_tracker, price, count_tokens: as of every adapter.
    delay_seconds: how long each call takes; longer than its `timeout_seconds`, it ends in an LLMTimeoutError.

    Safe to share between threads and event loops.
    """

    def __init__(
        self,
        reply: Reply = "mock reply",
        *,
        model: str = "mock",
        prompt_tokens: int = 10,
        completion_tokens: int = 10,
        delay_seconds: float = 0.0,
        budget_tracker: BudgetTracker | None = None,
        price: Price | None = None,
        count_tokens: CountTokens = None,
    ) -> None:
        counter_of(count_tokens)
        check_count("prompt_tokens", prompt_tokens, least=0)
        check_count("completion_tokens", completion_tokens, least=0)
        check_number("delay_seconds", delay_seconds, least=0)
        self.model = model
        self.budget_tracker = budget_tracker
        self.price = price
        self.count_tokens: CountTokens = count_tokens
        self._usage = Usage(prompt_tokens=prompt_tokens, completion_tokens=completion_tokens)
        self._answer = _answerer(reply)
        self._delay_seconds = delay_seconds
        self._lock = threading.Lock()
        self._calls: list[tuple[str, RunConfig]] = []

    @property
    def calls(self) -> list[tuple[str, RunConfig]]:
        """Prompt and config of every call so far, in order."""
        with self._lock:
            return list(self._calls)

    @property
    def prompts(self) -> list[str]:
        """The prompt of every call so far, in order."""
        return [prompt for prompt, _ in self.calls]

    def execute_prompt(self, prompt: Prompt, config: RunConfig | None = None) -> LLMResponse:
        config = config or RunConfig()
        reply = self._take(prompt, config)
        time.sleep(min(self._delay_seconds, config.timeout_seconds))
        return self._respond(reply, config)

    async def async_execute_prompt(self, prompt: Prompt, config: RunConfig | None = None) -> LLMResponse:
        config = config or RunConfig()
        reply = self._take(prompt, config)
        await asyncio.sleep(min(self._delay_seconds, config.timeout_seconds))
        return self._respond(reply, config)

    def _take(self, prompt: Prompt, config: RunConfig) -> One:
        check_prompt(prompt)
        with self._lock:
            self._calls.append((prompt, config))
            number = len(self._calls)
        # Outside the lock: a reply function may look at `prompts`, or take its time.
        return self._answer(prompt, number)

    def _respond(self, reply: One, config: RunConfig) -> LLMResponse:
        if self._delay_seconds > config.timeout_seconds:
            raise LLMTimeoutError(
                f"mock {self.model}: timeout_seconds is over: delay_seconds is longer.",
                provider="mock",
                model=self.model,
                attempts=1,
            )
        if isinstance(reply, BaseException):
            # Without it, each raise would add its frames to those of the ones before.
            raise reply.with_traceback(None)
        if isinstance(reply, LLMResponse):
            return reply
        return LLMResponse(
            content=reply,
            model=config.model_name or self.model,
            usage=self._usage,
            metadata={"provider": "mock", "latency_seconds": self._delay_seconds, "attempts": 1},
        )


class ErrorLLMAdapter(LLMAdapter):
    """Raises the given error at every call.

    adapter = ErrorLLMAdapter(LLMRateLimitError("slow down", status_code=429))
    """

    def __init__(self, error: LLMError) -> None:
        if not isinstance(error, LLMError):
            raise LLMConfigurationError("ErrorLLMAdapter takes an LLMError: only those leave an adapter.")
        self.error = error

    def execute_prompt(self, prompt: Prompt, config: RunConfig | None = None) -> LLMResponse:
        check_prompt(prompt)
        # Without it, each raise would add its frames to those of the ones before.
        raise self.error.with_traceback(None)

    async def async_execute_prompt(self, prompt: Prompt, config: RunConfig | None = None) -> LLMResponse:
        return self.execute_prompt(prompt, config)


def _answerer(reply: Reply) -> Callable[[str, int], One]:
    if isinstance(reply, One):
        return lambda _prompt, _number: reply
    if callable(reply):
        return lambda prompt, _number: _checked(reply(prompt))
    replies = [_checked(one) for one in reply] if isinstance(reply, Iterable) else [_checked(reply)]
    if not replies:
        raise LLMConfigurationError("MockLLMAdapter needs at least one reply.")
    return lambda _prompt, number: replies[min(number, len(replies)) - 1]


def _checked(reply: object) -> One:
    if isinstance(reply, One):
        return reply
    kind = reply.__name__ if isinstance(reply, type) else f"a {type(reply).__name__}"
    raise LLMConfigurationError(f"A reply of MockLLMAdapter is a text, an LLMResponse or an exception, not {kind}.")

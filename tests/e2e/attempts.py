"""200 attempts to call, of which a cap pays for 20: one after the other, in one gather, and in 32 threads."""

from __future__ import annotations

import threading
from collections.abc import Callable

from llm_connect import LLMAdapter, LLMBudgetExceededError, LLMResponse, RunConfig

#: 425 ASCII characters, which the embedded provider bills as 100 tokens.
PROMPT = "x" * 425
ATTEMPTS = 200
CALLS = 20
THREADS = 32


def attempt(adapter: LLMAdapter, config: RunConfig) -> LLMResponse | None:
    """The answer, or None when the budget refuses the call."""
    try:
        return adapter.execute_prompt(PROMPT, config)
    except LLMBudgetExceededError:
        return None


async def aattempt(adapter: LLMAdapter, config: RunConfig) -> LLMResponse | None:
    """Like `attempt`, for a coroutine."""
    try:
        return await adapter.async_execute_prompt(PROMPT, config)
    except LLMBudgetExceededError:
        return None


def in_threads(once: Callable[[int], LLMResponse | None]) -> list[LLMResponse | None]:
    """What all attempts, each with its number, come to when the threads share them."""
    answers: list[LLMResponse | None] = []
    turns = iter(range(ATTEMPTS))

    def work() -> None:
        while (turn := next(turns, None)) is not None:
            answers.append(once(turn))

    threads = [threading.Thread(target=work) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers

"""Four adapters under one budget, and a chain of three agents."""

from __future__ import annotations

import asyncio

from llm_connect.budget.tracker import BudgetTracker
from llm_connect.errors import LLMBudgetExceededError
from llm_connect.interface.config import RunConfig
from llm_connect.testing.mock import MockLLMAdapter
from llm_connect.types.response import LLMResponse
from tests.budget.budget_helpers import at_rest


async def test_four_mocks_share_one_budget() -> None:
    """Forty calls of four adapters in one gather: as many as fit are made, and the cap holds (BUDGET-1, BUDGET-2)."""
    tracker = BudgetTracker(600, total_calls=25)
    config = RunConfig(budget_tracker=tracker, max_tokens=15, timeout_seconds=30)
    adapters = [MockLLMAdapter(f"mock {number}", delay_seconds=0.001) for number in range(4)]
    calls = [adapter.async_execute_prompt("12345", config) for _ in range(10) for adapter in adapters]
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert sum(isinstance(result, LLMResponse) for result in results) == 25
    assert {error.unit for error in results if isinstance(error, LLMBudgetExceededError)} == {"calls"}
    assert (tracker.spent, tracker.spent_calls) == (500, 25)
    assert sum(len(adapter.calls) for adapter in adapters) == 25
    at_rest(tracker)


async def test_a_chain_of_agents_keeps_every_ceiling() -> None:
    """A calls B, and B calls C, each with its own limit, in ten chains at once: no limit is exceeded (BUDGET-1,
    BUDGET-4).
    """
    tracker = BudgetTracker(2_000)
    a, b, c = (MockLLMAdapter(name) for name in "abc")
    config_a = RunConfig(budget_tracker=tracker, max_tokens=15, timeout_seconds=30)
    config_b = config_a.delegate("b", total=200, max_tokens=15)
    config_c = config_b.delegate("c", total=100, max_tokens=15)

    async def chain() -> str:
        answers = [await a.async_execute_prompt("12345", config_a)]
        for adapter, config in ((b, config_b), (c, config_c), (c, config_c)):
            answers.append(await adapter.async_execute_prompt("12345", config))
        return " ".join(answer.content for answer in answers)

    results = await asyncio.gather(*(chain() for _ in range(10)), return_exceptions=True)
    refused = [error for error in results if isinstance(error, LLMBudgetExceededError)]
    assert {error.path for error in refused} <= {"budget/b", "budget/b/c"}
    assert set(results) - set(refused) <= {"a b c c"}
    assert config_b.budget_tracker is not None
    assert config_c.budget_tracker is not None
    assert config_b.budget_tracker.spent <= 200
    assert config_c.budget_tracker.spent == 20 * len(c.calls) <= 100
    assert tracker.spent == 20 * (len(a.calls) + len(b.calls) + len(c.calls))
    at_rest(tracker)

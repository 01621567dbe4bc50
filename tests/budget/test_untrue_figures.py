"""Untrue and invalid figures in the answers of adapters that do not know about budgets."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import AsyncGenerator, Callable, Generator
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_connect.budget.accounting.prices import Price
from llm_connect.budget.tracker import BudgetTracker
from llm_connect.interface.adapter import LLMAdapter
from llm_connect.interface.config import RunConfig
from llm_connect.interface.streams import AsyncLLMStream, LLMStream
from llm_connect.types.response import LLMResponse
from llm_connect.types.usage import MOST_TOKENS, Usage
from tests.budget.budget_helpers import at_rest, outcomes
from tests.budget.metered_adapters import PROMPT, answer, config_of


class Says(LLMAdapter):
    """An adapter that gives one response, in all four forms of a call."""

    def __init__(self, response: LLMResponse, price: Price | None = None) -> None:
        self.response = response
        self.price = price

    def execute_prompt(self, prompt: str, config: RunConfig | None = None) -> LLMResponse:
        return self.response

    async def async_execute_prompt(self, prompt: str, config: RunConfig | None = None) -> LLMResponse:
        return self.response

    def stream_prompt(self, prompt: str, config: RunConfig | None = None) -> LLMStream:
        return LLMStream.of(self._pieces())

    def async_stream_prompt(self, prompt: str, config: RunConfig | None = None) -> AsyncLLMStream:
        return AsyncLLMStream.of(self._apieces())

    def _pieces(self) -> Generator[str | LLMResponse]:
        yield self.response.content
        yield self.response

    async def _apieces(self) -> AsyncGenerator[str | LLMResponse]:
        yield self.response.content
        yield self.response


def ask(adapter: LLMAdapter, config: RunConfig) -> LLMResponse:
    return adapter.execute_prompt(PROMPT, config)


def ask_async(adapter: LLMAdapter, config: RunConfig) -> LLMResponse:
    return asyncio.run(adapter.async_execute_prompt(PROMPT, config))


def ask_stream(adapter: LLMAdapter, config: RunConfig) -> LLMResponse:
    with adapter.stream_prompt(PROMPT, config) as stream:
        list(stream)
    return stream.response


def ask_async_stream(adapter: LLMAdapter, config: RunConfig) -> LLMResponse:
    async def read() -> LLMResponse:
        async with adapter.async_stream_prompt(PROMPT, config) as stream:
            async for _ in stream:
                pass
        return stream.response

    return asyncio.run(read())


each_way = pytest.mark.parametrize("way", [ask, ask_async, ask_stream, ask_async_stream])

UNTRUE: list[Any] = [
    Usage(prompt_tokens=0, completion_tokens=0),
    Usage(prompt_tokens=0, completion_tokens=95),
    Usage(prompt_tokens=5, completion_tokens=0),
    Usage(prompt_tokens=5, completion_tokens=-1),
    Usage(prompt_tokens=5, completion_tokens=MOST_TOKENS + 1),
    Usage(prompt_tokens=10**5_000, completion_tokens=10**5_000),
    Usage(prompt_tokens=5, completion_tokens=5, cached_tokens="x"),  # type: ignore[arg-type]
    Usage(prompt_tokens=5, completion_tokens=5, reasoning_tokens=2**70),
    Usage(prompt_tokens=True, completion_tokens=True),
    Usage(prompt_tokens="5", completion_tokens="5"),  # type: ignore[arg-type]
    {"prompt_tokens": 5, "completion_tokens": 5},
    object(),
    None,
]


@each_way
@pytest.mark.parametrize("usage", UNTRUE, ids=lambda usage: type(usage).__name__)
def test_a_usage_that_cannot_be_true_books_the_bound(way: Callable[..., LLMResponse], usage: Any) -> None:
    """The answer is returned unchanged, its call is presumed, and the budget goes on. (BUDGET-3)"""
    tracker, paid = BudgetTracker(1_000), dataclasses.replace(answer(), usage=usage)
    assert way(Says(paid), config_of(tracker)) is paid
    assert (outcomes(tracker), tracker.spent) == (["presumed"], 100)
    assert str(tracker)
    at_rest(tracker)
    with tracker.reserve(900):
        pass


@each_way
@pytest.mark.parametrize("cost", ["abc", float("nan"), 1e308, -1, object(), [], Decimal("Infinity"), Decimal("1e40")])
def test_an_invalid_cost_books_the_bound(way: Callable[..., LLMResponse], cost: Any) -> None:
    """No exception about a figure leaves the call, neither of Decimal nor a TypeError. (BUDGET-3)"""
    tracker, paid = BudgetTracker(total=1_000, total_usd="1"), dataclasses.replace(answer(), cost=cost)
    assert way(Says(paid, Price(prompt=1_000, completion=1_000)), config_of(tracker)) is paid
    assert (tracker.spent, tracker.spent_usd) == (100, Decimal("0.1"))
    assert str(tracker)
    at_rest(tracker)


@pytest.mark.parametrize("finish", ["length", "tool_calls"])
def test_a_limit_that_was_reached_and_a_call_are_output(finish: Any) -> None:
    """An answer that reached its limit or called a tool has output, even without text, so a usage without output
    cannot be true. (BUDGET-3)
    """
    tracker, usage = BudgetTracker(1_000), Usage(prompt_tokens=5, completion_tokens=0)
    ask(Says(dataclasses.replace(answer(), content="", usage=usage, finish_reason=finish)), config_of(tracker))
    ask(Says(dataclasses.replace(answer(), content="", usage=usage)), config_of(tracker))
    assert outcomes(tracker) == ["presumed", "settled"]


def test_a_cost_of_zero_counts_only_where_the_price_is_free() -> None:
    """A cost of 0 beside a price is ignored, and the price determines the cost. (BUDGET-12)"""
    paid = dataclasses.replace(answer(), cost=Decimal(0), cost_source="provider")
    for price, usd in ((Price(prompt=1_000, completion=1_000), "0.1"), (Price.free(), "0")):
        tracker = BudgetTracker(total_usd="1")
        ask(Says(paid, price), config_of(tracker))
        assert tracker.spent_usd == Decimal(usd)


def test_an_invalid_figure_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """The log says that an estimate replaces the figure, and does not show it."""
    odd: Any = "sk-secret"
    with caplog.at_level(logging.WARNING, "llm_connect"):
        ask(Says(dataclasses.replace(answer(), cost=odd)), config_of(BudgetTracker()))
    assert "an estimate replaces it" in caplog.text
    assert "sk-secret" not in caplog.text


odd = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | st.just(10**5_000) | st.decimals()


@settings(deadline=None, max_examples=200)
@given(figures=st.tuples(odd, odd, odd, odd, odd), cost=odd)
def test_whatever_stands_for_a_figure_the_answer_comes(figures: tuple[Any, ...], cost: Any) -> None:
    """For any figures the call returns its answer, and books a number. (BUDGET-3)"""
    names = ("prompt_tokens", "completion_tokens", "cached_tokens", "cache_write_tokens", "reasoning_tokens")
    paid = dataclasses.replace(answer(), usage=Usage(**dict(zip(names, figures, strict=True))), cost=cost)
    tracker = BudgetTracker(total=10**9, total_usd=10**9)
    assert ask(Says(paid, Price(prompt=1, completion=1, cached=2)), config_of(tracker)) is paid
    at_rest(tracker)
    assert str(tracker)
    assert 0 < tracker.spent <= 2 * MOST_TOKENS

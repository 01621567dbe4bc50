"""Spending from budgets, for tests that lose their store, until it is refused or up to the end."""

from __future__ import annotations

import contextvars
from collections.abc import Callable
from typing import Any, TypeVar

from llm_connect.core.budget import BudgetTracker
from llm_connect.core.exceptions import LLMBudgetExceededError, LLMStoreError
from tests.core.budget_helpers import at_rest

E = TypeVar("E", bound=Exception)


def hold_of(budget: BudgetTracker, tokens: int, **details: Any) -> Any:
    """A hold that is not the caller's own, so that others may wait for it."""
    return contextvars.Context().run(budget.reserve, tokens, **details)


def spend(budget: BudgetTracker, bound: int, used: int | None = None, **details: Any) -> int:
    with budget.reserve(bound, **details) as hold:
        hold.dispatch()
        hold.settle(bound if used is None else used)
    return bound if used is None else used


def spend_all(budget: BudgetTracker, bound: int, used: int | None = None, **details: Any) -> int:
    """Spend until the store refuses; what was spent."""
    return until_refused(LLMStoreError, lambda: spend(budget, bound, used, **details))[0]


def until_refused(kind: type[E], work: Callable[[], int]) -> tuple[int, E]:
    """The sum of what `work` comes to until it is refused, and the refusal."""
    total = 0
    while True:
        try:
            total += work()
        except kind as error:
            return total, error


def closed_with(budget: BudgetTracker, spent: int) -> None:
    """The budget has spent so much, nothing is held once it is closed, and its entries add up."""
    budget.close()
    assert budget.snapshot().spent.tokens == spent
    at_rest(budget)


def consume_all(budget: BudgetTracker, size: int) -> int:
    def consume() -> int:
        budget.consume(size)
        return size

    return until_refused(LLMBudgetExceededError, consume)[0]

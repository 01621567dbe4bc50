"""The part of an adapter that metering and streams use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from llm_connect.budget.accounting.bounds import Bound
    from llm_connect.budget.accounting.prices import Price
    from llm_connect.budget.tracker import BudgetTracker
    from llm_connect.interface.config import RunConfig
    from llm_connect.types.response import LLMResponse, Prompt


class Metered(Protocol):
    """The part of an `LLMAdapter` that provides the budget, the bound, the price and the answer of a call."""

    @property
    def budget_tracker(self) -> BudgetTracker | None: ...
    @property
    def price(self) -> Price | None: ...

    @property
    def _why_no_price(self) -> str: ...

    def execute_prompt(self, prompt: Prompt, config: RunConfig | None = None) -> LLMResponse: ...
    async def async_execute_prompt(self, prompt: Prompt, config: RunConfig | None = None) -> LLMResponse: ...
    def bound(self, prompt: Prompt, config: RunConfig) -> Bound: ...
    def price_for(self, model: str | None, config: RunConfig) -> Price | None: ...

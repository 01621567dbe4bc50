"""Adapters that break one rule about the budget of a call."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from llm_connect import BudgetTracker, LLMConfigurationError, LLMResponse, RunConfig, Usage
from llm_connect.budget.accounting.bounds import Bound
from llm_connect.budget.admission.holds import Hold
from tests.testing.breaking import breaks
from tests.testing.good_adapters import Good, GoodByItself


@breaks("call_is_metered")
class PassesTheTracker(Good):
    metered = False

    def execute_prompt(self, prompt: Any, config: RunConfig | None = None) -> LLMResponse:
        return self.call(prompt, config or RunConfig())

    async def async_execute_prompt(self, prompt: Any, config: RunConfig | None = None) -> LLMResponse:
        return await self.acall(prompt, config or RunConfig())


@breaks("call_is_metered")
class BooksTwice(Good):
    def respond(self, prompt: str, config: RunConfig, usage: Usage) -> LLMResponse:
        response = super().respond(prompt, config, usage)
        if config.budget_tracker is not None:
            config.budget_tracker.record(response.usage.total_tokens)
        return response


@breaks("call_is_metered")
class BooksLessThanItEstimates(GoodByItself):
    def settled(self, hold: Hold, response: LLMResponse) -> LLMResponse:
        hold.settle(1)
        return replace(response, usage=replace(response.usage, estimated=True))


@breaks("answered_call_ends_its_hold")
class ForgetsAHold(Good):
    forgotten: list[Hold]

    def respond(self, prompt: str, config: RunConfig, usage: Usage) -> LLMResponse:
        response = super().respond(prompt, config, usage)
        if config.budget_tracker is not None:
            self.__dict__.setdefault("forgotten", []).append(config.budget_tracker.reserve(0))
        return response


@breaks("bound_covers_the_call")
class CountsFourCharactersAToken(Good):
    def bound(self, prompt: Any, config: RunConfig) -> Bound:
        return Bound(prompt_tokens=len(prompt) // 4, max_tokens=config.max_tokens or 100)


@breaks("bound_covers_the_call")
class IsSure(Good):
    def bound(self, prompt: Any, config: RunConfig) -> Bound:
        return replace(super().bound(prompt, config), grade="sure")  # type: ignore[arg-type]


@breaks("hold_covers_the_call")
class HoldsHalf(GoodByItself):
    def asked(self, prompt: str, config: RunConfig, tracker: BudgetTracker) -> tuple[int, dict[str, Any]]:
        limit, asked = super().asked(prompt, config, tracker)
        return limit, asked | {"tokens": asked["tokens"] // 2} if tracker.name == "conformance" else asked


@breaks("ledger_keeps_labels")
class LosesLabels(GoodByItself):
    def asked(self, prompt: str, config: RunConfig, tracker: BudgetTracker) -> tuple[int, dict[str, Any]]:
        limit, asked = super().asked(prompt, config, tracker)
        return limit, asked | {"labels": None}


@breaks("call_over_the_cap_is_refused")
class KnowsOfTokensOnly(GoodByItself):
    def asked(self, prompt: str, config: RunConfig, tracker: BudgetTracker) -> tuple[int, dict[str, Any]]:
        limit, asked = super().asked(prompt, config, tracker)
        return limit, asked | {"usd": 0}


@breaks("limit_follows_the_budget")
class HasALimitOfItsOwn(GoodByItself):
    def asked(self, prompt: str, config: RunConfig, tracker: BudgetTracker) -> tuple[int, dict[str, Any]]:
        return super().asked(prompt, replace(config, max_tokens=config.max_tokens or 4_000), tracker)


@breaks("limit_follows_the_budget")
class HoldsALimitAndSendsAnother(GoodByItself):
    def asked(self, prompt: str, config: RunConfig, tracker: BudgetTracker) -> tuple[int, dict[str, Any]]:
        return config.max_tokens or 4_000, super().asked(prompt, config, tracker)[1]


@breaks("own_budget_is_used")
class LooksAtTheConfigOnly(GoodByItself):
    def tracker_of(self, config: RunConfig) -> BudgetTracker | None:
        return config.budget_tracker


@breaks("own_budget_is_used")
class WantsItsBudgetInTheConfig(Good):
    def check(self, prompt: Any, config: RunConfig) -> None:
        super().check(prompt, config)
        if self.budget_tracker is not None and config.budget_tracker is None:
            raise LLMConfigurationError("Give the config a budget_tracker.")


@breaks("delegated_call_counts_on_both")
class BooksAbove(GoodByItself):
    def tracker_of(self, config: RunConfig) -> BudgetTracker | None:
        tracker = super().tracker_of(config)
        return tracker if tracker is None else tracker.parent or tracker


@breaks("books_cover_the_requests")
class RetriesInsideOfOneHold(Good):
    def send(self, prompt: str, config: RunConfig) -> Usage:
        if not self.provider_here.fails and self.provider_here.seconds < 1:
            self.provider_here.receive(prompt, config, billed=False)
        return super().send(prompt, config)


@breaks("books_cover_the_bill")
class CountsTheAnswerOnly(Good):
    def answer(self, usage: Usage) -> dict[str, Any]:
        return super().answer(usage) | {"usage": replace(usage, prompt_tokens=1)}

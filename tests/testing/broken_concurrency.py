"""Adapters that break one rule about calls at the same time, their deadline and their cancellation."""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import replace
from typing import Any

from llm_connect import BudgetTracker, LLMAPIError, LLMBudgetExceededError, LLMResponse, RunConfig, Usage
from llm_connect.budget.admission.holds import Hold
from tests.testing.breaking import breaks
from tests.testing.good_adapters import Good, GoodByItself

# Sharing


@breaks("threads_and_loops_share_one_adapter")
class ServesOneLoopAtATime(Good):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.loops: list[asyncio.AbstractEventLoop] = []

    async def async_execute_prompt(self, prompt: Any, config: RunConfig | None = None) -> LLMResponse:
        self.loops.append(asyncio.get_running_loop())
        try:
            await asyncio.sleep(0.05)
            if len(set(self.loops)) > 1:
                raise RuntimeError("is bound to a different event loop")
            return await super().async_execute_prompt(prompt, config)
        finally:
            self.loops.remove(asyncio.get_running_loop())


@breaks("sync_call_works_in_a_running_loop")
class RunsItsAsyncForm(Good):
    def execute_prompt(self, prompt: Any, config: RunConfig | None = None) -> LLMResponse:
        coroutine = self.async_execute_prompt(prompt, config)
        try:
            return asyncio.run(coroutine)
        finally:
            coroutine.close()


@breaks("call_waits_for_budget")
class NeverWaits(GoodByItself):
    def asked(self, prompt: str, config: RunConfig, tracker: BudgetTracker) -> tuple[int, dict[str, Any]]:
        limit, asked = super().asked(prompt, config, tracker)
        return limit, asked | {"max_wait_seconds": 0}


@breaks("cap_on_calls_holds_for_tasks")
class LooksBeforeItBooksInTasks(GoodByItself):
    async def acall(self, prompt: Any, config: RunConfig) -> LLMResponse:
        tracker = config.budget_tracker
        if tracker is None or tracker.name != "tasks":
            return await super().acall(prompt, config)
        if not tracker.remaining_calls():
            raise LLMBudgetExceededError("Nothing is left.", reason="never_fits")
        response = await super().acall(prompt, replace(config, budget_tracker=None))
        tracker.record(response.usage.total_tokens, calls=1)
        return response


@breaks("cap_on_tokens_holds_for_threads")
class LooksBeforeItBooksInThreads(GoodByItself):
    def call(self, prompt: Any, config: RunConfig) -> LLMResponse:
        tracker = config.budget_tracker
        if tracker is None or tracker.name != "threads":
            return super().call(prompt, config)
        if not tracker.remaining():
            raise LLMBudgetExceededError("Nothing is left.", reason="never_fits")
        time.sleep(0.1)
        response = super().call(prompt, replace(config, budget_tracker=None))
        tracker.record(response.usage.total_tokens, calls=1)
        return response


@breaks("cap_on_tokens_holds_for_threads")
class RefusesWhatFits(GoodByItself):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.one = threading.Lock()

    def call(self, prompt: Any, config: RunConfig) -> LLMResponse:
        tracker = config.budget_tracker
        if tracker is not None and tracker.name == "threads" and not self.one.acquire(blocking=False):
            raise LLMBudgetExceededError("Another one is under way.", reason="refused")
        return super().call(prompt, config)


@breaks("call_waits_for_budget")
class SendsBeforeItWaits(GoodByItself):
    def asked(self, prompt: str, config: RunConfig, tracker: BudgetTracker) -> tuple[int, dict[str, Any]]:
        if tracker.name == "taken":
            self.provider_here.receive(prompt, config)
        return super().asked(prompt, config, tracker)


@breaks("cap_on_calls_holds_for_tasks")
class SendsWhatItThenRefuses(GoodByItself):
    async def acall(self, prompt: Any, config: RunConfig) -> LLMResponse:
        try:
            return await super().acall(prompt, config)
        except LLMBudgetExceededError:
            if config.budget_tracker is not None and config.budget_tracker.name == "tasks":
                self.provider_here.receive(prompt, config)
            raise


@breaks("cap_on_tokens_holds_for_threads")
class ForgetsAHoldWhenBusy(GoodByItself):
    forgotten: list[Hold]

    def settled(self, hold: Hold, response: LLMResponse) -> LLMResponse:
        if hold.tracker.name == "threads":
            self.__dict__.setdefault("forgotten", []).append(hold.tracker.reserve(0))
        return super().settled(hold, response)


@breaks("cap_on_tokens_holds_for_threads")
class BooksLessWhenBusy(GoodByItself):
    def settled(self, hold: Hold, response: LLMResponse) -> LLMResponse:
        if hold.tracker.name == "threads":
            hold.settle(1)
        return super().settled(hold, response)


# Deadline


@breaks("deadline_is_kept")
class KnowsNoDeadline(Good):
    def execute_prompt(self, prompt: Any, config: RunConfig | None = None) -> LLMResponse:
        return super().execute_prompt(prompt, replace(config or RunConfig(), timeout_seconds=300))


@breaks("event_loop_stays_free")
class BlocksTheLoop(Good):
    async def async_execute_prompt(self, prompt: Any, config: RunConfig | None = None) -> LLMResponse:
        return self.execute_prompt(prompt, config)


@breaks("cancellation_passes")
class MakesATimeoutOfACancellation(Good):
    async def async_execute_prompt(self, prompt: Any, config: RunConfig | None = None) -> LLMResponse:
        try:
            return await super().async_execute_prompt(prompt, config)
        except asyncio.CancelledError:
            raise LLMAPIError("good good-1: interrupted.") from None


@breaks("cancellation_passes")
class GoesOnWhenCancelled(Good):
    async def async_execute_prompt(self, prompt: Any, config: RunConfig | None = None) -> LLMResponse:
        try:
            return await super().async_execute_prompt(prompt, config)
        except asyncio.CancelledError:
            return LLMResponse(**self.answer(Usage(prompt_tokens=1, completion_tokens=1)))


@breaks("unanswered_call_ends_its_hold")
class EndsHoldsOnErrorsOnly(GoodByItself):
    forgotten: list[Hold]

    def end(self, hold: Hold, error: BaseException) -> None:
        if isinstance(error, Exception):
            super().end(hold, error)
        else:
            self.__dict__.setdefault("forgotten", []).append(hold)


@breaks("unanswered_call_is_booked")
class ReleasesWhatIsCancelled(GoodByItself):
    def end(self, hold: Hold, error: BaseException) -> None:
        if not isinstance(error, Exception):
            hold.release()
        super().end(hold, error)

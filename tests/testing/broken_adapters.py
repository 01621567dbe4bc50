"""Adapters that break one rule each, in the way that adapters do."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Generator
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from typing import Any, ClassVar

from llm_connect import (
    BudgetTracker,
    LLMAPIError,
    LLMBudgetExceededError,
    LLMConfigurationError,
    LLMError,
    LLMRateLimitError,
    LLMResponse,
    LLMStream,
    RunConfig,
    StreamChunk,
    TextChunk,
    Usage,
)
from llm_connect.core.bounds import Bound
from llm_connect.core.holds import Hold
from tests.testing.good_adapters import KEY, Good, GoodByItself, Letters, Streaming

#: For each rule, the adapters that break it and no other.
BROKEN: dict[str, list[type[Good]]] = {}


def breaks(rule: str) -> Callable[[type[Good]], type[Good]]:
    def added(kind: type[Good]) -> type[Good]:
        BROKEN.setdefault(rule, []).append(kind)
        return kind

    return added


# Answers


@breaks("call_is_answered")
class GivesADict(Good):
    def respond(self, prompt: str, config: RunConfig, usage: Usage) -> Any:
        return super().respond(prompt, config, usage).to_dict()


@breaks("call_is_answered")
class GivesNoText(Good):
    def answer(self, usage: Usage) -> dict[str, Any]:
        return super().answer(usage) | {"content": None}


@breaks("call_is_answered")
class NamesNoModel(Good):
    def answer(self, usage: Usage) -> dict[str, Any]:
        return super().answer(usage) | {"model": ""}


@breaks("config_may_be_left_out")
class NeedsAConfig(Good):
    def execute_prompt(self, prompt: Any, config: RunConfig | None = None) -> LLMResponse:
        assert config is not None
        return super().execute_prompt(prompt, config)


@breaks("config_is_not_changed")
class FillsInItsDefaults(Good):
    def send(self, prompt: str, config: RunConfig) -> Usage:
        config.model_params["stream"] = False  # type: ignore[index]
        return super().send(prompt, config)


@breaks("config_is_not_changed")
class ThawsItsConfig(Good):
    def send(self, prompt: str, config: RunConfig) -> Usage:
        object.__setattr__(config, "temperature", 0.7)
        return super().send(prompt, config)


@breaks("usage_is_in_normal_form")
class CountsCachedTokensExtra(Good):
    def answer(self, usage: Usage) -> dict[str, Any]:
        return super().answer(usage) | {"usage": replace(usage, cached_tokens=usage.prompt_tokens + 1)}


@breaks("usage_is_in_normal_form")
class SaysNothingWasUsed(Good):
    def answer(self, usage: Usage) -> dict[str, Any]:
        return super().answer(usage) | {"usage": Usage(prompt_tokens=0, completion_tokens=0)}


@breaks("usage_is_in_normal_form")
class CountsHalfTokens(Good):
    def answer(self, usage: Usage) -> dict[str, Any]:
        return super().answer(usage) | {"usage": replace(usage, prompt_tokens=usage.prompt_tokens / 4)}


@breaks("usage_is_in_normal_form")
class PassesOnTheProvidersUsage(GoodByItself):
    def settled(self, hold: Hold, response: LLMResponse) -> LLMResponse:
        return replace(super().settled(hold, response), usage=response.usage.to_dict())  # type: ignore[arg-type]


@breaks("finish_reason_is_known")
class PassesOnTheProvidersWord(Good):
    def answer(self, usage: Usage) -> dict[str, Any]:
        return super().answer(usage) | {"finish_reason": "end_turn"}


@breaks("metadata_is_complete")
class SaysNothingOfItself(Good):
    def answer(self, usage: Usage) -> dict[str, Any]:
        return super().answer(usage) | {"metadata": {}}


@breaks("cost_is_decimal_or_none")
class CostsNothingWhereNothingIsKnown(Good):
    def answer(self, usage: Usage) -> dict[str, Any]:
        return super().answer(usage) | {"cost": Decimal(0)}


@breaks("cost_is_decimal_or_none")
class CostsAFloat(Good):
    def answer(self, usage: Usage) -> dict[str, Any]:
        return super().answer(usage) | {"cost": 0.25, "cost_source": "provider"}


@breaks("answer_is_plain_data")
class KeepsAnObject(Good):
    def answer(self, usage: Usage) -> dict[str, Any]:
        fields = super().answer(usage)
        return fields | {"metadata": fields["metadata"] | {"at": datetime.now()}}


@breaks("output_limit_is_kept")
class ForgetsTheLimit(Good):
    def send(self, prompt: str, config: RunConfig) -> Usage:
        return super().send(prompt, replace(config, max_tokens=None))


@breaks("forms_agree")
class ForgetsTheSystemPromptInOneForm(Good):
    async def async_execute_prompt(self, prompt: Any, config: RunConfig | None = None) -> LLMResponse:
        return await super().async_execute_prompt(prompt, replace(config or RunConfig(), system_prompt=None))


# Refusals


@breaks("unsendable_prompt_is_refused")
class ChecksNoPrompt(Good):
    def check(self, prompt: Any, config: RunConfig) -> None:
        super().check("anything", config)

    def send(self, prompt: Any, config: RunConfig) -> Usage:
        return super().send(str(prompt).encode(errors="replace").decode(), config)


@breaks("unsendable_prompt_is_refused")
class LetsTheEncodingFail(Good):
    def check(self, prompt: Any, config: RunConfig) -> None:
        if isinstance(prompt, str):
            prompt.encode()
        super().check(prompt, config)


@breaks("unknown_parameter_is_refused")
class DropsParameters(Good):
    def check(self, prompt: Any, config: RunConfig) -> None:
        super().check(prompt, replace(config, model_params={}))


@breaks("refused_call_is_not_sent")
class SendsFirst(Good):
    def check(self, prompt: Any, config: RunConfig) -> None:
        if config.model_params:
            self.provider_here.receive(prompt, config)
        super().check(prompt, config)


@breaks("refused_call_is_not_sent")
class AsksTheBudgetAfterwards(GoodByItself):
    def asked(self, prompt: str, config: RunConfig, tracker: BudgetTracker) -> tuple[int, dict[str, Any]]:
        if tracker.total == 1:
            self.provider_here.receive(prompt, config)
        return super().asked(prompt, config, tracker)


@breaks("refused_call_costs_nothing")
class SaysThatARefusalIsBilled(Good):
    def check(self, prompt: Any, config: RunConfig) -> None:
        if config.model_params:
            raise LLMConfigurationError("An unknown key.", maybe_billed=True)
        super().check(prompt, config)


@breaks("validate_config_is_pure")
class ValidatesWithNone(Good):
    def validate_config(self, config: RunConfig) -> bool:
        return None  # type: ignore[return-value]


@breaks("validate_config_is_pure")
class ValidatesByACall(Good):
    def validate_config(self, config: RunConfig) -> bool:
        return bool(self.provider_here.receive("ping", config))


@breaks("validate_config_is_pure")
class RaisesInsteadOfFalse(Good):
    def validate_config(self, config: RunConfig) -> bool:
        self.check("x", config)
        return True


@breaks("validate_config_is_pure")
class CorrectsWhatItValidates(Good):
    def validate_config(self, config: RunConfig) -> bool:
        object.__setattr__(config, "temperature", 1.0)
        return True


@breaks("validate_config_is_pure")
class BooksItsValidation(Good):
    def validate_config(self, config: RunConfig) -> bool:
        if config.budget_tracker is not None:
            config.budget_tracker.record(1)
        return True


# Budget


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


# Streams


class _Halves(Letters):
    def given(self, response: LLMResponse) -> Generator[StreamChunk]:
        chunks = list(super().given(response))
        yield from chunks[len(chunks) // 2 :]


@breaks("stream_gives_the_answer")
class LosesTheFirstPieces(Streaming):
    source = _Halves


class _Endless(Letters):
    def given(self, response: LLMResponse) -> Generator[StreamChunk]:
        return (chunk for chunk in super().given(response) if isinstance(chunk, TextChunk))


@breaks("stream_gives_the_answer")
class SaysNoEnd(Streaming):
    source = _Endless


@breaks("stream_is_metered")
class StreamsPastTheBudget(Streaming):
    metered = False

    def stream_prompt(self, prompt: Any, config: RunConfig | None = None) -> LLMStream:
        return LLMStream(Letters(self, prompt, config))


class _Held(Letters):
    """Holds more, and lets go at the end only."""

    forgotten: ClassVar[list[Hold]] = []

    def given(self, response: LLMResponse) -> Generator[StreamChunk]:
        assert self.config.budget_tracker is not None
        self.forgotten.append(self.config.budget_tracker.reserve(1))
        yield from super().given(response)
        self.forgotten.pop().release()


@breaks("left_stream_ends_its_hold")
class HoldsUntilTheEnd(Streaming):
    source = _Held


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


# Errors


@breaks("failure_is_an_llm_error")
class LetsOthersErrorsOut(Good):
    def failure(self, prompt: str) -> Exception:
        return ConnectionError("500")


@breaks("failure_is_an_llm_error")
class AnswersWithTheError(Good):
    def respond(self, prompt: str, config: RunConfig, usage: Usage) -> LLMResponse:
        try:
            return super().respond(prompt, config, usage)
        except LLMAPIError as error:
            return LLMResponse(**self.answer(usage) | {"content": str(error)})


@breaks("forms_fail_alike")
class FailsInTwoWays(Good):
    async def async_execute_prompt(self, prompt: Any, config: RunConfig | None = None) -> LLMResponse:
        try:
            return await super().async_execute_prompt(prompt, config)
        except LLMAPIError:
            raise LLMRateLimitError("good good-1: slow down.", status_code=429) from None


@breaks("error_is_one_line")
class WritesMuch(Good):
    def failure(self, prompt: str) -> Exception:
        return LLMAPIError("It failed:\n\n<html>\n</html>", status_code=500)


@breaks("error_can_be_pickled")
class KeepsALock(Good):
    def failure(self, prompt: str) -> Exception:
        return LLMAPIError("good good-1: 500.", status_code=500, context={"lock": threading.Lock()})


class _Positional(LLMError):
    """Takes another argument than its text, and says so to pickle in its own way."""

    def __init__(self, status: int) -> None:
        super().__init__(f"good good-1: {status}.")
        self.status = status

    def __reduce__(self) -> tuple[Any, ...]:
        return (LLMError, (self.message,))


@breaks("error_can_be_pickled")
class LosesItsKind(Good):
    def failure(self, prompt: str) -> Exception:
        return _Positional(500)


@breaks("error_holds_no_prompt")
class QuotesThePrompt(Good):
    def failure(self, prompt: str) -> Exception:
        return LLMAPIError(f"good good-1: cannot answer {prompt[:30]!r}.", status_code=500)


@breaks("error_holds_no_prompt")
class HasThePromptBehindIt(Good):
    def failure(self, prompt: str) -> Exception:
        return LLMAPIError("good good-1: 500.", status_code=500, cause=ValueError({"messages": [prompt]}))


@breaks("error_holds_no_prompt")
class LogsThePrompt(Good):
    def failure(self, prompt: str) -> Exception:
        logging.getLogger("good").warning("failed for %s", prompt)
        return super().failure(prompt)


@breaks("error_holds_no_key")
class ShowsItsHeaders(Good):
    def failure(self, prompt: str) -> Exception:
        return LLMAPIError("good good-1: 500.", status_code=500, context={"headers": {"authorization": KEY}})


@breaks("repr_holds_no_key")
class ShowsItsKey(Good):
    def __repr__(self) -> str:
        return f"ShowsItsKey({vars(self)})"


@breaks("failed_call_ends_its_hold")
class EndsHoldsOnTimeoutsOnly(GoodByItself):
    forgotten: list[Hold]

    def end(self, hold: Hold, error: BaseException) -> None:
        if isinstance(error, LLMAPIError):
            self.__dict__.setdefault("forgotten", []).append(hold)
        else:
            super().end(hold, error)


@breaks("failed_call_ends_its_hold")
class ReleasesWhatMayBeBilled(GoodByItself):
    def end(self, hold: Hold, error: BaseException) -> None:
        if isinstance(error, LLMAPIError):
            hold.release()
        super().end(hold, error)

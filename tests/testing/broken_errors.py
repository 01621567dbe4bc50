"""Adapters that break one rule about errors: what is refused before it is sent, and what fails."""

from __future__ import annotations

import logging
import threading
from dataclasses import replace
from typing import Any

from llm_connect import (
    BudgetTracker,
    LLMAPIError,
    LLMConfigurationError,
    LLMError,
    LLMRateLimitError,
    LLMResponse,
    RunConfig,
    Usage,
)
from llm_connect.budget.admission.holds import Hold
from tests.testing.breaking import breaks
from tests.testing.good_adapters import KEY, Good, GoodByItself

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

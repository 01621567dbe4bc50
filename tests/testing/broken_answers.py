"""Adapters that break one rule about answers, whole ones or streams."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from typing import Any, ClassVar

from llm_connect import LLMResponse, LLMStream, RunConfig, StreamChunk, TextChunk, Usage
from llm_connect.budget.admission.holds import Hold
from tests.testing.breaking import breaks
from tests.testing.good_adapters import Good, GoodByItself, Letters, Streaming

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

"""`LLMResponse`, the answer to a prompt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Literal, TypeAlias, get_args

from llm_connect.types.usage import Usage

#: The type of a prompt. It is text today; an adapter refuses a type that it does not know.
Prompt: TypeAlias = str

#: Why the model stopped, in one closed set for all providers.
FinishReason: TypeAlias = Literal["stop", "length", "content_filter", "tool_calls", "error", "unknown"]
FINISH_REASONS: tuple[str, ...] = get_args(FinishReason)


@dataclass(frozen=True, slots=True, kw_only=True)
class LLMResponse:
    """The answer to one prompt.

        response = adapter.execute_prompt("Hello")
        print(response.content, response.usage.total_tokens)

    content: the text of the answer. It may be empty: a reasoning model can spend its whole output limit on thinking;
        then `finish_reason` is "length", and `metadata` has a `hint`.
    model: the name of the model as the provider reports it.
    usage: the tokens of the call.
    finish_reason: why the model stopped.
    cost: USD, with its origin in `cost_source`; None if unknown, never 0 for unknown.
    metadata: always contains `provider`, `latency_seconds` and `attempts`, and `request_id` if the provider sent one.
    """

    content: str
    model: str
    usage: Usage
    finish_reason: FinishReason = "stop"
    cost: Decimal | None = None
    cost_source: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The response as data that `json.dumps` accepts; `cost` is text, so no digit is lost."""
        return {
            "content": self.content,
            "model": self.model,
            "usage": self.usage.to_dict(),
            "finish_reason": self.finish_reason,
            "cost": None if self.cost is None else str(self.cost),
            "cost_source": self.cost_source,
            "metadata": dict(self.metadata),
        }

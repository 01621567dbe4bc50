"""What goes into a call and what comes out of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Literal, TypeAlias, get_args

from llm_connect.core.exceptions import LLMConfigurationError

#: What an adapter can be asked. Text today; an adapter refuses a kind that it does not know.
Prompt: TypeAlias = str

#: Why the model stopped, in one closed set for all providers.
FinishReason: TypeAlias = Literal["stop", "length", "content_filter", "tool_calls", "error", "unknown"]
FINISH_REASONS: tuple[str, ...] = get_args(FinishReason)


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens of one call, in one normal form for all providers.

        usage.total_tokens == usage.prompt_tokens + usage.completion_tokens

    `prompt_tokens` is all input and `completion_tokens` all output, thinking included. The other fields are
    parts of these two, never additions. `estimated` is True when the provider did not say.
    """

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    estimated: bool = False

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens

    def to_dict(self) -> dict[str, Any]:
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.total_tokens,
            "cached_tokens": self.cached_tokens,
            "cache_write_tokens": self.cache_write_tokens,
            "reasoning_tokens": self.reasoning_tokens,
            "estimated": self.estimated,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class LLMResponse:
    """The answer to one prompt.

        response = adapter.execute_prompt("Hello")
        print(response.content, response.usage.total_tokens)

    `content` may be empty: a reasoning model can spend its whole limit thinking (`finish_reason` "length",
    and a `hint` in `metadata`). `cost` is in USD and None when it is not known, never 0 for unknown.
    `metadata` always has `provider`, `latency_seconds` and `attempts`, and `request_id` when there is one.
    """

    content: str
    model: str
    usage: Usage
    finish_reason: FinishReason = "stop"
    cost: Decimal | None = None
    cost_source: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain data that `json.dumps` takes; `cost` as text, so that no digit is lost."""
        return {
            "content": self.content,
            "model": self.model,
            "usage": self.usage.to_dict(),
            "finish_reason": self.finish_reason,
            "cost": None if self.cost is None else str(self.cost),
            "cost_source": self.cost_source,
            "metadata": dict(self.metadata),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """How one call is to be made; never changed by an adapter.

        config = RunConfig(system_prompt="Be brief.", max_tokens=300, timeout_seconds=20)
        adapter.execute_prompt("Why is the sky blue?", config)

    model_name: None means the adapter's own model.
    temperature: None means that none is sent.
    max_tokens: limit of the output in tokens, thinking included; None means that none is sent.
    model_params: further parameters; portable keys such as `json_schema` are translated for each provider,
        keys that a provider does not know are refused.
    timeout_seconds: a total over waiting, sending, reading and retries.
    max_retries: further attempts after one that failed in a way that may pass.
    max_depth: how many more times this config may be delegated.
    labels: what the call is for, as short text by name.

    Raises LLMConfigurationError for a value that cannot be meant.
    """

    model_name: str | None = None
    system_prompt: str | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    model_params: Mapping[str, Any] = field(default_factory=dict)
    timeout_seconds: float = 300.0
    max_retries: int = 2
    max_depth: int = 3
    labels: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_text("model_name", self.model_name, may_be_blank=False)
        _check_text("system_prompt", self.system_prompt, may_be_blank=True)
        check_number("temperature", self.temperature, least=0, optional=True)
        check_count("max_tokens", self.max_tokens, least=1, optional=True)
        check_number("timeout_seconds", self.timeout_seconds, above=0)
        check_count("max_retries", self.max_retries, least=0)
        check_count("max_depth", self.max_depth, least=0)
        for name, value_type in (("model_params", object), ("labels", str)):
            value = getattr(self, name)
            _check_mapping(name, value, value_type=value_type)
            object.__setattr__(self, name, dict(value))


def check_prompt(prompt: object) -> None:
    """Refuse what no adapter can send: another kind than text, nothing, or text that UTF-8 cannot encode."""
    if not isinstance(prompt, str):
        raise LLMConfigurationError(
            f"This adapter takes a prompt of type str, not {type(prompt).__name__}: pass the text."
        )
    if not prompt.strip():
        raise LLMConfigurationError("The prompt is empty: pass the text to send.")
    _check_encodable("prompt", prompt)


def check_count(name: str, value: object, *, least: int, optional: bool = False) -> None:
    """Refuse all but a whole number of at least `least` (and None, when optional); True is not a number."""
    if value is None and optional:
        return
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise LLMConfigurationError(f"{name} must be a whole number of at least {least}, not {value!r}.")


def check_number(
    name: str,
    value: object,
    *,
    least: float | None = None,
    above: float | None = None,
    optional: bool = False,
) -> None:
    """Refuse all but a finite number in its range (and None, when optional); True is not a number."""
    if value is None and optional:
        return
    floor = f"at least {least}" if least is not None else f"above {above}"
    wrong = LLMConfigurationError(f"{name} must be a finite number {floor}, not {value!r}.")
    if isinstance(value, bool) or not isinstance(value, int | float) or not _is_finite(value):
        raise wrong
    if (least is not None and value < least) or (above is not None and value <= above):
        raise wrong


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def _check_text(name: str, value: object, *, may_be_blank: bool) -> None:
    if value is None:
        return
    if not isinstance(value, str):
        raise LLMConfigurationError(f"{name} must be text or None, not {type(value).__name__}.")
    if not may_be_blank and not (value.strip() and value.isprintable()):
        raise LLMConfigurationError(f"{name} is blank or more than a line: leave it out, or name one.")
    _check_encodable(name, value)


def _check_encodable(name: str, text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise LLMConfigurationError(
            f"The {name} holds lone surrogates, which UTF-8 cannot encode: decode it with errors='replace'."
        ) from None


def _check_mapping(name: str, value: object, *, value_type: type) -> None:
    fits = isinstance(value, Mapping) and all(
        isinstance(key, str) and isinstance(item, value_type) for key, item in value.items()
    )
    if not fits:
        kind = "text" if value_type is str else "values"
        raise LLMConfigurationError(f"{name} must be a mapping from text to {kind}.")

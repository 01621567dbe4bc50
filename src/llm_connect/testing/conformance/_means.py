"""The arguments of a check."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from llm_connect._validation import check_count, check_number
from llm_connect.errors import LLMConfigurationError
from llm_connect.interface.adapter import LLMAdapter
from llm_connect.interface.attempt import check_prompt
from llm_connect.interface.config import RunConfig

Make: TypeAlias = Callable[[], LLMAdapter]

#: Longer in bytes than in characters, to catch a bound that counts characters.
PROMPT = "Name one colour of the evening sky over lake 1843: 晚霞是什么颜色的?请用一个词回答。"
_SYSTEM_PROMPT = "Answer like the keeper of lighthouse 2975, in a single word."
#: Smaller than an ordinary answer, and the least that every known provider accepts.
_MAX_TOKENS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """The factories of adapters, and the counters of their provider; `check_adapter` documents each."""

    make: Make
    slow: Make | None
    failing: tuple[Make, ...]
    count_requests: Callable[[], int] | None
    billed_tokens: Callable[[], int] | None
    secrets: tuple[str, ...]
    prompt: str
    config: RunConfig
    calls: int
    attempts: int
    deadline_seconds: float
    patience_seconds: float

    def __post_init__(self) -> None:
        functions = [("make", self.make), *(("failing", each) for each in self.failing)]
        optional = {name: getattr(self, name) for name in ("slow", "count_requests", "billed_tokens")}
        functions += [(name, value) for name, value in optional.items() if value is not None]
        for name, value in functions:
            if not callable(value):
                raise LLMConfigurationError(f"{name} must be a function, not {type(value).__name__}.")
        check_prompt(self.prompt)
        check_count("calls", self.calls, least=1)
        check_count("attempts", self.attempts, least=self.calls)
        check_number("deadline_seconds", self.deadline_seconds, above=0)
        check_number("patience_seconds", self.patience_seconds, above=0)

    def missing(self, *names: str) -> list[str]:
        """The names of the arguments that were not given."""
        return [name for name in names if not getattr(self, name)]

    def config_with(self, **changes: Any) -> RunConfig:
        """The config of a call: the given one, completed by the kit's defaults, and with `changes`.

        No two configs share a mapping, so an adapter's changes to one of them show on that one only.
        """
        given = self.config
        own: dict[str, Any] = {
            "system_prompt": given.system_prompt or _SYSTEM_PROMPT,
            "max_tokens": given.max_tokens or _MAX_TOKENS,
            "model_params": copy.deepcopy(dict(given.model_params)),
            "labels": {**given.labels, "checked_by": "conformance kit"},
            "timeout_seconds": self.patience_seconds,
            "max_retries": 0,
            "budget_tracker": None,
            "when_short": "wait",
            "max_wait_seconds": None,
        }
        return replace(given, **{**own, **changes})


def adapter_from(name: str, make: Make) -> LLMAdapter:
    """Make an adapter by the factory `name`. Raises LLMConfigurationError if it is not an LLMAdapter."""
    adapter = make()
    if not isinstance(adapter, LLMAdapter):
        raise LLMConfigurationError(f"{name} must make an LLMAdapter, not {type(adapter).__name__}.")
    return adapter

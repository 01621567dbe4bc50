"""`Usage`, the tokens of one call in the same form for all providers, and checks of its plausibility."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

#: The most tokens that one call can have: ten times the longest context that a provider offers.
MOST_TOKENS = 100_000_000
#: The most USD that one call can cost: a hundred million tokens at a thousand USD per million.
MOST_USD = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """The tokens of one call, in the same form for all providers.

        usage.total_tokens == usage.prompt_tokens + usage.completion_tokens

    prompt_tokens: all input tokens, cached ones included.
    completion_tokens: all output tokens, thinking included.
    cached_tokens, cache_write_tokens: the parts of `prompt_tokens` that were read from a cache, or written to it.
    reasoning_tokens: the part of `completion_tokens` that the model spent on thinking.
    estimated: True if the provider reported no usage, or one that cannot be true.
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


def is_token_count(value: object) -> bool:
    """True if `value` is a number of tokens that a call can have."""
    return type(value) is int and 0 <= value <= MOST_TOKENS


def can_be_true(usage: Usage, *, wrote: bool) -> bool:
    """True if a call can have this usage.

    Every call has input, a call that `wrote` something has output, and no part exceeds its whole.
    """
    figures = (
        usage.prompt_tokens,
        usage.completion_tokens,
        usage.cached_tokens,
        usage.cache_write_tokens,
        usage.reasoning_tokens,
    )
    if not all(map(is_token_count, figures)) or usage.prompt_tokens == 0 or (wrote and usage.completion_tokens == 0):
        return False
    cached, reasoning = max(usage.cached_tokens, usage.cache_write_tokens), usage.reasoning_tokens
    return cached <= usage.prompt_tokens and reasoning <= usage.completion_tokens

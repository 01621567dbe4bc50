"""Tokens of one call, in one normal form for all providers, and which figures can be true."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

#: More tokens than this no call can have: it is ten times the longest context that a provider offers.
MOST_TOKENS = 100_000_000
#: More USD than this no call can cost: it is a hundred million tokens at a thousand USD for a million of them.
MOST_USD = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens of one call, in one normal form for all providers.

        usage.total_tokens == usage.prompt_tokens + usage.completion_tokens

    `prompt_tokens` is all input and `completion_tokens` all output, thinking included. The other fields are
    parts of these two, never additions. `estimated` is True when the provider did not say, or said what cannot be true.
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
    """Whether `value` is a number of tokens that a call can have."""
    return type(value) is int and 0 <= value <= MOST_TOKENS


def can_be_true(usage: Usage, *, wrote: bool) -> bool:
    """Whether a call can have used this.

    No call is without input, none that `wrote` something is without output, and no part is more than its whole.
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

"""Counting the tokens of a prompt before it is sent, for bounds that are tighter than the number of bytes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from llm_connect.errors import LLMConfigurationError

#: An upper bound on the tokens of a text; 0 for None.
Size: TypeAlias = Callable[[str | None], int]


@dataclass(frozen=True, slots=True)
class TokenCounter:
    """A tokenizer for `count_tokens=`, together with its reliability.

        encoding = tiktoken.get_encoding("o200k_base")
        counter = TokenCounter(lambda text: len(encoding.encode(text, disallowed_special=())), exact=True)
        adapter = OpenAIAdapter(model="gpt-4.1-mini", count_tokens=counter)

    count: returns the number of tokens of a text. Every attempt calls it, in its own thread or event loop, so it must
        be quick.
    exact: True if it is the tokenizer of the model that is called. The bound then keeps the grade that it would have by
        bytes; if False, the bound is an estimate. If you pass True for a different tokenizer, spend may exceed a limit
        by the tokens that it missed.

    Raises LLMConfigurationError if `count` is not callable, or `exact` is not a bool.
    """

    count: Callable[[str], int]
    exact: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        if not callable(self.count) or not isinstance(self.exact, bool):
            raise LLMConfigurationError("TokenCounter takes a function from text to a number of tokens, and exact=.")


#: The types of an adapter's `count_tokens`; "provider" means the provider's counting endpoint.
CountTokens: TypeAlias = Callable[[str], int] | TokenCounter | Literal["provider"] | None


def counter_of(count_tokens: CountTokens) -> TokenCounter | None:
    """Normalise `count_tokens` to a TokenCounter; None stays None. Raises LLMConfigurationError for anything else."""
    if count_tokens is None or isinstance(count_tokens, TokenCounter):
        return count_tokens
    if callable(count_tokens):
        return TokenCounter(count_tokens)
    if count_tokens == "provider":
        raise LLMConfigurationError(
            "count_tokens='provider' needs a counting endpoint (Gemini, or OpenAI with api='responses'), and this "
            "adapter has none: pass a tokenizer."
        )
    kind = type(count_tokens).__name__
    raise LLMConfigurationError(f"count_tokens must be a function from text to a number of tokens, not {kind}.")


def measured(size: Size, counter: TokenCounter | None) -> Size:
    """The smaller of `size` and the count of `counter`, for each text."""
    if counter is None:
        return size
    return lambda text: min(size(text), _counted(counter, text)) if text else 0


def _counted(counter: TokenCounter, text: str) -> int:
    count: object = None
    wrong = ""
    try:
        count = counter.count(text)
    except Exception as error:
        # The error and its message may contain the prompt, so only its type is shown.
        wrong = f"raised {type(error).__name__}"
    if isinstance(count, int) and not isinstance(count, bool) and count >= 0:
        return count
    wrong = wrong or f"returned an invalid {type(count).__name__}"
    raise LLMConfigurationError(f"count_tokens {wrong}: it must return a whole number of at least 0 for any text.")

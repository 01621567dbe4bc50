"""Counting the tokens of a prompt before it is sent, which makes a bound tighter than bytes do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from llm_connect.errors import LLMConfigurationError

#: The most tokens that a text can be; no text has none.
Size: TypeAlias = Callable[[str | None], int]


@dataclass(frozen=True, slots=True)
class TokenCounter:
    """A tokenizer for `count_tokens=`, with what its user knows of it.

        encoding = tiktoken.get_encoding("o200k_base")
        counter = TokenCounter(lambda text: len(encoding.encode(text, disallowed_special=())), exact=True)
        adapter = OpenAIAdapter(model="gpt-4.1-mini", count_tokens=counter)

    count: the tokens of a text. It is called in the thread or event loop of the call, so it must be quick, and for each
        attempt anew.
    exact: True says that it is the tokenizer of the model that is called. A bound then keeps the grade that bytes give
        it; else it is an estimate. When it is not true, the cap may be passed by what was counted too low.

    Raises LLMConfigurationError for a `count` that cannot be called, or an `exact` that is no bool.
    """

    count: Callable[[str], int]
    exact: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        if not callable(self.count) or not isinstance(self.exact, bool):
            raise LLMConfigurationError("TokenCounter takes a function from text to a number of tokens, and exact=.")


#: What `count_tokens` of an adapter may be: a tokenizer, or the counting endpoint of the provider.
CountTokens: TypeAlias = Callable[[str], int] | TokenCounter | Literal["provider"] | None


def counter_of(count_tokens: CountTokens) -> TokenCounter | None:
    """The tokenizer that `count_tokens` is; None for None. Raises LLMConfigurationError for what is none."""
    if count_tokens is None or isinstance(count_tokens, TokenCounter):
        return count_tokens
    if callable(count_tokens):
        return TokenCounter(count_tokens)
    if count_tokens == "provider":
        raise LLMConfigurationError(
            "count_tokens='provider' is for a provider with a counting endpoint, which this adapter has not: Gemini, "
            "or OpenAI with api='responses'. Pass a tokenizer."
        )
    kind = type(count_tokens).__name__
    raise LLMConfigurationError(f"count_tokens must be a function from text to a number of tokens, not {kind}.")


def measured(size: Size, counter: TokenCounter | None) -> Size:
    """`size`, or what `counter` says where that is less."""
    if counter is None:
        return size
    return lambda text: min(size(text), _counted(counter, text)) if text else 0


def _counted(counter: TokenCounter, text: str) -> int:
    said: object = None
    wrong = ""
    try:
        said = counter.count(text)
    except Exception as error:
        # Neither its text nor the error itself, which hold what was counted.
        wrong = f"raised {type(error).__name__}"
    if isinstance(said, int) and not isinstance(said, bool) and said >= 0:
        return said
    wrong = wrong or f"gave a {type(said).__name__} that is no number of tokens"
    raise LLMConfigurationError(f"count_tokens {wrong}: it must give a whole number of at least 0 for any text.")

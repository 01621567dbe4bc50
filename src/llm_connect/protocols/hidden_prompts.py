"""Facts about models: how they read text, and how much their providers add to a prompt.

In 222 recorded plain-text calls the prompt tokens never exceeded the bytes of the request, except where a provider
added a prompt: x-ai/grok-4 counted 687 tokens for a prompt of three words, and OpenAI's pro mode 1,549.
"""

from __future__ import annotations

from functools import lru_cache

#: Families whose plain-text calls, in all records, counted no more than was sent.
_PLAIN_FAMILIES = ("chatgpt-", "claude-", "gemini-", "gemma-", "gpt-", "o1", "o3", "o4")
#: Those of them with a byte-level tokenizer that reads text as it is. Anthropic's published tokenizer, like
#: SentencePiece, normalizes it first.
_OPENAI_FAMILIES = ("chatgpt-", "gpt-", "o1", "o3", "o4")
#: Models that work in several steps, look at a screen, or read and write more than text. Nobody has seen what they
#: read.
_SPECIAL = (
    "agent",
    "audio",
    "computer",
    "image",
    "live",
    "realtime",
    "research",
    "robotics",
    "search",
    "transcribe",
    "tts",
)
_SPECIAL_AT_OPENAI = "-pro"
#: Models that read as much as they find: search results (OpenRouter's ":online", deep research), or the text of a
#: preset at OpenRouter.
_READ_MORE = (":online", "deep-research", "@preset/")
#: The allowance for a prompt that the provider adds, for models without records.
UNKNOWN_MODEL_TOKENS = 2_048

_once_for_each = lru_cache(maxsize=256)


@_once_for_each
def hidden_prompt_tokens(model: str) -> int:
    """The allowance for `model`, with or without a vendor in front of its name (as at OpenRouter)."""
    name = _name(model)
    special = any(word in name for word in _SPECIAL) or (is_openais(model) and _SPECIAL_AT_OPENAI in name)
    return 0 if name.startswith(_PLAIN_FAMILIES) and not special else UNKNOWN_MODEL_TOKENS


@_once_for_each
def reads_more(model: str) -> bool:
    """True if `model` reads more than it is sent, without a limit."""
    return any(sign in model.lower() for sign in _READ_MORE)


@_once_for_each
def is_openais(model: str) -> bool:
    """True if `model` belongs to one of OpenAI's families."""
    return _name(model).startswith(_OPENAI_FAMILIES)


def _name(model: str) -> str:
    return model.rpartition("/")[2].removeprefix("~").lower()

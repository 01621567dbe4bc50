"""What providers add to a prompt: its framing, and for some models a prompt of their own.

Over 222 recorded plain-text calls the prompt tokens never passed the bytes of the request, but for prompts that a
provider added: x-ai/grok-4 counted 687 tokens for a prompt of three words, and OpenAI's pro mode 1,549.
"""

from __future__ import annotations

from collections.abc import Iterable

from llm_connect.core.bounds import normalized_utf8_bytes

#: A message is framed by three or four tokens and a reply primed by three (OpenAI's cookbook): twice that.
FRAMING_TOKENS = 8
#: Families whose plain-text calls were seen to count no more than what was sent.
_PLAIN_FAMILIES = ("chatgpt-", "claude-", "gemini-", "gemma-", "gpt-", "o1", "o3", "o4")
#: Of OpenAI's families, those that work in several steps or search: what they read was seen by nobody.
_OPENAI_FAMILIES = ("gpt-", "o1", "o3", "o4")
_NOT_PLAIN = ("-pro", "search")
#: Tokens allowed for a prompt that the provider adds, for models that nobody has looked at.
UNKNOWN_MODEL_TOKENS = 2_048


def hidden_prompt_tokens(model: str) -> int:
    """The allowance for `model`; a vendor in front of its name, as OpenRouter writes it, does not matter."""
    name = model.rpartition("/")[2].removeprefix("~").lower()
    special = name.startswith(_OPENAI_FAMILIES) and any(word in name for word in _NOT_PLAIN)
    return 0 if name.startswith(_PLAIN_FAMILIES) and not special else UNKNOWN_MODEL_TOKENS


def framed_tokens(texts: Iterable[str]) -> int:
    """What `texts` may come to as input, each with its framing."""
    return sum(FRAMING_TOKENS + normalized_utf8_bytes(part) for part in texts)

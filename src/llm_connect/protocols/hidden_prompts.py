"""What providers add to a prompt, and for which models it is known that they add nothing.

Over 222 recorded plain-text calls the prompt tokens never passed the bytes of the request, but for prompts that a
provider added: x-ai/grok-4 counted 687 tokens for a prompt of three words.
"""

from __future__ import annotations

#: Families whose plain-text calls were seen to count no more than what was sent.
_PLAIN_FAMILIES = ("chatgpt-", "claude-", "gemini-", "gemma-", "gpt-", "o1", "o3", "o4")
#: Tokens allowed for a prompt that the provider adds, for models that nobody has looked at.
UNKNOWN_MODEL_TOKENS = 2_048


def hidden_prompt_tokens(model: str) -> int:
    """The allowance for `model`; a vendor in front of its name, as OpenRouter writes it, does not matter."""
    name = model.rpartition("/")[2].removeprefix("~").lower()
    return 0 if name.startswith(_PLAIN_FAMILIES) else UNKNOWN_MODEL_TOKENS

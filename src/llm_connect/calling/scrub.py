"""Taking keys and prompts out of what a provider says, before it becomes an error's text."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

#: A shorter text is a stand-in, and would blank out letters of ordinary words.
_LEAST_SECRET = 6
#: A run of this many characters that a message shares with a key is a part of it, as where a message was cut;
#: longer than what all keys of a provider begin with.
_KEY_RUN = 12
#: A run of this many characters that a message shares with a prompt is an echo of it.
_ECHO = 20


class Scrubber:
    """Hides `keys` and `prompts` where they stand whole, and any longer part of them, at any depth of dicts."""

    def __init__(self, keys: Iterable[str], prompts: Iterable[str | None] = ()) -> None:
        self._secrets = [("[key]", key, _KEY_RUN) for key in keys if len(key) >= _LEAST_SECRET]
        for prompt in (" ".join(prompt.split()) for prompt in prompts if prompt):
            if len(prompt) >= _LEAST_SECRET:
                self._secrets.append(("[prompt]", prompt, _ECHO))

    def clean(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {name: self.clean(item) for name, item in value.items()}
        if not isinstance(value, str):
            return value
        for sign, secret, run in self._secrets:
            value = _without(value, secret, run, sign)
        return value


def _without(message: str, secret: str, run: int, sign: str) -> str:
    if len(secret) <= run:
        return message.replace(secret, sign)
    if not _may_share(message, secret, run):
        return message
    kept, position = "", 0
    while position < len(message):
        length = _shared_length(message, position, secret, run)
        kept += sign if length else message[position]
        position += length or 1
    return kept


def _may_share(message: str, secret: str, run: int) -> bool:
    """False when they cannot share a run: wherever that began, it would hold a whole block of half its length."""
    half = run // 2
    return any(message[start : start + half] in secret for start in range(0, len(message) - half + 1, half))


def _shared_length(message: str, start: int, secret: str, run: int) -> int:
    end = start + run
    if end > len(message) or message[start:end] not in secret:
        return 0
    while end < len(message) and message[start : end + 1] in secret:
        end += 1
    return end - start

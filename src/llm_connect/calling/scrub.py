"""Taking keys and prompts out of what a provider says, before it becomes an error's text."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

#: A shorter text is a stand-in, and would blank out letters of ordinary words.
_LEAST_SECRET = 6
#: A run of this many characters that a message shares with a prompt is an echo of it.
_ECHO = 20


class Scrubber:
    """Hides `keys` where they stand whole, and any longer part of `prompts`, at any depth of dicts."""

    def __init__(self, keys: Iterable[str], prompts: Iterable[str | None] = ()) -> None:
        self._keys = [key for key in keys if len(key) >= _LEAST_SECRET]
        self._prompts = [" ".join(prompt.split()) for prompt in prompts if prompt]

    def clean(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {name: self.clean(item) for name, item in value.items()}
        if not isinstance(value, str):
            return value
        for key in self._keys:
            value = value.replace(key, "[key]")
        for prompt in self._prompts:
            value = _without_echo(value, prompt)
        return value


def _without_echo(message: str, prompt: str) -> str:
    if _LEAST_SECRET <= len(prompt) <= _ECHO:
        return message.replace(prompt, "[prompt]")
    kept, position = "", 0
    while position < len(message):
        length = _echo_length(message, position, prompt)
        kept += "[prompt]" if length else message[position]
        position += length or 1
    return kept


def _echo_length(message: str, start: int, prompt: str) -> int:
    end = start + _ECHO
    if end > len(message) or message[start:end] not in prompt:
        return 0
    while end < len(message) and message[start : end + 1] in prompt:
        end += 1
    return end - start

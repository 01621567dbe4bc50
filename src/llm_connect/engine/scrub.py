"""Removes keys and prompts from a provider's text before that becomes the text of an error.

A part of the text is kept only if no reading of it (see `spellings`) shows a part of a key or an echo of a prompt, and
if it does not look like an encoding that nobody here can read. The text is shortened before the search, so that the
time depends on the length of the prompts alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import groupby
from typing import Any, overload

from llm_connect.engine.echoes import SecretKey, SecretPrompts
from llm_connect.engine.spellings import Span, readings_of
from llm_connect.protocols.wire import LONGEST_NAME

#: More letters and digits than this, without a word between them, count as an encoding.
_LONGEST_NUMBER = 24
#: The most of a text that is kept.
_MOST_CHARACTERS = 4_096
#: A shorter key is a placeholder, and would blank out letters of ordinary words.
_SHORTEST_KEY = 6
_MOST_PLAIN = 100


class Scrubber:
    """Hides `keys` and `prompts`, whole or in part, in any spelling, at any depth of dicts and lists."""

    def __init__(self, keys: Iterable[str], prompts: Iterable[str | None] = ()) -> None:
        self._keys = [SecretKey(key) for key in keys if len(key) >= _SHORTEST_KEY]
        self._prompts = SecretPrompts(prompts)
        #: Names that show none of the keys, the model's among them: each call has it.
        self._plain: set[str] = set()

    def beside(self, prompts: Iterable[str | None]) -> Scrubber:
        """A scrubber that hides the same keys, and these prompts as well."""
        other = Scrubber((), prompts)
        other._keys = self._keys
        return other

    def clean(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {name: self.clean(item) for name, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.clean(item) for item in value]
        if not isinstance(value, str):
            return value
        text = value[:_MOST_CHARACTERS]
        return self._cleaned(text)

    @overload
    def name(self, value: str) -> str: ...
    @overload
    def name(self, value: None) -> None: ...
    @overload
    def name(self, value: str | None) -> str | None: ...
    def name(self, value: str | None) -> str | None:
        """Clean a request id or model name, which may look like an encoding, and cut it to 200 characters."""
        if not value or value in self._plain:
            return value
        value = value[:LONGEST_NAME]
        if self._prompts.texts or not _PLAIN_NAME.fullmatch(value) or any(key.may_be_in(value) for key in self._keys):
            return self._cleaned(value, may_be_encoded=True)
        if len(self._plain) >= _MOST_PLAIN:
            self._plain.clear()
        self._plain.add(value)
        return value

    def _cleaned(self, text: str, may_be_encoded: bool = False) -> str:
        """`text` without its secrets. An unreadable text is withheld. Never raises."""
        try:
            return self._shown(text, [] if may_be_encoded else _encodings_in(text))
        except Exception:
            return "[withheld]"

    def _shown(self, text: str, encodings: list[Span]) -> str:
        readings = readings_of(text)
        if readings is None:
            return "[withheld]"
        keys = [span for key in self._keys for reading in readings for span in key.spans(reading)]
        return _replaced(text, {"[key]": keys, "[prompt]": self._prompts.spans(readings), "[encoded]": encodings})


def _replaced(text: str, hidden: dict[str, list[Span]]) -> str:
    """Replace each hidden part of `text` by a sign; the first one if several apply."""
    signs = [""] * len(text)
    for sign, spans in reversed(hidden.items()):
        for start, end in spans:
            signs[start:end] = [sign] * (end - start)
    parts = groupby(range(len(text)), signs.__getitem__)
    shown = "".join([sign or "".join([text[at] for at in places]) for sign, places in parts])
    return _REPEATED_SIGN.sub(r"\1", shown)


def _encodings_in(text: str) -> list[Span]:
    """The spans of long runs without a word: encodings, perhaps some that nobody here can read."""
    gaps, start = [], 0
    for word in _WORD.finditer(text):
        gaps.append((start, word.start()))
        start = word.end()
    gaps.append((start, len(text)))
    return [_trimmed(text, *gap) for gap in gaps if len(_SIGN.sub("", text[slice(*gap)])) > _LONGEST_NUMBER]


def _trimmed(text: str, start: int, end: int) -> Span:
    """Remove punctuation, and one short word such as `is`, at both edges."""
    part = text[start:end]
    return start + len(part) - len(_EDGE.sub("", part)), start + len(_EDGE.sub("", part[::-1]))


_PLAIN_NAME = re.compile(r"[A-Za-z0-9]+(?:[._:/@-]{1,2}[A-Za-z0-9]+)*")
_REPEATED_SIGN = re.compile(
    r"(?:\[encoded\]\W{0,3})*(\[(?:key|prompt|encoded)\])(?:\W{0,3}(?:\1|\[encoded\]))*",
)
_EDGE = re.compile(r"""\A[\s.,:;!?'"()]*(?:[a-z]{2}\s+)?""")
_SIGN = re.compile(r"[\W_]+")
#: Ids of the usual forms, timestamps, and words.
_WORD = re.compile(
    r"""(?<![A-Za-z0-9])(?:
        (?:[a-z]{2,16}[-_])?(?:[0-9a-f]{32}|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})
      | (?:req|gen|chatcmpl|resp|msg|org|proj|file|batch|run|thread|asst|call|user)[-_][A-Za-z0-9-]{8,48}
      | \d{4}-\d\d-\d\dT[0-9:.]{5,20}Z?
      | [A-Z]?[a-z]{3,20} | [A-Z]{3,20} | (?:[A-Z]?[a-z]{2,15}|[A-Z]{2,5}){2,5}
    )(?![A-Za-z0-9])""",
    re.VERBOSE,
)

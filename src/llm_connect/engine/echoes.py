"""Finds parts of keys and prompts in the readings of a text."""

from __future__ import annotations

import base64
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import cached_property

from llm_connect.engine.spellings import Reading, Span, fold, unescaped

#: A run of this many letters and digits that a text shares with a key counts as a part of the key.
_KEY_RUN = 8
#: Shorter parts count where they make up half of a key of at least `_LONG_KEY` letters and digits.
_KEY_PIECE = 4
_LONG_KEY = 16
#: A run of this many letters and digits that a text shares with a prompt counts as an echo of it.
_ECHO = 12
#: A shorter prompt may be a word of any text.
_SHORTEST_PROMPT = 6
#: Base64 whose case is lost cannot be decoded. Only the first characters of a prompt are looked for in it.
_MOST_ENCODED = 65_536


class SecretKey:
    """An API key."""

    def __init__(self, key: str) -> None:
        self._key = key
        self._letters = fold(key)
        self._runs = frozenset(run for way in _turned(self._letters) for run in _windows(way, _KEY_RUN))
        self._pieces = {piece: at for at, piece in enumerate(_windows(self._letters, _KEY_PIECE))}

    def spans(self, reading: Reading) -> Iterator[Span]:
        """The spans of parts of the key."""
        if not self._runs:
            whole, text = self._key.lower(), "".join([c.lower() if c.isascii() else c for c in reading.text])
            yield from (reading.span(at, at + len(whole) - 1) for at in _places(whole, text))
            return
        runs = enumerate(_windows(reading.letters, _KEY_RUN))
        yield from [reading.letter_span(at, _KEY_RUN) for at, run in runs if run in self._runs or run in self._spelled]
        if len(self._letters) >= _LONG_KEY:
            yield from self._in_pieces(reading)
            yield from self._shortened(reading)

    def may_be_in(self, name: str) -> bool:
        """False if no part of the key is in `name`, as it is or in an encoding of letters and digits."""
        letters, half = fold(name), _KEY_RUN // 2
        if self._spelled_blocks.isdisjoint([letters[at : at + half] for at in range(0, len(letters), half)]):
            return False
        return not self._spelled.isdisjoint(_windows(letters, _KEY_RUN))

    def _in_pieces(self, reading: Reading) -> list[Span]:
        pieces = enumerate(_windows(reading.letters, _KEY_PIECE))
        found = {at: self._pieces[piece] for at, piece in pieces if piece in self._pieces}
        shown = {place + i for place in found.values() for i in range(_KEY_PIECE)}
        if len(shown) * 2 < len(self._letters):
            return []
        return [reading.letter_span(at, _KEY_PIECE) for at in found]

    def _shortened(self, reading: Reading) -> Iterator[Span]:
        """Find it shortened to `sk-pr***wxyz`, or to its last characters."""
        for match in _SHORTENED.finditer(reading.text):
            head, tail = fold(match[1]), fold(match[2])
            if (len(head) >= _KEY_PIECE and self._letters.startswith(head)) or self._ends_with(tail, 2):
                yield reading.span(match.start(), match.end() - 1)
        for match in _LAST_CHARACTERS.finditer(reading.text):
            if self._ends_with(match.group().lower(), _KEY_PIECE):
                yield reading.span(match.start(), match.end() - 1)

    def _ends_with(self, tail: str, least: int) -> bool:
        return len(tail) >= least and self._letters.endswith(tail)

    @cached_property
    def _spelled(self) -> frozenset[str]:
        """The runs of the key in encodings of letters and digits, which are recognizable even without their case."""
        spelled = [fold(way) for key in _turned(self._key) for way in (key, *_encoded(key.encode(errors="replace")))]
        return frozenset(run for way in spelled for turned in _turned(way) for run in _windows(turned, _KEY_RUN))

    @cached_property
    def _spelled_blocks(self) -> frozenset[str]:
        return frozenset(block for run in self._spelled for block in _windows(run, _KEY_RUN // 2))


class SecretPrompts:
    """The prompts of a call."""

    def __init__(self, prompts: Iterable[str | None]) -> None:
        self.texts: list[str] = [prompt for prompt in prompts if prompt]

    def spans(self, readings: list[Reading]) -> list[Span]:
        """The spans of parts of the prompts."""
        runs: defaultdict[str, list[tuple[Reading, int]]] = defaultdict(list)
        for reading in readings:
            for at, run in enumerate(_windows(reading.letters, _ECHO)):
                for way in _turned(run):
                    runs[way].append((reading, at))
        spans = [reading.letter_span(at, _ECHO) for run in self._shared(runs) for reading, at in runs[run]]
        return spans + [span for reading in readings for span in self._short(reading)]

    def _shared(self, runs: Iterable[str]) -> set[str]:
        runs = frozenset(runs)
        blocks = {block for run in runs for block in _windows(run, _ECHO // 2)}
        return {run for prompt in self._folded for run in _shared(runs, blocks, prompt)}

    def _short(self, reading: Reading) -> Iterator[Span]:
        for prompt in self._folded:
            if len(prompt) < _ECHO:
                yield from (reading.letter_span(at, len(prompt)) for at in _places(prompt, reading.letters))

    @cached_property
    def _folded(self) -> set[str]:
        """The prompts with their own escapes resolved, and their beginnings in base64."""
        forms = {fold(form) for text in self.texts for form in {text, unescaped(text)}}
        begins = [text[:_MOST_ENCODED].encode(errors="replace") for text in self.texts]
        forms.update(fold(way) for begin in begins for way in _aligned(begin))
        return {form for form in forms if len(form) >= _SHORTEST_PROMPT}


def _shared(runs: frozenset[str], blocks: set[str], prompt: str) -> Iterator[str]:
    """Find the `runs` that are in `prompt`. Wherever one is, it contains a whole block of half its length."""
    half = _ECHO // 2
    for at in [at for at in range(0, len(prompt), half) if prompt[at : at + half] in blocks]:
        for start in range(max(0, at - half), at + 1):
            if (run := prompt[start : start + _ECHO]) in runs:
                yield run


def _turned(text: str) -> list[str]:
    """`text` forwards and backwards, both plain and in ROT13."""
    return [way[::step] for way in (text, text.translate(_ROT13)) for step in (1, -1)]


def _windows(text: str, size: int) -> list[str]:
    return [text[at : at + size] for at in range(len(text) - size + 1)]


def _places(part: str, text: str) -> Iterator[int]:
    return (match.start() for match in re.finditer(re.escape(part), text))


def _aligned(text: bytes) -> list[str]:
    return [base64.b64encode(b"\0" * before + text).decode() for before in range(3)]


def _encoded(key: bytes) -> list[str]:
    # By this name Python needs no search for the codec, for which the error of a slow import would wait.
    wide = key.decode().encode("utf-16")[2:]
    return [*_aligned(key), *_aligned(wide), key.hex(), "".join(map(str, key))]


#: The sign for the middle of a key that is shown in part.
_SHORTENED = re.compile(
    r"(?<![\w-])([\w-]*)(?:[*#\u2022]{2,}|\.{2,}|\u2026|[xX]{4,})[*#.\u2022\u2026]*([\w-]*)", re.ASCII
)
_LAST_CHARACTERS = re.compile(r"(?<![A-Za-z0-9])[A-Za-z0-9]{4,6}(?![A-Za-z0-9])")
_ROT13 = str.maketrans(
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz", "NOPQRSTUVWXYZABCDEFGHIJKLMnopqrstuvwxyzabcdefghijklm"
)

"""The readings of a text: with escapes resolved or encodings decoded, and with the origin of each character.

A provider's error may show a key or a prompt as JSON in JSON, in a URL, as HTML, as bytes, in base64 or hex, backwards,
or in pieces. A search for them goes through all readings. Making one takes time linear in the text, and their number is
bounded.
"""

from __future__ import annotations

import binascii
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

Span: TypeAlias = tuple[int, int]

#: The most characters of all readings together; only texts made for the purpose have more.
_MOST_CHARACTERS = 32_768
#: The most levels of nested escapes that are resolved.
_DEEPEST = 6
#: Decoded text counts from this length on.
_LEAST = 8


@dataclass(frozen=True)
class Reading:
    """One reading of a text; its character `i` was `starts[i]` to `ends[i]` of the original."""

    text: str
    starts: Sequence[int]
    ends: Sequence[int]

    def span(self, first: int, last: int) -> Span:
        """The span of the original behind the characters `first` to `last`; a reading may go backwards."""
        return min(self.starts[first], self.starts[last]), max(self.ends[first], self.ends[last])

    @property
    def letters(self) -> str:
        """Its letters and digits, without case and marks."""
        return self._letters_and_places[0]

    def letter_span(self, first: int, length: int) -> Span:
        """The span of the original behind `length` letters and digits, from `first` on."""
        places = self._letters_and_places[1]
        return self.span(places[first], places[first + length - 1])

    @cached_property
    def _letters_and_places(self) -> tuple[str, list[int]]:
        if self.text.isascii():
            places = [i for i, character in enumerate(self.text) if character.isalnum()]
            return "".join([self.text[i] for i in places]).lower(), places
        pieces = [fold(character) for character in self.text]
        return "".join(pieces), [i for i, piece in enumerate(pieces) for _ in piece]


def readings_of(text: str) -> list[Reading] | None:
    """All readings of `text`, beginning with itself; None if they are too many to search."""
    found = [Reading(text, range(len(text)), range(1, len(text) + 1))]
    seen, size = {text}, len(text)
    for reading in found:  # grows by what is found
        for child in _further(reading):
            if child.text in seen:
                continue
            size += len(child.text)
            if size > _MOST_CHARACTERS:
                return None
            seen.add(child.text)
            found.append(child)
    return found


def fold(text: str) -> str:
    """The letters and digits of `text` without case and marks."""
    if text.isascii():
        return text.translate(_ONLY_LETTERS_AND_DIGITS)
    plain = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", _TAGS.sub(_untagged, text)).casefold())
    return _SEPARATORS.sub("", plain)


def unescaped(text: str) -> str:
    """Resolve all nested escapes of `text`."""
    for _ in range(_DEEPEST):
        if (again := _ESCAPE.sub(lambda token: _resolved(token.group()), text)) == text:
            break
        text = again
    return text


def _further(reading: Reading) -> Iterator[Reading]:
    """The readings that one more step makes of a reading."""
    if (plain := _compatible(reading)) is not None:
        yield plain
        return
    backwards = Reading(reading.text[::-1], reading.starts[::-1], reading.ends[::-1])
    if len(_COUNTS.findall(reading.text)) >= _FEWEST_COUNTS:
        yield _without(_COUNTS, reading)
    if odd := _odd_part(reading.text):
        yield _without(_WORDS_BETWEEN, reading)
        yield from _base64(reading, *odd)
        yield from _base64(backwards, len(reading.text) - odd[1], len(reading.text) - odd[0])
    for way in (reading, backwards):
        yield from _uuencoded(way)
    if _MAY_ESCAPE.search(reading.text):
        yield backwards
        yield _without(_WHITE_SPACE, reading)
    if _ESCAPE.search(reading.text):
        yield _without_escapes(reading)
        return
    for way in (reading, backwards):
        yield from _numbers(way)
    if odd:
        yield from _hex(reading, *odd)
        yield from _hex(backwards, len(reading.text) - odd[1], len(reading.text) - odd[0])


# Characters


def _compatible(reading: Reading) -> Reading | None:
    """The same in plain characters if it has wide, mathematical, tagged or invisible ones, or marks; else None."""
    if reading.text.isascii():
        return None
    pieces = [_plain(character) for character in reading.text]
    if all(map(str.__eq__, pieces, reading.text)):
        return None
    return _spread(reading, [(piece, i, i) for i, piece in enumerate(pieces)])


def _plain(character: str) -> str:
    if character.isascii():
        return character
    if unicodedata.category(character) in _NOT_SEEN_ALONE:
        return _TAGS.sub(_untagged, character) if _TAGS.match(character) else ""
    return unicodedata.normalize("NFKC", character)


def _untagged(tag: re.Match[str]) -> str:
    return chr(ord(tag.group()) - 0xE0000)


def _spread(reading: Reading, pieces: list[tuple[str, int, int]]) -> Reading:
    """A reading of `pieces`, each with the first and last character of `reading` that it came from."""
    starts: list[int] = []
    ends: list[int] = []
    for piece, first, last in pieces:
        start, end = reading.span(first, last)
        starts += [start] * len(piece)
        ends += [end] * len(piece)
    return Reading("".join([piece for piece, _, _ in pieces]), starts, ends)


# Escapes


def _without(filler: re.Pattern[str], reading: Reading) -> Reading:
    """The same text joined, if it was in several pieces."""
    kept, done = [], 0
    for match in filler.finditer(reading.text):
        kept.append(slice(done, match.start()))
        done = match.end()
    kept.append(slice(done, None))
    return Reading(
        "".join([reading.text[part] for part in kept]),
        [start for part in kept for start in reading.starts[part]],
        [end for part in kept for end in reading.ends[part]],
    )


def _without_escapes(reading: Reading) -> Reading:
    """The same with all nested escapes resolved."""
    for _ in range(_DEEPEST):
        pieces = list(_resolved_pieces(reading.text))
        if len(pieces) == len(reading.text):
            break
        reading = _spread(reading, pieces)
    return reading


def _resolved_pieces(text: str) -> Iterator[tuple[str, int, int]]:
    done = 0
    for token in _ESCAPE.finditer(text):
        yield from ((text[i], i, i) for i in range(done, token.start()))
        yield _resolved(token.group()), token.start(), token.end() - 1
        done = token.end()
    yield from ((text[i], i, i) for i in range(done, len(text)))


def _resolved(token: str) -> str:
    if token[0] == "&":
        return _entity(token)
    if token[0] == "\\" and token[1] not in "uUx01234567":
        return _LETTER_ESCAPES.get(token[1], token[1])
    if octets := _OCTETS.fullmatch(token):
        return bytes.fromhex(token.replace(octets[1], "")).decode("utf-8", "replace")
    if token[0] == "=":
        return ""
    return _code_points(token)


def _entity(token: str) -> str:
    import html

    return html.unescape(token)


def _code_points(token: str) -> str:
    if token[1].isdigit():
        return chr(int(token[1:], 8))
    codes = [int(code, 16) for code in re.findall("[0-9A-Fa-f]{4,8}|(?<=[{])[0-9A-Fa-f]+", token)]
    if len(codes) == 2:
        return chr(0x10000 + ((codes[0] & 0x3FF) << 10) + (codes[1] & 0x3FF))
    return chr(codes[0]) if codes[0] < 0x110000 else ""


# Encodings


def _odd_part(text: str) -> tuple[int, int] | None:
    """The part from the first to the last piece that is not a plain word or number, if it is long enough to matter."""
    odd = [run for run in _RUN.finditer(text) if not _WORDS.fullmatch(run.group())]
    if not odd or odd[-1].end() - odd[0].start() < _LEAST:
        return None
    return odd[0].start(), odd[-1].end()


def _base64(reading: Reading, start: int, end: int) -> Iterator[Reading]:
    streams = {}
    for alphabet in _BASE64_ALPHABETS:
        at = [i for i in range(start, end) if reading.text[i] in alphabet]
        streams["".join([reading.text[i] for i in at]).translate(_TO_STANDARD)] = at
    for stream, at in streams.items():
        yield from _quartets(reading, stream, at)


def _uuencoded(reading: Reading) -> Iterator[Reading]:
    """The lines of uuencoding in the text: an alphabet without small letters, so nearly no other text is one."""
    for line in _UU_LINE.finditer(reading.text):
        yield from _quartets(reading, line.group().translate(_UU_TO_BASE64), range(*line.span()))


def _quartets(reading: Reading, stream: str, at: Sequence[int]) -> Iterator[Reading]:
    """Decode a stream of base64 from each of its first four characters on; its character `i` was `at[i]`."""
    for offset in range(4):
        decoded = binascii.a2b_base64(stream[offset:] + "A" * (-len(stream[offset:]) % 4))
        yield from _legible(reading, decoded, lambda k, o=offset: _quartet(k, o, at))  # type: ignore[misc]


def _quartet(octet: int, offset: int, at: Sequence[int]) -> tuple[int, int]:
    first = offset + octet // 3 * 4 + octet % 3
    return at[min(first, len(at) - 1)], at[min(first + 1, len(at) - 1)]


def _hex(reading: Reading, start: int, end: int) -> Iterator[Reading]:
    prefixes = {i for prefix in _HEX_PREFIX.finditer(reading.text, start, end) for i in range(*prefix.span())}
    at = [i for i in range(start, end) if reading.text[i] in _HEX_DIGITS and i not in prefixes]
    for offset in range(2):
        digits = at[offset : len(at) - (len(at) - offset) % 2]
        decoded = bytes.fromhex("".join([reading.text[i] for i in digits]))
        yield from _legible(reading, decoded, lambda k, d=digits: (d[2 * k], d[2 * k + 1]))  # type: ignore[misc]


def _numbers(reading: Reading) -> Iterator[Reading]:
    """The lists of character codes in the text."""
    for pattern, base in _CODES:
        tokens = [token for token in pattern.finditer(reading.text) if int(token[1], base) < 256]
        if len(tokens) >= _LEAST:
            decoded = bytes([int(token[1], base) for token in tokens])
            yield from _legible(reading, decoded, lambda k, t=tokens: (t[k].start(), t[k].end() - 1))  # type: ignore[misc]


def _legible(reading: Reading, decoded: bytes, place: Callable[[int], tuple[int, int]]) -> Iterator[Reading]:
    """The parts of the decoded octets that are text; `place` maps an octet to characters of `reading`."""
    for part in _LEGIBLE.finditer(decoded):
        pieces, octet = [], part.start()
        for character in part.group().decode():
            size = len(character.encode())
            pieces.append((character, place(octet)[0], place(octet + size - 1)[1]))
            octet += size
        yield _spread(reading, pieces)


_SEPARATORS = re.compile(r"[\W_]+")
_NOT_SEEN_ALONE = frozenset({"Cf", "Mn", "Me"})
_TAGS = re.compile("[\U000e0020-\U000e007e]")
_ONLY_LETTERS_AND_DIGITS = {code: chr(code).lower() if chr(code).isalnum() else None for code in range(128)}
_HEX = "[0-9A-Fa-f]"
_OCTETS = re.compile(rf"(\\x|%|=){_HEX}{{2}}(?:\1{_HEX}{{2}})*", re.IGNORECASE)
_ESCAPE = re.compile(
    rf"""
    [\\%=&U](?i:  # looked for by its first character, so that a long prompt is passed over quickly
        (?<=\\)(?:
            x[c-f]{_HEX}(?:\\x[89ab]{_HEX}){{1,3}} | x{_HEX}{{2}} | [ux]\{{{_HEX}{{1,6}}\}}
          | ud[89ab]{_HEX}{{2}}\\ud[c-f]{_HEX}{{2}} | (?-i:U){_HEX}{{8}} | u{_HEX}{{4}}
          | [0-3]?[0-7]{{1,2}} | [^ux0-7]
        )
      | (?<=%)(?:[c-f]{_HEX}(?:%[89ab]{_HEX}){{1,3}} | {_HEX}{{2}} | u{_HEX}{{4}})
      | (?<==)(?:[c-f]{_HEX}(?:=[89ab]{_HEX}){{1,3}} | {_HEX}{{2}} | \r?\n)
      | (?<=&)(?:\#\d{{1,7}};? | \#x{_HEX}{{1,6}};? | [a-z][a-z0-9]{{1,31}};)
      | (?<=U)\+{_HEX}{{4,6}}
    )
    """,
    re.VERBOSE | re.ASCII,
)
_MAY_ESCAPE = re.compile(r"[\\%=&]")
_WHITE_SPACE = re.compile(r"\s+")
#: The numbers of numbered pieces. One or two are in any text.
_COUNTS, _FEWEST_COUNTS = re.compile(r"(?<![A-Za-z0-9])\d{1,4}(?![A-Za-z0-9])"), 3
_WORDS_BETWEEN = re.compile(r"\s*(?<![A-Za-z0-9])[A-Z]?[a-z]{3,20}(?![A-Za-z0-9])[\s:,]*")
_LETTER_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "a": "\a", "b": "\b", "f": "\f", "v": "\v"}
_RUN = re.compile(r"(?:\b[A-Za-z0-9]\b[\W_]*){6,}|[A-Za-z0-9]+", re.ASCII)
_WORDS = re.compile(r"[A-Z]?[a-z]{1,20}|[A-Z]{1,20}|(?:[A-Z][a-z]{2,15}){1,4}|\d{1,9}")
_LETTERS_AND_DIGITS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789")
_BASE64_ALPHABETS = tuple(_LETTERS_AND_DIGITS | set(more) for more in ("+/-_", "+/", "-_", ""))
_TO_STANDARD = str.maketrans("-_", "+/")
_UU_LINE = re.compile(r"[!-`][ -`]{11,}")
_UU_TO_BASE64 = str.maketrans(
    "".join(map(chr, range(32, 97))), "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/A"
)
_HEX_DIGITS = frozenset("0123456789abcdefABCDEF")
_HEX_PREFIX = re.compile(r"0x|\\x", re.I)
_CODES = (
    (re.compile(r"(?<![0-9A-Za-z])(\d{2,3})(?![0-9A-Za-z])", re.ASCII), 10),
    (re.compile(r"(?<![0-9A-Za-z])(?:0x)?([0-9A-Fa-f]{2})(?![0-9A-Za-z])"), 16),
    (re.compile(r"(?<![0-9A-Za-z])(?:0o?)?([0-7]{2,3})(?![0-9A-Za-z])"), 8),
    (re.compile(r"(?<![0-9A-Za-z])(?:0b)?([01]{7,8})(?![0-9A-Za-z])"), 2),
)
#: At least eight characters of valid UTF-8; each octet of a match belongs to exactly one of them.
_LEGIBLE = re.compile(
    rb"""(?:
        [\x00\t\n\r\x20-\x7e] | [\xc2-\xdf][\x80-\xbf]
      | \xe0[\xa0-\xbf][\x80-\xbf] | \xed[\x80-\x9f][\x80-\xbf] | [\xe1-\xec\xee\xef][\x80-\xbf]{2}
      | \xf0[\x90-\xbf][\x80-\xbf]{2} | \xf4[\x80-\x8f][\x80-\xbf]{2} | [\xf1-\xf3][\x80-\xbf]{3}
    ){8,}""",
    re.VERBOSE,
)

"""Ways to write a text, for tests that look for what somebody may read from another."""

from __future__ import annotations

import base64
import binascii
import codecs
import html
import json
import quopri
from collections.abc import Callable
from urllib.parse import quote, quote_plus

Spelling = Callable[[str], str]


def _each(form: str, between: str = "") -> Spelling:
    return lambda text: between.join(form.format(c=c, n=ord(c)) for c in text)


def _in_parts(size: int, between: str) -> Spelling:
    return lambda text: between.join(text[at : at + size] for at in range(0, len(text), size))


def _base64(before: str = "") -> Spelling:
    return lambda text: base64.b64encode((before + text).encode()).decode()


def _wide(text: str) -> str:
    return "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in text)


def _bold(text: str) -> str:
    def bold(c: str) -> str:
        for first, code in (("a", 0x1D41A), ("A", 0x1D400), ("0", 0x1D7CE)):
            if c.isascii() and c.isalnum() and 0 <= ord(c) - ord(first) < (10 if first == "0" else 26):
                return chr(code + ord(c) - ord(first))
        return c

    return "".join(map(bold, text))


def _uuencoded(text: str) -> str:
    octets = text.encode()
    return "".join(binascii.b2a_uu(octets[at : at + 45]).decode() for at in range(0, len(octets), 45))


#: Each keeps all of the text: whoever knows it has the text back, but for its case.
SPELLINGS: dict[str, Spelling] = {
    "as it is": lambda text: text,
    "upper case": str.upper,
    "lower case": str.lower,
    "backwards": lambda text: text[::-1],
    "JSON": json.dumps,
    "JSON, all escaped": _each("\\u{n:04x}"),
    "JSON, upper escapes": _each("\\u{n:04X}"),
    "repr": repr,
    "repr of bytes": lambda text: repr(text.encode()),
    "hex escapes": _each("\\x{n:02x}"),
    "octal escapes": _each("\\{n:03o}"),
    "long escapes": _each("\\U{n:08x}"),
    "braced escapes": _each("\\u{{{n:x}}}"),
    "percent where needed": lambda text: quote(text, safe=""),
    "plus": quote_plus,
    "percent": _each("%{n:02x}"),
    "percent, upper": _each("%{n:02X}"),
    "percent twice": _each("%25{n:02x}"),
    "percent u": _each("%u{n:04x}"),
    "HTML where needed": html.escape,
    "HTML decimal": _each("&#{n};"),
    "HTML hex": _each("&#x{n:x};"),
    "HTML hex, upper": _each("&#X{n:X};"),
    "HTML twice": _each("&amp;#{n};"),
    "HTML, open": _each("&#{n}"),
    "quoted-printable": lambda text: quopri.encodestring(text.encode()).decode(),
    "quoted-printable, all": _each("={n:02X}"),
    "base64": _base64(),
    "base64 after one": _base64("x"),
    "base64 after two": _base64("xy"),
    "base64 in a header": _base64("user:"),
    "base64 for addresses": lambda text: base64.urlsafe_b64encode(text.encode()).decode(),
    "base64 without padding": lambda text: base64.b64encode(text.encode()).decode().rstrip("="),
    "base64 of UTF-16": lambda text: base64.b64encode(text.encode("utf-16-le")).decode(),
    "base64 in lines": lambda text: _in_parts(16, "\n")(_base64()(text)),
    "base64 in words": lambda text: _in_parts(4, " ")(_base64()(text)),
    "hex": lambda text: text.encode().hex(),
    "hex, upper": lambda text: text.encode().hex().upper(),
    "hex with colons": lambda text: text.encode().hex(":"),
    "hex with spaces": lambda text: text.encode().hex(" "),
    "hex with prefixes": _each("0x{n:02x}", ", "),
    "numbers": lambda text: str(list(text.encode())),
    "octal numbers": _each("{n:03o}", " "),
    "binary numbers": _each("{n:08b}", " "),
    "code points": _each("U+{n:04X}", " "),
    "uuencoding": _uuencoded,
    "uuencoding in HTML": lambda text: html.escape(_uuencoded(text)),
    "ROT13": lambda text: codecs.encode(text, "rot13"),
    "wide": _wide,
    "bold": _bold,
    "tags": lambda text: "".join(chr(0xE0000 + ord(c)) if c.isascii() else c for c in text),
    "spaces": _in_parts(1, " "),
    "dashes": _in_parts(1, "-"),
    "lines": _in_parts(5, "\n"),
    "parts": _in_parts(6, "' + '"),
    "list": lambda text: json.dumps(list(text)),
    "words between": _in_parts(6, " and then "),
    "zero width": _in_parts(1, "\u200b"),
    "soft hyphens": _in_parts(2, "\u00ad"),
    "combining marks": _in_parts(1, "\u0301"),
    "bidi marks": _in_parts(3, "\u202e"),
}

"""Text of a wanted length: deterministic, one word a token."""

from __future__ import annotations

import re
import zlib
from itertools import cycle, islice

# A token of a reply is a word with the blanks before it; words of more than 16 characters are several tokens.
_TOKEN = re.compile(r"\s*\S{1,16}(?:\s+\Z)?")
_OPENING = ("This", "is", "a", "generated", "answer", "about")
_SENTENCES = (
    "The main point comes first and the details follow in order.",
    "Each part was checked on its own before they were joined.",
    "Two of the cases differ from the rest and deserve a closer look.",
    "Nothing here depends on the time of day or on the machine.",
    "A short summary closes the section so that it can be read alone.",
    "The numbers agree with one another within the stated limits.",
    "Further steps are listed below with the reason for each of them.",
)


def tokens_of(text: str) -> list[str]:
    """The tokens of a reply; joined again they are the text."""
    return _TOKEN.findall(text)


def generated_text(prompt: str, tokens: int, *, variant: int = 0) -> str:
    """`tokens` words about the prompt; the same arguments give the same text."""
    words = [*_OPENING, *_topic(prompt)][:tokens]
    if len(words) < tokens:
        words[-1] += "."
        words += islice(cycle(_filler(prompt, variant)), tokens - len(words))
    return " ".join(words)


def _topic(prompt: str) -> list[str]:
    words = [re.sub(r"\W", "", word)[:12] for word in prompt[:120].split()[:5]]
    return [word for word in words if word] or ["nothing"]


def _filler(prompt: str, variant: int) -> list[str]:
    first = (zlib.crc32(prompt.encode("utf-8", "replace")) + variant) % len(_SENTENCES)
    sentences: list[str] = [*_SENTENCES[first:], *_SENTENCES[:first]]
    return [word for sentence in sentences for word in sentence.split()]

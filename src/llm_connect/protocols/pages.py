"""The words of a reply that is not JSON but plain text, or a page of HTML or XML."""

from __future__ import annotations

import html
import re

_UNSEEN = re.compile(r"<!--.*?(?:-->|\Z)|<(script|style)\b.*?(?:</\1\s*>|\Z)", re.IGNORECASE | re.DOTALL)
_TAG = re.compile(r"<[^>]*(?:>|\Z)")
#: The most of a page that is read.
_MOST_PAGE_BYTES = 8192


def words_of_page(body: bytes) -> str:
    """The text of plain text, HTML or XML; empty if the body is not text."""
    said = body[:_MOST_PAGE_BYTES].decode("utf-8", "replace")
    if said.count("\ufffd") * 10 > len(said):
        return ""
    if said.lstrip()[:1] == "<":
        said = html.unescape(_TAG.sub(" ", _UNSEEN.sub(" ", said)))
    return " ".join(said.split())

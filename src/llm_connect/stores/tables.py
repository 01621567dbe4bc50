"""Tables for a terminal."""

from __future__ import annotations

from typing import Any


def table(head: list[str], rows: list[list[Any]]) -> str:
    """Lay out rows under `head`: figures to the right, text to the left, and `-` for None."""
    cells = [head, *([cell(value) for value in row] for row in rows)]
    widths = [max(len(row[place]) for row in cells) for place in range(len(head))]
    right = [all(_is_figure(row[place]) for row in cells[1:]) for place in range(len(head))]
    lines = [_line(row, widths, right) for row in cells]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def _line(row: list[str], widths: list[int], right: list[bool]) -> str:
    cells = (
        text.rjust(width) if at_right else text.ljust(width)
        for text, width, at_right in zip(row, widths, right, strict=True)
    )
    return "  ".join(cells).rstrip()


def cell(value: Any) -> str:
    """The text of a value in a table."""
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else printable(str(value))


def printable(text: str) -> str:
    """The text on one line, with escapes (`\\x1b`, `\\n`) for control characters and invisible ones."""
    if text.isprintable():
        return text
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


def _is_figure(text: str) -> bool:
    return text == "-" or text.lstrip("-").replace(",", "").replace(".", "").isdigit()

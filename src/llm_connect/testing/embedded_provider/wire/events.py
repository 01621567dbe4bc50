"""A reply as server-sent events, in every format."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

#: Characters of text in one event.
PIECE = 16


@dataclass(frozen=True, slots=True)
class Events:
    """The events of one reply: those before any text, one for each piece of text, and those that end it."""

    opening: tuple[bytes, ...]
    pieces: tuple[bytes, ...]
    closing: tuple[bytes, ...]

    @property
    def all(self) -> tuple[bytes, ...]:
        """All of them, in order."""
        return (*self.opening, *self.pieces, *self.closing)

    def begun(self, pieces: int | None) -> tuple[bytes, ...]:
        """The events after so many pieces; None for all of them."""
        return (*self.opening, *self.pieces[:pieces])


def pieces_of(text: str) -> list[str]:
    """The text in pieces of one event each."""
    return [text[start : start + PIECE] for start in range(0, len(text), PIECE)]


def data(value: Any, *, line_end: str = "\n") -> bytes:
    """An event without a name."""
    return f"data: {json.dumps(value)}{line_end}{line_end}".encode()


def named(event: Mapping[str, Any]) -> bytes:
    """An event that is named by its type."""
    return f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()


def numbered(events: Iterator[dict[str, Any]], start: int = 0) -> tuple[bytes, ...]:
    """Named events that count themselves."""
    return tuple(named({**event, "sequence_number": start + number}) for number, event in enumerate(events))

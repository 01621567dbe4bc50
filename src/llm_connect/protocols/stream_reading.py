"""Reading a reply while it comes: its text piece by piece, and in the end the same reply as without streaming.

A stream is put together into the body that a call without streaming would have got, so that usage, finish reason, cost
and errors are read in one place, by the `parse` of the format.
"""

from __future__ import annotations

import json
from typing import Protocol

from llm_connect.protocols.sse import EventStream
from llm_connect.protocols.wire import JSON, text

_DONE = "[DONE]"


class Assembly(Protocol):
    """How the events of one format become one reply."""

    def add(self, event: JSON) -> str:
        """Take one event; the text that it adds to the answer. An event of an unknown kind adds nothing."""
        ...

    @property
    def body(self) -> JSON:
        """The reply so far, as without streaming."""
        ...

    @property
    def whole(self) -> bool:
        """Whether the answer has come to its end, or to an error."""
        ...

    @property
    def ended(self) -> bool:
        """Whether an event said that no other follows."""
        ...


class Reading(Protocol):
    """A reply while it comes."""

    def feed(self, piece: bytes) -> list[str]:
        """The texts that the next bytes add to the answer."""
        ...

    def end(self) -> list[str]:
        """The texts that come to light by the end of the bytes."""
        ...

    @property
    def ended(self) -> bool:
        """Whether the reply said that it has ended; what follows need not be read."""
        ...

    @property
    def whole(self) -> bool:
        """Whether nothing is missing of what has come."""
        ...

    @property
    def body(self) -> bytes:
        """The body of the reply so far, as without streaming."""
        ...


class EventReading:
    """A reply in server-sent events; one without any event is taken as it is, such as an error or a page."""

    def __init__(self, assembly: Assembly) -> None:
        self._assembly = assembly
        self._events = EventStream()
        self._plain: list[bytes] | None = []
        self._characters = _WholeCharacters()
        self._told_end = False

    def feed(self, piece: bytes) -> list[str]:
        if self._plain is not None:
            self._plain.append(piece)
        return self._added(self._events.feed(piece))

    def end(self) -> list[str]:
        return self._added(self._events.end())

    @property
    def ended(self) -> bool:
        return self._told_end or self._assembly.ended

    @property
    def whole(self) -> bool:
        return self._plain is not None or self._told_end or self._assembly.whole

    @property
    def body(self) -> bytes:
        if self._plain is not None:
            return b"".join(self._plain)
        return json.dumps(self._assembly.body).encode()

    def _added(self, events: list[str]) -> list[str]:
        return list(filter(None, map(self._take, events)))

    def _take(self, data: str) -> str:
        if self.ended:
            return ""
        if data == _DONE:
            self._told_end = True
            return ""
        event = _object(data)
        if event is None:
            return ""
        self._plain = None
        return self._characters.whole(self._assembly.add(event))


class PlainReading:
    """A reply that does not come as a stream: an error, for one."""

    ended = False
    whole = True

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def feed(self, piece: bytes) -> list[str]:
        self._pieces.append(piece)
        return []

    def end(self) -> list[str]:
        return []

    @property
    def body(self) -> bytes:
        return b"".join(self._pieces)


class _WholeCharacters:
    """Joins a character whose two halves (surrogates, in JSON) came in two pieces."""

    def __init__(self) -> None:
        self._half = ""

    def whole(self, piece: str) -> str:
        piece, self._half = self._half + piece, ""
        if "\ud800" <= piece[-1:] <= "\udbff":
            piece, self._half = piece[:-1], piece[-1]
        return text(joined(piece))


def joined(piece: str) -> str:
    """A text whose characters are whole wherever both of their halves are there."""
    if piece.isascii():
        return piece
    return piece.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")


def _object(data: str) -> JSON | None:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None

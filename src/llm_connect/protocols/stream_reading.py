"""Reads a reply while it arrives: its text piece by piece, and in the end the same reply as without streaming.

A stream is assembled into the body of a reply without streaming. So one place reads usage, finish reason, cost and
errors: the `parse` of the format.
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from typing import Protocol

from llm_connect.protocols.error_bodies import said_in, words_of
from llm_connect.protocols.replies import tells_of_error
from llm_connect.protocols.sse import EventStream
from llm_connect.protocols.wire import JSON, loaded, mapping, object_in, objects, text

_DONE = "[DONE]"
#: The names of the events of an answer; None means a line outside of events.
_OF_ANSWERS = (None, "", "message")
#: The fields of an error that may have usage.
_FIGURES = frozenset({"usage", "usageMetadata"})
_OF_ERRORS = re.compile("error|exception|failure", re.IGNORECASE)
#: They explain why an answer has no finish reason, if it has none.
_SUSPECT = frozenset({"errors", "detail", "exception", "error_code"})
#: So do a field of this name, and a word like this, in an event that no answer has.
_OF_TROUBLE = re.compile(r"error|exception|\bfail|\bfault|\babort|\berr\b", re.IGNORECASE)
#: A longer text is not the name of a kind or state.
_LONGEST_WORD = 40
_MOST_STRAYS = 100
#: So many events are read in one go: tens of microseconds each, while other tasks of an event loop wait.
_AT_ONCE = 500
_LOST = "A part of the stream could not be read, so the answer has a gap."


class Assembly(Protocol):
    """How the events of one format become one reply.

    ended: True if an event said that no other follows.
    """

    @property
    def ended(self) -> bool: ...

    def add(self, event: JSON) -> str:
        """Take one event, and return the text that it adds to the answer. Events of unknown kinds add nothing."""
        ...

    def owns(self, event: JSON) -> bool:
        """True if an event is of a kind that this format has."""
        ...

    @property
    def body(self) -> JSON:
        """The reply so far, as without streaming."""
        ...

    @property
    def whole(self) -> bool:
        """True if the answer has ended, normally or by an error."""
        ...


class Reading:
    """A reply while it arrives. This one is not a stream, such as an error: its text is read at the end, from its body.

    ended: True if the reply said that it has ended, so that the rest need not be read.
    behind: True if more has come than was read, so that `go_on` comes before the next bytes.
    """

    def __init__(self) -> None:
        self.ended: bool = False
        self.behind: bool = False
        self._pieces: list[bytes] = []

    def feed(self, piece: bytes) -> list[str]:
        """Return the texts that the next bytes add to the answer."""
        self._pieces.append(piece)
        return []

    def end(self) -> list[str]:
        """Return the texts that only the end of the bytes completes."""
        return []

    def go_on(self) -> list[str]:
        """Read on, and return the texts that this adds to the answer."""
        return []

    @property
    def whole(self) -> bool:
        """True if the reply is complete."""
        return True

    @property
    def body(self) -> bytes:
        """The body of the reply so far, as without streaming."""
        return b"".join(self._pieces)


class EventReading(Reading):
    """A reply in server-sent events. A reply without events, such as an error or a page, is taken as it is.

    Errors arrive in many forms, and all become the one that every assembly knows. Lines and events that do not belong
    to an answer are ignored if the answer is complete without them; otherwise they are the reason that it is not.
    """

    def __init__(self, assembly: Assembly) -> None:
        super().__init__()
        self._assembly = assembly
        self._events = EventStream()
        self._is_plain = True
        self._waiting: deque[tuple[str | None, str | JSON]] = deque()
        self._at_end = self._cut = False
        self._half_character = ""
        self._strays: list[str] = []
        self._unknown: JSON = {}
        self._lost = False

    def feed(self, piece: bytes) -> list[str]:
        if self._is_plain:
            self._pieces.append(piece)
        self._waiting += self._events.feed(piece)
        return self.go_on()

    def end(self) -> list[str]:
        self._at_end = self._cut = True
        texts = self._added(self._events.end())
        self._cut = False
        if self._is_plain:
            self._waiting += _objects_of(super().body)
        return texts + self.go_on()

    def go_on(self) -> list[str]:
        waiting = self._waiting
        texts = self._added([waiting.popleft() for _ in range(min(len(waiting), _AT_ONCE))])
        self.behind: bool = bool(waiting)
        if self._at_end and not waiting and not self.ended:
            self._blame_strays()
        return texts

    @property
    def whole(self) -> bool:
        return self._is_plain or self.ended or self._assembly.whole

    @property
    def body(self) -> bytes:
        return super().body if self._is_plain else json.dumps(self._assembly.body).encode()

    def _added(self, events: Iterable[tuple[str | None, str | JSON]]) -> list[str]:
        return [text for name, data in events if (text := self._take(name, data))]

    def _take(self, name: str | None, data: str | JSON) -> str:
        if self.ended:
            return ""
        if isinstance(data, dict):
            return self._take_object(data)
        if name is None and len(self._strays) == _MOST_STRAYS:
            return ""
        if data[:6] == _DONE and data.strip() == _DONE:
            self._blame_strays(self._unknown)
            self.ended = True
            return ""
        event = _object(data)
        if name and _OF_ERRORS.search(name):
            return self._fail(said_in(data.encode("utf-8", "replace")))
        if event is None:
            return self._take_stray(name, data)
        return "" if name is None and self._is_plain else self._take_object(event)

    def _take_object(self, event: JSON) -> str:
        if self._is_plain:
            self._is_plain, self._pieces = False, []
        if not event.get("choices") and tells_of_error(event) and not event.get("error"):
            return self._fail(event)
        if _is_suspect(event) or not (self._assembly.owns(event) or _is_harmless(event)):
            self._unknown = event
        added = self._assembly.add(event)
        self.ended = self._assembly.ended
        return self._whole_characters(added) if added else ""

    def _whole_characters(self, piece: str) -> str:
        """Join a character whose two halves (surrogates, in JSON) arrived in two pieces."""
        if not self._half_character and piece.isascii():
            return piece
        piece, self._half_character = self._half_character + piece, ""
        if "\ud800" <= piece[-1:] <= "\udbff":
            piece, self._half_character = piece[:-1], piece[-1]
        return text(piece.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass"))

    def _take_stray(self, name: str | None, data: str) -> str:
        """Take data that is not an object, and so no part of an answer, or an object that cannot be read."""
        if data.lstrip()[:1] == "{" and name is not None:
            # A part of the answer is lost, unless the end of the connection cut it off, which says so itself.
            self._lost = self._lost or not (self._cut or self._assembly.whole)
        elif name in _OF_ANSWERS and len(self._strays) < _MOST_STRAYS:
            self._strays.append(data)
        return ""

    def _fail(self, said: object) -> str:
        self._is_plain = False
        figures = {name: value for name, value in mapping(said).items() if name in _FIGURES}
        self._assembly.add({"error": said or "an error without words", **figures})
        self.ended: bool = self._assembly.ended
        return ""

    def _blame_strays(self, unknown: JSON | None = None) -> None:
        """At the end, blame an incomplete answer on the foreign text beside it."""
        if self._lost:
            self._fail(_LOST)
        elif not self._is_plain and not self._assembly.whole:
            said = said_in("\n".join(self._strays).encode("utf-8", "replace")) or unknown
            if said:
                self._fail(said)


def _objects_of(body: bytes) -> Iterable[tuple[str | None, str | JSON]]:
    """The objects of a body that is a list, or has one object per line (NDJSON); else none."""
    written = body.decode("utf-8", "replace")
    with suppress(ValueError, RecursionError):
        whole = loaded(written)
        return [("", one) for one in objects(whole)] if isinstance(whole, list) else ()
    lines = [line for line in written.splitlines() if line and not line.isspace()]
    begun_alike = all(line.startswith("{") for line in lines)
    return [("", line) for line in lines] if begun_alike and lines and _object(lines[0]) else ()


def _is_suspect(event: JSON) -> bool:
    """True if an event that looks like a part of an answer tells of an error as well."""
    return not _SUSPECT.isdisjoint(event) and any(event.get(name) for name in _SUSPECT)


def _is_harmless(event: JSON) -> bool:
    """True if an event that is no part of an answer says nothing about its end, such as one that keeps it alive."""
    words = [value for value in event.values() if isinstance(value, str) and len(value) <= _LONGEST_WORD]
    told = [name for name in event if event[name]] + words
    return words_of(event) == "" and not any(map(_OF_TROUBLE.search, told))


def _object(data: str) -> JSON | None:
    if data[:1] not in "{ \t\r\n":
        return None
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        # It may only have a number that is too long for Python.
        return object_in(data)
    return value if isinstance(value, dict) else None

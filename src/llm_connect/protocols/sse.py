"""Server-sent events: from bytes, cut anywhere, to the data of each event.

Source: the HTML Living Standard, "Interpreting an event stream". There are three differences. An event that the end of
the stream cuts off counts, because some servers omit the last empty line. So does a line that is not a field of an
event, because a gateway may add a text or a page of its own. Some servers omit all empty lines: data that begins an
object, after data that begins none or ends one, begins an event.
"""

from __future__ import annotations

import re
from typing import TypeAlias

#: The name of an event, which is usually empty, and its data. For a line that is not a field: None, and the line.
Event: TypeAlias = tuple[str | None, str]

_BEGINS = (b"{", b"[DONE]")
_IGNORED = frozenset({b"id", b"retry"})
_LINE_END = re.compile(rb"\r\n|\n|\r")
_BOM = b"\xef\xbb\xbf"


class EventStream:
    """Feed it bytes as they arrive, and take the complete events.

    for name, data in events.feed(b'data: {"a": 1}\\n\\n'):
        ...
    """

    def __init__(self) -> None:
        self._line: list[bytes] = []
        self._data: list[bytes] = []
        self._name = ""
        self._begun = False
        self._after_return = False

    def feed(self, piece: bytes) -> list[Event]:
        """The events that `piece` completes."""
        if self._after_return and piece.startswith(b"\n"):
            piece, self._after_return = piece[1:], False
        if not piece:
            return []
        self._after_return = piece.endswith(b"\r")
        first, *others = _LINE_END.split(piece) if b"\r" in piece else piece.split(b"\n")
        self._line.append(first)
        if not others:
            return []
        lines = (self._whole_line(), *others[:-1])
        self._line.append(others[-1])
        return [event for line in lines if (event := self._take(line)) is not None]

    def end(self) -> list[Event]:
        """Return the event that the end of the stream cut off."""
        return [event for line in (self._whole_line(), b"") if (event := self._take(line)) is not None]

    def _whole_line(self) -> bytes:
        line = b"".join(self._line)
        self._line.clear()
        if not self._begun:
            self._begun = True
            line = line.removeprefix(_BOM)
        return line

    def _take(self, line: bytes) -> Event | None:
        """Return the event that a line completes, or None."""
        if not line:
            return self._event()
        field, _, value = line.partition(b":")
        if field == b"data":
            return self._take_data(value.removeprefix(b" "))
        if field == b"event":
            self._name = _text(value.removeprefix(b" "))
        elif field and field not in _IGNORED:
            return None, _text(line)
        return None

    def _take_data(self, value: bytes) -> Event | None:
        before = self._data
        if before and value.startswith(_BEGINS) and (before[-1].endswith(b"}") or not before[0].startswith(b"{")):
            self._data = [value]
            return self._name, _text(b"\n".join(before))
        before.append(value)
        return None

    def _event(self) -> Event | None:
        """Return the event that an empty line ends. Without data it needs a name, which may be an error's."""
        name, self._name = self._name, ""
        if not self._data:
            return (name, "") if name else None
        data, self._data = self._data, []
        return name, _text(b"\n".join(data))


def _text(line: bytes) -> str:
    return line.decode("utf-8", "replace")

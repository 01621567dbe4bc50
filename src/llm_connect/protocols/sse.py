"""Server-sent events: from bytes, cut anywhere, to the data of each event.

Source: the HTML Living Standard, "Interpreting an event stream". Only `data` counts here: our formats say in it what
kind of event it is. Unlike the standard, an event that the end of the stream cuts off is given, too: some servers
leave out the last empty line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_LINE_END = re.compile(rb"\r\n|\n|\r")
_BOM = b"\xef\xbb\xbf"


class EventStream:
    """Feed it what comes, and take the data of the events that are complete.

    for data in events.feed(b'data: {"a": 1}\\n\\n'):
        ...
    """

    def __init__(self) -> None:
        self._line: list[bytes] = []
        self._data: list[bytes] = []
        self._begun = False
        self._after_return = False

    def feed(self, piece: bytes) -> list[str]:
        """The data of each event that `piece` completes."""
        if self._after_return and piece.startswith(b"\n"):
            piece = piece[1:]
        if not piece:
            return []
        self._after_return = piece.endswith(b"\r")
        first, *others = _LINE_END.split(piece) if b"\r" in piece else piece.split(b"\n")
        self._line.append(first)
        if not others:
            return []
        lines = (self._whole_line(), *others[:-1])
        self._line.append(others[-1])
        return [data for line in lines if (data := self._take(line)) is not None]

    def end(self) -> list[str]:
        """The data of an event that the end of the stream cut off."""
        return list(filter(None, (self._take(line) for line in (self._whole_line(), b""))))

    def _whole_line(self) -> bytes:
        line = b"".join(self._line)
        self._line.clear()
        if not self._begun:
            self._begun = True
            line = line.removeprefix(_BOM)
        return line

    def _take(self, line: bytes) -> str | None:
        """What a line completes; None when it is no empty line, or one after nothing."""
        if not line:
            data, self._data = self._data, []
            return b"\n".join(data).decode("utf-8", "replace") if data else None
        name, _, value = line.partition(b":")
        if name == b"data":
            self._data.append(value.removeprefix(b" "))
        return None


def events_in(body: bytes) -> Iterator[str]:
    """The data of all events of a whole body."""
    events = EventStream()
    yield from events.feed(body)
    yield from events.end()

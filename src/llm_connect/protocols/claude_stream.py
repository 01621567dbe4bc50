"""The output of the Claude Code command while it arrives: `--include-partial-messages` adds the reply's events.

Source: the real command (2.1.330), see claude_cli.py.
"""

from __future__ import annotations

from llm_connect.protocols.claude_output import object_of
from llm_connect.protocols.wire import mapping, text


class LinesReading:
    """Reads the lines of one run. The result is parsed from all of them once the command has ended."""

    ended = False
    whole = True
    behind = False

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._line: list[bytes] = []

    def feed(self, piece: bytes) -> list[str]:
        self._pieces.append(piece)
        first, *others = piece.split(b"\n")
        self._line.append(first)
        if not others:
            return []
        lines = (b"".join(self._line), *others[:-1])
        self._line = [others[-1]]
        return list(filter(None, map(_text_in, lines)))

    def end(self) -> list[str]:
        return []

    def go_on(self) -> list[str]:
        return []

    @property
    def body(self) -> bytes:
        return b"".join(self._pieces)


def _text_in(line: bytes) -> str:
    said = object_of(line)
    delta = mapping(mapping(said.get("event")).get("delta"))
    is_text = said.get("type") == "stream_event" and delta.get("type") == "text_delta"
    return text(delta.get("text")) if is_text else ""

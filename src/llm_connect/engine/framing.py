"""Checks the head of a reply on the wire: it must end, be of HTTP/1.1, and give the length of the reply only once.

Also finds the end of the reply, and cuts off the bytes behind it. The libraries differ about those: one would lose the
reply, and another one would take them for the reply to its next request.
"""

from __future__ import annotations

import re

from llm_connect.errors import LLMConnectionError
from llm_connect.protocols.wire import Failure

#: For all heads of one reply together, including those of 1xx. No library that reads them later takes less.
MOST_HEAD_BYTES = 100 * 1024
MOST_FIELDS = 1_000
_END_OF_HEAD = re.compile(rb"\r?\n\r?\n")
_FRAMING = re.compile(rb"\n(content-length|transfer-encoding):[ \t]*([^\r\n]*)", re.IGNORECASE)
_BEGIN = re.compile(rb"HTTP/1\.[01] ([1-9]\d\d)(?: |\r|\n|\Z)")
_INFORMS = re.compile(rb"HTTP/1\.[01] 1")
#: How nearly every reply begins, whose head comes in one piece.
_USUAL = b"HTTP/1.1 200"
_TOO_LONG = f"is longer than {MOST_HEAD_BYTES:,} bytes or {MOST_FIELDS:,} fields"
_NUMBER = re.compile(rb"\d{1,18}")
_SIZE = re.compile(rb"[0-9A-Fa-f]{1,16}(?=[ \t]*(?:;|\Z))")
_LONGEST_LINE = 1 << 16
#: More than any body has.
_ENDLESS = 1 << 62


class BadFraming(Exception):
    """The head leaves open where the reply ends, is too long, or is not one of HTTP/1.1."""

    def __init__(self, what: str = "says its length twice (Content-Length)") -> None:
        super().__init__(what)
        self.what = what

    @property
    def failure(self) -> Failure:
        """Not retryable: the sender would send the same head again."""
        message = f"The head of the reply {self.what}, and is refused: repair the server or proxy at base_url."
        return Failure(kind=LLMConnectionError, message=message)


class ReplyFrame:
    """Reads along from the end of a request to the end of the reply."""

    def __init__(self) -> None:
        self._seen: bytearray | None = None
        self._informed = 0
        self._body: _Counted | _Chunks | None = None
        #: Set when a request is sent: the next bytes begin a new reply.
        self.is_due: bool = False
        #: True once bytes came behind the end of a reply, so that no further reply can be trusted.
        self.overrun: bool = False

    def take(self, data: bytes) -> bytes:
        """Return the bytes of the reply among the next ones. Raises BadFraming."""
        begin = 0
        if self.is_due:
            self.is_due, self._seen, self._informed, self._body = False, bytearray(), 0, None
        if self._seen is not None:
            begin = self._end_of_head(self._seen, data)
            if begin < 0:
                return data
        if self._body is not None:
            end = self._body.end_in(data, begin)
            if end is not None:
                self._body = None
                if end < len(data):
                    self.overrun = True
                    return data[:end]
        return data

    def _end_of_head(self, seen: bytearray, data: bytes) -> int:
        """The place in `data` at which the head ends; -1 if it goes on."""
        if not seen and data.startswith(_USUAL) and (end_of_head := data.find(b"\r\n\r\n")) >= 0:
            self._seen = None
            self._body = _body_after(data[:end_of_head])
            return end_of_head + 4
        begun, before = max(len(seen) - 3, 0), len(seen) + self._informed
        seen += data
        while end := _END_OF_HEAD.search(seen, begun):
            if not _INFORMS.match(seen):
                self._seen = None
                self._body = _body_after(bytes(seen[: end.start()]))
                return end.end() + self._informed - before
            begun, most = 0, end.end()
            del end, seen[:most]
            self._informed += most
        if len(seen) + self._informed > MOST_HEAD_BYTES:
            raise BadFraming(_TOO_LONG)
        return -1


class _Counted:
    """A body with a length."""

    def __init__(self, length: int) -> None:
        self._left = length

    def end_in(self, data: bytes, begin: int) -> int | None:
        """The place in `data` at which the body ends; None if it goes on."""
        end = begin + self._left
        self._left = end - len(data)
        return None if self._left > 0 else end


class _Chunks:
    """A body in chunks. Where it breaks the rules, it has no end, and the library that reads it says so."""

    def __init__(self) -> None:
        #: The bytes of the current chunk that are still to come, with the end of their line.
        self._left = 0
        self._line = b""
        self._is_last = False

    def end_in(self, data: bytes, begin: int) -> int | None:
        """The place in `data` at which the body ends; None if it goes on."""
        at = begin + self._left
        while (line_end := data.find(b"\n", at)) >= 0:
            line = (self._line + data[at:line_end]).strip()
            self._line, at = b"", line_end + 1
            if not self._is_last:
                size = _SIZE.match(line)
                if size is None:
                    self._left = _ENDLESS
                    return None
                length = int(size[0], 16)
                self._is_last = length == 0
                at += length + 2 if length else 0
            elif not line:
                return at
        self._left = max(0, at - len(data))
        self._line += data[at:]
        if len(self._line) > _LONGEST_LINE:
            self._left = _ENDLESS
        return None


def _body_after(head: bytes) -> _Counted | _Chunks | None:
    """Check a head; return the body that it announces, if it says where that ends."""
    if len(head) > MOST_HEAD_BYTES or head.count(b"\n") > MOST_FIELDS:
        raise BadFraming(_TOO_LONG)
    status = _BEGIN.match(head)
    if status is None:
        raise BadFraming("does not begin as one of HTTP/1.1")
    fields = _FRAMING.findall(head)
    if len(fields) == 1 and status[1] != b"204":
        name, value = fields[0]
        if name[:1] in b"Cc" and value.isdigit() and len(value) <= 18:
            # So is nearly every reply.
            return None if status[1] == b"304" else _Counted(int(value))
    lengths = [value.strip(b" \t") for name, value in fields if name[:1] in b"Cc"]
    codings = [value.strip(b" \t") for name, value in fields if name[:1] in b"Tt"]
    if len(lengths) > 1 or any(b"," in length for length in lengths):
        raise BadFraming
    if lengths and codings:
        raise BadFraming("says its length twice (Content-Length beside Transfer-Encoding)")
    if not all(_NUMBER.fullmatch(length) for length in lengths):
        raise BadFraming("has a Content-Length that is not a number of bytes")
    if codings and [coding.lower() for coding in codings] != [b"chunked"]:
        raise BadFraming("has a Transfer-Encoding other than chunked")
    if status[1] == b"204" and (codings or any(map(int, lengths))):
        raise BadFraming("announces content, which its status 204 rules out")
    return _Chunks() if codings and status[1] != b"304" else None

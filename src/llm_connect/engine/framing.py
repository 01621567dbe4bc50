"""Checks the head of a reply on the wire: it must end, be of HTTP/1.1, and give the length of the reply only once."""

from __future__ import annotations

import re

from llm_connect.errors import LLMConnectionError
from llm_connect.protocols.wire import Failure

#: For all heads of one reply together, including those of 1xx.
MOST_HEAD_BYTES = 1 << 20
_END_OF_HEAD = re.compile(rb"\r?\n\r?\n")
_FRAMING = re.compile(rb"\n(content-length|transfer-encoding):[ \t]*([^\r\n]*)", re.IGNORECASE)
_BEGIN = re.compile(rb"HTTP/1\.[01] ([1-9]\d\d)(?: |\r|\n|\Z)")
_INFORMS = re.compile(rb"HTTP/1\.[01] 1")
#: How nearly every reply begins, whose head comes in one piece.
_USUAL = b"HTTP/1.1 200"
_NUMBER = re.compile(rb"\d{1,18}")


class BadFraming(Exception):
    """The head leaves open where the reply ends, or is not one of HTTP/1.1."""

    def __init__(self, what: str = "says its length twice (Content-Length)") -> None:
        super().__init__(what)
        self.what = what

    @property
    def failure(self) -> Failure:
        """Not retryable: the sender would send the same head again."""
        message = f"The head of the reply {self.what}, and is refused: repair the server or proxy at base_url."
        return Failure(kind=LLMConnectionError, message=message)


class ReplyHead:
    """Reads along from the end of a request to the end of the reply's head. Raises BadFraming."""

    def __init__(self) -> None:
        self._seen: bytearray | None = None
        self._informed = 0

    def await_it(self) -> None:
        """Expect the head of a new reply, because a request is sent."""
        self._seen, self._informed = bytearray(), 0

    def take(self, data: bytes) -> None:
        """Look at the next bytes."""
        seen = self._seen
        if seen is None:
            return
        if not seen and data.startswith(_USUAL) and (end_of_head := data.find(b"\r\n\r\n")) >= 0:
            self._seen = None
            _check(data[:end_of_head])
            return
        begun = max(len(seen) - 3, 0)
        seen += data
        while end := _END_OF_HEAD.search(seen, begun):
            if not _INFORMS.match(seen):
                self._seen = None
                _check(bytes(seen[: end.start()]))
                return
            begun, most = 0, end.end()
            del end, seen[:most]
            self._informed += most
        if len(seen) + self._informed > MOST_HEAD_BYTES:
            raise BadFraming("does not end")


def _check(head: bytes) -> None:
    status = _BEGIN.match(head)
    if status is None:
        raise BadFraming("does not begin as one of HTTP/1.1")
    fields = _FRAMING.findall(head)
    if len(fields) == 1 and status[1] != b"204":
        name, value = fields[0]
        if name[:1] in b"Cc" and value.isdigit() and len(value) <= 18:
            # So is nearly every reply.
            return
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

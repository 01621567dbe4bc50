"""Checks the head of a reply on the wire: it must end, and must give the length of the reply only once."""

from __future__ import annotations

from llm_connect.core.exceptions import LLMConnectionError
from llm_connect.protocols.wire import Failure

#: For all heads of one reply together, including those of 1xx.
MOST_HEAD_BYTES = 1 << 20
_LENGTH, _CODING = b"\r\ncontent-length:", b"\r\ntransfer-encoding:"


class BadFraming(Exception):
    """The head leaves the end of the reply ambiguous."""

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
        begun = max(len(seen) - 3, 0)
        seen += data
        while (end := seen.find(b"\r\n\r\n", begun)) >= 0:
            if not seen.startswith(b"HTTP/1.1 1"):
                self._seen = None
                _check(bytes(seen[:end]))
                return
            del seen[: end + 4]
            begun = 0
            self._informed += end
        if len(seen) + self._informed > MOST_HEAD_BYTES:
            raise BadFraming("does not end")


def _check(head: bytes) -> None:
    _, *lengths = head.lower().split(_LENGTH)
    if not lengths:
        return
    if len(lengths) > 1 or b"," in lengths[0].partition(b"\r\n")[0]:
        raise BadFraming
    if _CODING in head.lower():
        raise BadFraming("says its length twice (Content-Length beside Transfer-Encoding)")

"""Connects to the first of several addresses that accepts, within one time limit for all of them (RFC 8305).

An address that drops packets delays the next one by a quarter of a second, and no address can use up the whole time.
"""

from __future__ import annotations

import errno
import os
import selectors
import socket
import time
from asyncio.staggered import staggered_race
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, TypeVar

from llm_connect.engine.names import Address

T = TypeVar("T")

#: After this time the next address is tried as well, while the earlier ones have not answered.
NEXT_AFTER_SECONDS = 0.25
_ON_ITS_WAY = (errno.EINPROGRESS, errno.EALREADY, errno.EWOULDBLOCK, errno.EINTR)


def connect(addresses: Iterable[Address], seconds: float | None, source: Any = None) -> socket.socket:
    """Connect by TCP. Raises TimeoutError after `seconds`, and OSError if no address accepts."""
    left, until = list(addresses), None if seconds is None else time.monotonic() + seconds
    race = _Race(source)
    try:
        while left or race.under_way:
            won = race.begin(left.pop(0)) if left else None
            won = won or race.wait(_patience(until, bool(left)))
            if won is not None:
                return won
            if until is not None and time.monotonic() >= until:
                raise TimeoutError
        raise race.error
    finally:
        race.close()


async def connect_any(attempts: Sequence[Callable[[], Awaitable[T]]]) -> T:
    """Return the result of the first of `attempts` that succeeds; raise the error of the last one if none does."""
    if len(attempts) == 1:
        return await attempts[0]()
    won, index, errors = await staggered_race(attempts, NEXT_AFTER_SECONDS)
    if index is not None:
        return won  # type: ignore[return-value,no-any-return,unused-ignore]
    raise next(error for error in reversed(errors) if error is not None)


def _patience(until: float | None, more: bool) -> float | None:
    left = None if until is None else max(0.0, until - time.monotonic())
    if not more:
        return left
    return NEXT_AFTER_SECONDS if left is None else min(left, NEXT_AFTER_SECONDS)


class _Race:
    """Connections that are under way."""

    def __init__(self, source: Any) -> None:
        self._source = source
        self._selector = selectors.DefaultSelector()
        self.error = OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))

    @property
    def under_way(self) -> bool:
        return bool(self._selector.get_map())

    def begin(self, address: Address) -> socket.socket | None:
        """Try one more address; return the connection if it is made at once."""
        family, kind, protocol, _, place = address
        try:
            one = socket.socket(family, kind, protocol)
        except OSError as error:
            self.error = error
            return None
        try:
            one.setblocking(False)
            if self._source is not None:
                one.bind(self._source)
            return self._judge(one, one.connect_ex(place))
        except BaseException as error:
            one.close()
            if not isinstance(error, OSError):
                raise
            self.error = error
        return None

    def wait(self, seconds: float | None) -> socket.socket | None:
        """Return the first connection that is made within `seconds`."""
        for key, _ in self._selector.select(seconds) if self.under_way else ():
            one = key.fileobj
            assert isinstance(one, socket.socket)
            self._selector.unregister(one)
            won = self._judge(one, one.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
            if won is not None:
                return won
        return None

    def _judge(self, one: socket.socket, code: int) -> socket.socket | None:
        if code in (0, errno.EISCONN):
            return one
        if code in _ON_ITS_WAY:
            self._selector.register(one, selectors.EVENT_WRITE)
            return None
        one.close()
        self.error = OSError(code, os.strerror(code))
        return None

    def close(self) -> None:
        for key in list(self._selector.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]
        self._selector.close()

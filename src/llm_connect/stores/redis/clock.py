"""The clock of a server, which all processes of a budget use for windows."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from llm_connect.budget.admission.clocks import wall_clock

if TYPE_CHECKING:
    from llm_connect.stores.redis.server import Server

#: A reply tells the offset for this many seconds. Later, the machine may have slept, or its clock may have been set.
_GOOD_SECONDS = 10.0
#: A server tells its time in whole milliseconds.
_STEP = 0.001


class ServerClock:
    """The clock of this machine, corrected by its offset from the clock of a server.

    Each reply limits the offset to an interval, as long as the reply took. The offset stays as it is while it lies in
    the interval. So the clock does not jitter, and on the server's own machine the offset is zero.
    """

    def __init__(self) -> None:
        self._ahead = 0.0
        self._heard_at = 0.0

    def __call__(self) -> float:
        return wall_clock() + self._ahead

    @property
    def known(self) -> bool:
        """True if a recent reply has told the time."""
        return 0 <= time.time() - self._heard_at < _GOOD_SECONDS

    def hear(self, moment: float, asked_at: float) -> None:
        """Note that a server, asked at `asked_at`, has just told this time."""
        self._heard_at = time.time()
        least, most = moment - self._heard_at, moment + _STEP - asked_at
        self._ahead = min(max(self._ahead, least), most)


def clock_of(server: Server) -> ServerClock:
    """Ask a server for its time and return its clock."""
    clock, asked_at = ServerClock(), time.time()
    seconds, micros = map(int, server.call("TIME"))
    clock.hear(seconds + micros // 1000 / 1000, asked_at)
    return clock

"""The clock of a server, by which windows move in all processes that use a budget there."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from llm_connect.budget.admission.clocks import wall_clock

if TYPE_CHECKING:
    from llm_connect.stores.redis.server import Server

#: After so many seconds the clock of this machine may be another: it was set, or the machine was asleep.
_GOOD_SECONDS = 10.0
#: A server says its time in whole milliseconds.
_STEP = 0.001


class ServerClock:
    """The difference between the clock of a server and this machine's, as its replies show it.

    Each reply says that it is between two figures, as far apart as the reply took. It is taken to be what it was while
    that can be: so the clock does not go to and fro, and on the server's own machine it is the clock of the machine.
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
        """A server that was asked then has just said that it is this moment."""
        self._heard_at = time.time()
        least, most = moment - self._heard_at, moment + _STEP - asked_at
        self._ahead = min(max(self._ahead, least), most)


def clock_of(server: Server) -> ServerClock:
    """The clock of a server, which is asked for it."""
    clock, asked_at = ServerClock(), time.time()
    seconds, micros = map(int, server.call("TIME"))
    clock.hear(seconds + micros // 1000 / 1000, asked_at)
    return clock

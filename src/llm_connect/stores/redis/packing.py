"""The number and state of a tracker in a server, as bytes that the Lua script can read too."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping

from llm_connect.budget.accounting.arguments import Limits
from llm_connect.stores.serialization import Row

#: The largest integer that a Lua number represents exactly. No figure exceeds it.
MOST = 2**53 - 1
#: The places in a state that a step can change, counted from 1 as in Lua.
CLOSED = 2
LIMITS = (5, 10, 15)
#: The number, the closed flag, the length of the name of the lease that keeps an allotment open, and the last step that
#: changed the window (0: no window); for each unit the limit (-1: none), spent, held, presumed and allotted amounts.
#: The name of the lease follows.
_STATE = struct.Struct("<qBBq15q")
#: The offset of the name of the lease.
STATE_SIZE: int = _STATE.size
_NO_LIMIT = -1
#: The number of a process's last step, and of the first entry that this step wrote.
LAST: struct.Struct = struct.Struct("<2q")


def limit_figure(limit: int | None) -> int:
    """The figure of a limit in a state."""
    return _NO_LIMIT if limit is None else limit


def new_state(number: int, *, closed: bool, limits: Limits, window: bool = False) -> list[int]:
    """The state of a tracker that has spent and held nothing.

    window: True if the first step gives the tracker a window.
    """
    figures = (figure for limit in limits for figure in (limit_figure(limit), 0, 0, 0, 0))
    return [number, int(closed), 0, int(window), *figures]


def packed_state(values: list[int]) -> bytes:
    """The packed state of a tracker without a lease."""
    return _STATE.pack(*values)


def has_window(state: bytes) -> bool:
    """True if the tracker with this state has a window."""
    return bool(_STATE.unpack_from(state)[3])


def states_of(data: bytes, windows: Mapping[int, str]) -> Iterator[tuple[int, Row]]:
    """The number of each tracker with its row: closed, lease of an allotment, five figures per unit, window."""
    at = 0
    while at < len(data):
        number, closed, size, _, *figures = _STATE.unpack_from(data, at)
        at += _STATE.size + size
        lease = data[at - size : at].decode() if size else None
        for place in (0, 5, 10):
            if figures[place] == _NO_LIMIT:
                figures[place] = None
        yield number, (closed, lease, *figures, windows.get(number))

"""A tracker in a server: its number and state, as bytes that the script reads as well."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping

from llm_connect.budget.accounting.arguments import Limits
from llm_connect.stores.serialization import Row

#: The largest integer that Lua's numbers hold exactly. No figure exceeds it.
MOST = 2**53 - 1
#: Places at which a step sets what it changes of a state, as Lua counts them.
CLOSED = 2
LIMITS = (5, 10, 15)
#: Number, closed, how long the name of the lease is that keeps a slice open, and which step has changed its window last
#: (0: it has none); for each unit limit (-1: none), spent, held, presumed and sliced. The name of the lease follows.
_STATE = struct.Struct("<qBBq15q")
#: Behind so many bytes the name of a lease stands.
STATE_SIZE: int = _STATE.size
_NO_LIMIT = -1
#: The number of the last step of a process, and of the first entry that it wrote.
LAST: struct.Struct = struct.Struct("<2q")


def limit_figure(limit: int | None) -> int:
    """A limit as it stands in a state."""
    return _NO_LIMIT if limit is None else limit


def new_state(number: int, *, closed: bool, limits: Limits, window: bool = False) -> list[int]:
    """Return the state of a tracker that has spent and held nothing.

    window: whether the first of all steps gives it one.
    """
    figures = (figure for limit in limits for figure in (limit_figure(limit), 0, 0, 0, 0))
    return [number, int(closed), 0, int(window), *figures]


def packed_state(values: list[int]) -> bytes:
    """The state of a tracker with these values, and without a lease."""
    return _STATE.pack(*values)


def has_window(state: bytes) -> bool:
    """True if the tracker with this state has a window."""
    return bool(_STATE.unpack_from(state)[3])


def states_of(data: bytes, windows: Mapping[int, str]) -> Iterator[tuple[int, Row]]:
    """Numbers of trackers, and of each closed, the lease of a slice, five figures for each unit, and its window."""
    at = 0
    while at < len(data):
        number, closed, size, _, *figures = _STATE.unpack_from(data, at)
        at += _STATE.size + size
        lease = data[at - size : at].decode() if size else None
        for place in (0, 5, 10):
            if figures[place] == _NO_LIMIT:
                figures[place] = None
        yield number, (closed, lease, *figures, windows.get(number))

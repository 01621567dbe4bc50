"""What stands in a server of a tracker: its number and state, as bytes that the script reads as well."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

from llm_connect.core.limits import Limits
from llm_connect.stores.rows import Row

#: What a number of Lua counts exactly. All figures are doubles, and no larger than this.
MOST = 2**53 - 1
#: Places at which a step sets what it changes of a state, as Lua counts them.
CLOSED = 2
LIMITS = (4, 9, 14)
#: Number, closed, and how long the name of the lease is that keeps a slice open; for each unit limit (-1: none), spent,
#: held, presumed and sliced. The name of the lease follows.
_STATE = struct.Struct("<dBB15d")
_NO_LIMIT = -1


def limit_figure(limit: int | None) -> int:
    """A limit as it stands in a state."""
    return _NO_LIMIT if limit is None else limit


def new_state(number: int, *, closed: bool, limits: Limits) -> list[int]:
    """What is in the state of a tracker that has spent and held nothing."""
    figures = (figure for limit in limits for figure in (limit_figure(limit), 0, 0, 0, 0))
    return [number, int(closed), 0, *figures]


def packed_state(values: list[int]) -> bytes:
    """The state of a tracker with these values, and without a lease."""
    return _STATE.pack(*values)


def states_of(data: bytes, at: int = 0) -> Iterator[tuple[int, Row]]:
    """Numbers of trackers, and of each closed, the lease of a slice, and five figures for each unit."""
    while at < len(data):
        number, closed, size, *figures = _STATE.unpack_from(data, at)
        at += _STATE.size + size
        row: list[Any] = [closed, data[at - size : at].decode() or None, *map(int, figures)]
        for place in (2, 7, 12):
            if row[place] == _NO_LIMIT:
                row[place] = None
        yield int(number), tuple(row)

"""The layout of a budget in a server: its keys, all in one slot of a cluster, and the forms of its values.

The Lua scripts read trackers, sums and windows too.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

from llm_connect.budget.accounting.ledger import By, LedgerEntry, Total
from llm_connect.budget.accounting.windows import Window
from llm_connect.budget.admission.arguments import Limits
from llm_connect.stores.serialization import Row, entry_of, window_row
from llm_connect.types.amounts import Amount

#: The version of this layout. A budget with another version is neither read nor written.
SCHEMA = "1"
_SPENDING = ("meta", "trackers", "changed", "holds", "leases", "owners", "ledger", "open", "totals", "labels", "lost")
NAMES = (*_SPENDING, "learned", "places", "windows", "waiters", "lasts", "allotments")
PREFIX = "llm-connect:{"

#: The largest integer that a Lua number represents exactly. No figure exceeds it.
MOST = 2**53 - 1
#: What a step can set, the closed flag and the limits: their places in the row of a tracker, each with the place in a
#: state, counted from 1 as in Lua.
SET = {0: 2, 2: 5, 7: 10, 12: 15}
#: The number, the closed flag, the length of the name of the lease that keeps an allotment open, and the last step that
#: changed the window (0: no window); for each unit the limit (-1: none), spent, held, presumed and allotted amounts.
#: The name of the lease follows.
STATE: struct.Struct = struct.Struct("<qBBq15q")
#: The place of the last step that changed the window.
WINDOW = 3
_NO_LIMIT = -1
#: The number of entries and their sums.
SUM: struct.Struct = struct.Struct("<4q")

#: Larger numbers stand for the entries of the current step; the script replaces them with the real numbers.
TO_COME = 10**18

#: Encodes compact JSON. `json.dumps` would make an encoder for each text.
text_of: Callable[[Any], str] = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode


class Keys:
    """The keys of the budget of this name."""

    def __init__(self, name: str) -> None:
        # Braces are quoted: they would end the part of the key that determines the slot.
        self._prefix = f"{PREFIX}{quote(name, safe='')}}}:"
        self.all: list[str] = [f"{self._prefix}{part}" for part in NAMES]
        self.channel: str = self.of("freed")

    def of(self, part: str) -> str:
        """The key of this part."""
        return f"{self._prefix}{part}"


def pairs(rows: list[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """The fields of a hash, each with its value."""
    return zip(rows[::2], rows[1::2], strict=True)


def limit_figure(limit: int | None) -> int:
    """The figure of a limit in a state."""
    return _NO_LIMIT if limit is None else limit


def new_state(number: int, *, closed: bool, limits: Limits, window: bool = False) -> list[int]:
    """The state of a tracker that has spent and held nothing, and has no lease.

    window: True if the first step gives the tracker a window.
    """
    figures = (figure for limit in limits for figure in (limit_figure(limit), 0, 0, 0, 0))
    return [number, int(closed), 0, int(window), *figures]


def states_of(data: bytes) -> Iterator[tuple[int, Row]]:
    """The number of each tracker with its state: closed, lease of an allotment, five figures per unit."""
    at = 0
    while at < len(data):
        number, closed, size, _, *figures = STATE.unpack_from(data, at)
        at += STATE.size + size
        lease = data[at - size : at].decode() if size else None
        for place in (0, 5, 10):
            if figures[place] == _NO_LIMIT:
                figures[place] = None
        yield number, (closed, lease, *figures)


def window_text(window: Window) -> str:
    """The text of a window."""
    period, ends_at, first, parts = window_row(window)
    return f"{period}|{ends_at!r}|{first}|{parts}"


def row_of_window(text: str) -> Row:
    """The row of the window in this text."""
    period, ends_at, first, parts = text.split("|")
    return period, float(ends_at), int(first), parts


def entry_from(text: bytes) -> LedgerEntry:
    """The entry in this text from the ledger."""
    numbers, row = parts_of_entry(text)
    return entry_of((numbers[0], *row))


def parts_of_entry(text: bytes) -> tuple[list[int], list[Any]]:
    """Split the text of an entry: its number, followed by its tracker's number if it can be amended; its row."""
    numbers, bracket, row = text.decode().partition("[")
    return [int(number) for number in numbers.split()], json.loads(bracket + row)


def sums_by(by: By, rows: list[bytes]) -> dict[str, Total]:
    """Sums by tracker, adapter, model or label, from the fields and values of a hash."""
    totals: dict[str, Total] = {}
    # Labels beyond the limit on their number share one field, which has the form of a kind.
    place = 0 if by == "label" else ("tracker", "adapter", "model").index(by)
    for name, text in pairs(rows):
        kind = json.loads(name)
        key = kind if isinstance(kind, str) else kind[place] or ""
        entries, *amount = SUM.unpack(text)
        totals[key] = totals.get(key, Total()).plus(entries, Amount(*amount))
    return dict(sorted(totals.items()))
